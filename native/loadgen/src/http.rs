//! What the bare client knows of HTTP/1.1: plain URLs, and the head of an answer.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// The most headers that an answer may have.
const HEADERS: usize = 64;

/// `http://authority/target`.
#[derive(Debug, PartialEq, Eq)]
pub struct Url<'a> {
    pub authority: &'a str,
    /// Path and query, as they go into the request.
    pub target: &'a str,
}

impl<'a> Url<'a> {
    pub fn parse(url: &'a [u8]) -> Option<Self> {
        let rest = std::str::from_utf8(url).ok()?.strip_prefix("http://")?;
        let at = rest.find('/')?;
        let (authority, target) = rest.split_at(at);
        let plain = |byte: u8| byte.is_ascii_graphic();
        (!authority.is_empty() && rest.bytes().all(plain)).then_some(Self { authority, target })
    }
}

/// The address of `host` or `host:port`.
pub fn resolve(authority: &str) -> io::Result<SocketAddr> {
    let host = if authority.contains(':') { authority.into() } else { format!("{authority}:80") };
    host.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the host has no address"))
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    /// Of the head itself, in bytes.
    pub size: usize,
    /// Of the body; None where the server does not say it.
    pub length: Option<u64>,
    pub chunked: bool,
    pub etag: Option<String>,
    /// The server closes the connection after this answer.
    pub close: bool,
}

/// The head that `bytes` begin with; None while it is not complete.
pub fn parse_head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let malformed = |what: &str| invalid(format!("malformed answer: {what}"));
    let parsed = answer.parse(bytes).map_err(|error| malformed(&error.to_string()))?;
    let httparse::Status::Complete(size) = parsed else {
        return Ok(None);
    };
    let mut head = Head {
        status: answer.code.unwrap_or(0),
        size,
        length: None,
        chunked: false,
        etag: None,
        close: answer.version == Some(0),
    };
    for header in answer.headers.iter() {
        let text = || String::from_utf8_lossy(header.value);
        match header.name {
            name if name.eq_ignore_ascii_case("content-length") => {
                let length = text().trim().parse().map_err(|_| malformed("its length"))?;
                if head.length.replace(length).is_some_and(|other| other != length) {
                    return Err(malformed("two lengths"));
                }
            }
            name if name.eq_ignore_ascii_case("transfer-encoding") => head.chunked = true,
            name if name.eq_ignore_ascii_case("etag") => head.etag = Some(text().into_owned()),
            name if name.eq_ignore_ascii_case("connection") => {
                head.close |= text().to_ascii_lowercase().contains("close");
            }
            _ => {}
        }
    }
    Ok(Some(head))
}

/// The error of an answer that makes no sense.
pub(crate) fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_complete_only_with_its_empty_line() {
        let text =
            b"HTTP/1.1 206 Partial Content\r\nContent-Length: 12\r\neTag: \"ab\"\r\n\r\nbody";
        let size = text.len() - 4;
        for end in 0..size {
            assert_eq!(parse_head(&text[..end]).unwrap(), None);
        }
        let etag = Some("\"ab\"".into());
        let wanted =
            Head { status: 206, size, length: Some(12), chunked: false, etag, close: false };
        assert_eq!(parse_head(text).unwrap(), Some(wanted));
    }

    #[test]
    fn what_ends_a_connection_is_seen() {
        let head = |text: &str| parse_head(text.as_bytes()).unwrap().unwrap();
        assert!(head("HTTP/1.0 200 OK\r\n\r\n").close);
        assert!(head("HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n").close);
        assert!(!head("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n").close);
    }

    #[test]
    fn chunked_and_lengthless_answers_are_told_apart() {
        let head = parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert!(head.unwrap().unwrap().chunked);
        let head = parse_head(b"HTTP/1.1 200 OK\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.length, head.chunked), (None, false));
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in [
            "SMTP ready\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        ] {
            assert!(parse_head(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn urls_are_plain_http_with_a_path() {
        let url = Url::parse(b"http://127.0.0.1:9000/b/k%20y?X-Amz-Signature=1").unwrap();
        assert_eq!(url.authority, "127.0.0.1:9000");
        assert_eq!(url.target, "/b/k%20y?X-Amz-Signature=1");
        for wrong in ["https://a/b", "http:///b", "http://a", "http://a/b c", "http://a/b\r\nX: y"]
        {
            assert_eq!(Url::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
