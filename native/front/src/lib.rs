//! The native front of tierfs: between the kernel and the control plane.
//!
//! ```text
//!   kernel --/dev/fuse--> serve ------> index, cache         what is known and cached: answered here
//!      ^                    |  `------> opened, sys/device   whole files: the kernel reads by itself
//!      |                    |  `------> lake                 what is not cached: fetched and kept
//!      |                    v
//!      `--- answers --- upcall/client <--socket, arena--> control plane (Python): everything else
//! ```
//!
//! - `fuse/` what the kernel's messages look like
//! - `shared` what outlives this process: requests without an answer, files that are open
//! - `serve/` from a request to its answer (`write`: of what is written back); `front` what its threads share
//! - `index/` LMDB: names and the journal as the control plane writes them, the cache as we do; `attributes` what
//!   is shown of it
//! - `cache/` cached copies: verified, filled, evicted; `opened` how each open inode is read
//! - `lake/` the object store; `queue` in which order it is asked, and with how much memory;
//!   `space` room on disk, `health` trouble with it; `streams` which bytes will be read next;
//!   `checksum` of blocks and objects
//! - `fetching` the threads that fetch and keep, and a disk that holds them up
//! - `errands` commands of the control plane's, and what else is done beside requests
//! - `upcall/` what the control plane is asked; `arena` where large answers are put
//! - `sys/` system calls
//!
//! A library for its tests' sake; `main` is the one program.

#![allow(clippy::similar_names)] // ino and inode are the field's own words.

pub mod arena;
pub mod attributes;
pub mod cache;
pub mod checksum;
pub mod errands;
pub mod fetching;
pub mod front;
pub mod fuse;
pub mod fuzzing;
pub mod gate;
#[cfg(test)]
mod golden;
pub mod health;
pub mod index;
pub mod lake;
pub mod log;
pub mod opened;
pub mod options;
pub mod queue;
pub mod run;
pub mod serve;
pub mod shared;
pub mod space;
pub mod stats;
pub mod streams;
pub mod sys;
pub mod upcall;
