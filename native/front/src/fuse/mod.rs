//! The FUSE protocol: what the kernel's messages look like, and nothing about what they mean here.
//!
//! - `abi`: the structs and numbers of `include/uapi/linux/fuse.h`, 7.31 to 7.45
//! - `request`: a message from the kernel, taken apart
//! - `reply`: answers, put together
//! - `init`: what both sides can do

pub mod abi;
pub mod init;
pub mod reply;
pub mod request;
