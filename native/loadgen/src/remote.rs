//! The one server that a run's presigned URLs name.

use std::net::SocketAddr;
use std::path::Path;

use crate::failure::Failure;
use crate::http::{self, Url};

/// How much of a refusal's body is shown.
const SHOWN: usize = 512;

#[derive(Debug)]
pub struct Server {
    authority: String,
    pub address: SocketAddr,
}

impl Server {
    /// The part of `url` that goes into a request; the first URL tells the server, which all
    /// others must share.
    pub fn target(server: &mut Option<Self>, url: &[u8]) -> Result<String, Failure> {
        let shown = String::from_utf8_lossy(url);
        let parsed = Url::parse(url)
            .ok_or_else(|| Failure::Usage(format!("{shown:?} is no http://HOST[:PORT]/... URL")))?;
        match server {
            None => {
                let address = http::resolve(parsed.authority)
                    .map_err(|error| Failure::Io { path: parsed.authority.into(), error })?;
                *server = Some(Self { authority: parsed.authority.into(), address });
            }
            Some(known) if known.authority != parsed.authority => {
                let known = &known.authority;
                return Err(Failure::Usage(format!("{shown}: not at {known}, as the others")));
            }
            Some(_) => {}
        }
        Ok(parsed.target.into())
    }

    /// The server, once all URLs were read.
    pub fn known(server: Option<Self>) -> Result<Self, Failure> {
        server.ok_or_else(|| Failure::Usage("standard input has no line".into()))
    }

    /// Request line and Host header.
    pub fn begin(&self, request: &mut Vec<u8>, method: &str, target: &str) {
        for piece in [method, " ", target, " HTTP/1.1\r\nHost: ", &self.authority, "\r\n"] {
            request.extend_from_slice(piece.as_bytes());
        }
    }
}

/// The failure of a request for the object `path` that was answered with another status.
#[must_use]
pub fn refused(path: &Path, status: u16, body: &[u8]) -> Failure {
    // The body of a success is data, and says nothing.
    let shown = if status < 300 { b"" } else { &body[..body.len().min(SHOWN)] };
    let shown = String::from_utf8_lossy(shown);
    let what = format!("the server answered {status} {}", shown.trim_end());
    Failure::Answer { path: path.display().to_string(), what }
}
