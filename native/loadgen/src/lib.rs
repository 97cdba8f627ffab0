//! The compiled clients of the benchmark. `main.rs` says what each of them stands for.
//!
//! ```text
//! content, safetensors        what the bytes of a file should be
//! dataset, samples            files and ranges, and the comparison with what was read
//! input, memory               what is made ready: lines, sizes, bodies
//! gate, report                threads that start together; latencies
//! failure, bus_error          why a run ends early
//! http, connection, remote    the client of get and put
//! generate, sequential, small, random, mapped, get, put, train, walk,
//! checkpoint, create, first   one for each subcommand
//! ```
//!
//! A reader is an ordinary program: open, read, pread, mmap, close, without advice to the kernel.
//! Between the common start and the end of a run it does nothing else, but for hashing what it
//! read; what it compares with was computed before.

#![deny(unsafe_code)]

pub mod bus_error;
pub mod checkpoint;
pub mod connection;
pub mod content;
pub mod create;
pub mod dataset;
pub mod failure;
pub mod first;
pub mod gate;
pub mod generate;
pub mod get;
pub mod http;
pub mod input;
pub mod mapped;
pub mod memory;
pub mod put;
pub mod random;
pub mod remote;
pub mod report;
pub mod safetensors;
pub mod samples;
pub mod sequential;
pub mod small;
pub mod train;
pub mod walk;
