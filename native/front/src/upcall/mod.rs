//! Upcalls: what the front asks of the control plane, and the other way round.
//!
//! - `wire`: messages as bytes
//! - `client`: messages that wait for an answer, over the deaths of either side

pub mod client;
pub mod wire;
