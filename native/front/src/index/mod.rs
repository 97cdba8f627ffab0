//! The index: LMDB, of which the control plane writes `names/` and this front `cache/`.
//!
//! - `lmdb`: the environments; all of the unsafe code
//! - `records`: the byte tables of `tierfs/index/schema.py`
//! - `names`, `cache`, `journal`: what is asked of each environment

pub mod cache;
pub mod journal;
pub mod lmdb;
pub mod names;
pub mod records;
