//! Bytes of the lake, fetched by the front itself.
//!
//! ```text
//! Lake::get -> Limiter             may one more request be in flight?
//!           -> signature::Signer   the request's head, signed now
//!           -> Pool                an idle connection, or a new one
//!           -> answer::Head        is it the answer to this, of this version?
//!           -> the caller's buffer
//! ```
//!
//! - `s3` one GET with its retries; `limiter` how many at once
//! - `connection` TCP and TLS, and which connections are kept
//! - `signature` what is sent; `answer` what comes back
//! - `source` what the control plane says of the lake
//!
//! A client of one request, no more. What it does not understand or cannot repair (another region,
//! expired credentials, an archived object, answers in chunks) is `Failure::Ask`: the control
//! plane's client knows the rest, and its words are those that a person sees.
//!
//! It blocks, on HTTP/1.1 of its own. Each caller is a thread anyway, which has nothing else to do
//! until the bytes are there. Measured for a signed GET of 110 KB over plain HTTP, 16 in flight: 40
//! us of CPU (8 less unsigned); on another day, hyper took 47, reqwest 64 and the SDK 199.
//!
//! It keeps promises L1, L2 and L4 of `tierfs/lake/protocol.py` (L3 is about listings), with a
//! bounded number of attempts for the deadline.

pub(crate) mod answer;
mod connection;
mod limiter;
mod s3;
mod signature;
mod source;
#[cfg(test)]
mod tests;

pub use s3::{Counters, Lake};
pub use source::Source;

/// Why there are no bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The key holds another version now, or the server answers with another one.
    OtherVersion,
    /// Anything else, and why: the control plane is to be asked.
    Ask(String),
}
