//! Why a run ends early, and the exit code that says so.
//!
//! ```text
//! 2  Usage   the command line or a line of standard input makes no sense (clap's code, too)
//! 3  Wrong   a byte, or the length, is not what the data set has there
//! 4  Io      a file is missing, a call failed, a server answered something else
//! ```

use std::fmt;
use std::io;

/// The end of a run; no result is printed.
#[derive(Debug)]
pub enum Failure {
    Usage(String),
    /// The first wrong byte of the file is at `offset`.
    Wrong {
        path: String,
        offset: u64,
    },
    /// The file ends elsewhere.
    WrongLength {
        path: String,
        got: u64,
        wanted: u64,
    },
    Io {
        path: String,
        error: io::Error,
    },
    /// A server's answer that is not the object.
    Answer {
        path: String,
        what: String,
    },
}

impl Failure {
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Wrong { .. } | Self::WrongLength { .. } => 3,
            Self::Io { .. } | Self::Answer { .. } => 4,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) => f.write_str(what),
            Self::Wrong { path, offset } => write!(f, "{path}: wrong byte at offset {offset}"),
            Self::WrongLength { path, got, wanted } if got > wanted => {
                write!(f, "{path}: goes on beyond offset {wanted}, where it should end")
            }
            Self::WrongLength { path, got, wanted } => {
                write!(f, "{path}: ends at offset {got}, and should have {wanted} bytes")
            }
            Self::Io { path, error } => write!(f, "{path}: {error}"),
            Self::Answer { path, what } => write!(f, "{path}: {what}"),
        }
    }
}

impl std::error::Error for Failure {}
