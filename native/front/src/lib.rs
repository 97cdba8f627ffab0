//! The native front of tierfs: between the kernel and the control plane.
//!
//! ```text
//!   kernel --/dev/fuse--> serve ------> index, copies        what is known and cached: answered here
//!      ^                    |  `------> opened, sys/device   whole files: the kernel reads by itself
//!      |                    v
//!      `--- answers --- upcall/client <--socket, arena--> control plane (Python): everything else
//! ```
//!
//! - `fuse/` what the kernel's messages look like
//! - `shared` what outlives this process: requests without an answer, files that are open
//! - `serve/` from a request to its answer; `front` what its threads share
//! - `index/` LMDB, what is known of names and of the cache; `attributes` what is shown of it
//! - `checksum` what blocks and objects are checked by
//! - `copies` cached copies, verified; `opened` how each open inode is read
//! - `queue` requests to the lake that wait, and the memory that they may fill
//! - `space` room on the cache disk, and trouble with it
//! - `streams` which reads belong together, and what will be read next
//! - `upcall/` what the control plane is asked; `arena` where large answers are put
//! - `sys/` system calls
//!
//! A library for its tests' sake; `main` is the one program.

#![allow(clippy::similar_names)] // ino and inode are the field's own words.

pub mod arena;
pub mod attributes;
pub mod checksum;
pub mod copies;
pub mod front;
pub mod fuse;
pub mod fuzzing;
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
