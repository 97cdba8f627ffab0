//! The index as this front reads it: LMDB, beside the control plane that writes it.
//!
//! - `lmdb`: the environments; all of the unsafe code
//! - `records`: the byte tables of `tierfs/index/schema.py`
//! - `names`, `cache`: what is asked of each environment

pub mod cache;
pub mod lmdb;
pub mod names;
pub mod records;
