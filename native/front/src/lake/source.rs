//! What the control plane says of the lake.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// Where a lake is, who asks, and how. Its text shows no secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// `http` or `https`.
    pub scheme: String,
    /// A name or an address, of IPv6 without brackets.
    pub host: String,
    pub port: u16,
    /// What stands before an object's key in a request's target, percent-encoded:
    /// `/bucket/prefix/`.
    pub path: Vec<u8>,
    pub region: String,
    /// Empty: nobody, requests are not signed.
    pub access_key: String,
    pub secret_key: String,
    pub token: String,
    /// Sent and signed with each GET. Names in lower case.
    pub headers: Vec<(String, String)>,
    /// What to trust instead of the system's certificates.
    pub ca_bundle: Option<PathBuf>,
    pub connections: usize,
    /// An answer that makes no progress for this long is given up.
    pub stall: Duration,
}

impl Source {
    /// From the tail of a message. `None`: there is no lake for the front, or this is not one.
    ///
    /// Twelve strings, each behind its length (2 bytes, little-endian): scheme, host, port, path,
    /// region, access key, secret key, token, headers (lines of `name: value`), CA bundle,
    /// connections, stall in ms. Numbers are decimal.
    pub fn parse(tail: &[u8]) -> Option<Self> {
        let mut rest = tail;
        let mut fields = [&[][..]; 12];
        for field in &mut fields {
            let (length, after) = rest.split_first_chunk()?;
            (*field, rest) = after.split_at_checked(u16::from_le_bytes(*length).into())?;
        }
        let [scheme, host, port, path, region, access_key, .., ca_bundle, connections, stall] =
            fields;
        let [secret_key, token, headers] = [fields[6], fields[7], fields[8]];
        let source = Self {
            scheme: text(scheme)?,
            host: text(host)?.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: text(port)?.parse().ok()?,
            path: path.to_owned(),
            region: text(region)?,
            access_key: text(access_key)?,
            secret_key: text(secret_key)?,
            token: text(token)?,
            headers: parse_headers(headers)?,
            ca_bundle: (!ca_bundle.is_empty()).then(|| OsStr::from_bytes(ca_bundle).into()),
            connections: text(connections)?.parse().ok().filter(|number| *number > 0)?,
            stall: Duration::from_millis(
                text(stall)?.parse::<u32>().ok().filter(|ms| *ms > 0)?.into(),
            ),
        };
        let known = matches!(&source.scheme[..], "http" | "https");
        let target = path.starts_with(b"/") && path.ends_with(b"/");
        let visible = path.iter().chain(host).all(u8::is_ascii_graphic);
        (known && target && visible && !host.is_empty() && rest.is_empty()).then_some(source)
    }

    /// The host, with the port unless it is the scheme's own: what the server is called.
    pub fn authority(&self) -> String {
        let host = &self.host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        match (&self.scheme[..], self.port) {
            ("http", 80) | ("https", 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// Whether the two differ in nothing, or in their credentials alone.
    pub fn same_but_for_credentials(&self, other: &Self) -> bool {
        let Self { access_key, secret_key, token, .. } = self.clone();
        Self { access_key, secret_key, token, ..other.clone() } == *self
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        formatter
            .debug_struct("Source")
            .field("scheme", &self.scheme)
            .field("authority", &self.authority())
            .field("path", &String::from_utf8_lossy(&self.path))
            .field("region", &self.region)
            .field("anonymous", &self.access_key.is_empty())
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

/// Text that can stand in the head of a request: no line ends there but our own.
fn text(bytes: &[u8]) -> Option<String> {
    let text = str::from_utf8(bytes).ok()?;
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}

fn parse_headers(lines: &[u8]) -> Option<Vec<(String, String)>> {
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let line = text(line)?;
            let (name, value) = line.split_once(':')?;
            let right = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            let known = !name.is_empty() && name.bytes().all(right);
            known.then(|| (name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::tests::{fields, tail};

    #[test]
    fn a_source_is_understood_or_none_and_shows_no_secrets() {
        let mut good = fields("9000");
        (good[1], good[7], good[8]) = ("::1", "token", "x-secret: shh");
        let whole = tail(&good);
        let source = Source::parse(&whole).unwrap();
        assert_eq!(source.authority(), "[::1]:9000");
        assert_eq!(source.path, b"/bucket/a%20b/");
        assert_eq!(source.headers, [("x-secret".to_owned(), "shh".to_owned())]);
        assert_eq!((source.connections, source.stall), (4, Duration::from_secs(10)));
        assert_eq!(source.ca_bundle, None);
        let text = format!("{source:?}");
        assert!(
            ["hush", "token", "shh", "AKID"].iter().all(|secret| !text.contains(secret)),
            "{text}"
        );
        for cut in 0..whole.len() {
            assert!(Source::parse(&whole[..cut]).is_none());
        }
        assert!(Source::parse(&[&whole[..], b"x"].concat()).is_none());
        for (field, wrong) in [
            (0, "ftp"),
            (1, ""),
            (1, "a b"),
            (2, "70000"),
            (3, "bucket/"),
            (3, "/bucket"),
            (3, "/a b/"),
            (4, "a\nb"),
            (7, "a\r\nb"),
            (8, "no colon"),
            (8, "a b: c"),
            (10, "0"),
            (11, "0"),
            (11, "18446744073709551615"),
            (11, ""),
        ] {
            let mut fields = good;
            fields[field] = wrong;
            assert!(Source::parse(&tail(&fields)).is_none(), "{field} {wrong:?}");
        }
    }
}
