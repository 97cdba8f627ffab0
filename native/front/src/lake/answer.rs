//! The head of an answer, and whether it is the one to what was asked.

use super::Failure;
use crate::checksum::{Checksum, ChecksumKind};

/// No head is longer, and none has more headers.
pub(super) const HEAD_BYTES: usize = 64 << 10;
const HEADERS: usize = 100;

/// What is looked at.
const LENGTH: &str = "content-length";
const RANGE: &str = "content-range";
const ETAG: &str = "etag";
const ENCODING: &str = "transfer-encoding";
const CONNECTION: &str = "connection";
const TYPE: &str = "x-amz-checksum-type";
/// In the order in which they are preferred, with the bytes of each.
const CHECKSUMS: [(&str, ChecksumKind, usize); 3] = [
    ("x-amz-checksum-crc64nvme", ChecksumKind::Crc64Nvme, 8),
    ("x-amz-checksum-crc32c", ChecksumKind::Crc32c, 4),
    ("x-amz-checksum-crc32", ChecksumKind::Crc32, 4),
];
const KNOWN: [&str; 9] = [
    LENGTH,
    RANGE,
    ETAG,
    ENCODING,
    CONNECTION,
    TYPE,
    CHECKSUMS[0].0,
    CHECKSUMS[1].0,
    CHECKSUMS[2].0,
];

/// What was asked for, as far as answers are compared with it.
pub(super) struct Wanted<'a> {
    /// Empty: any version.
    pub(super) etag: &'a [u8],
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) whole: bool,
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head<'a> {
    pub(super) status: u16,
    /// Whether the connection may be used again.
    pub(super) persistent: bool,
    values: [Option<&'a [u8]>; KNOWN.len()],
}

impl<'a> Head<'a> {
    /// From the bytes of a head, its end included.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Failure> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        match answer.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Ok(_) => return Err(ask("an answer's head is malformed")),
            Err(error) => return Err(ask(&format!("an answer's head is malformed: {error}"))),
        }
        let mut values = [None; KNOWN.len()];
        for header in &*answer.headers {
            let known = KNOWN.iter().position(|name| header.name.eq_ignore_ascii_case(name));
            // Twice is as good as something else: which one holds would be a guess.
            if let Some(known) = known
                && values[known].replace(header.value).is_some()
            {
                return Err(ask("an answer says one thing twice"));
            }
        }
        let mut head = Self { status: answer.code.unwrap_or(0), persistent: false, values };
        let closes = head.value(CONNECTION).is_some_and(|value| {
            value
                .split(|byte| *byte == b',')
                .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"))
        });
        head.persistent = answer.version == Some(1) && !closes;
        Ok(head)
    }

    /// Promise L1: an error unless this answer brings exactly these bytes of that version.
    pub(super) fn check(&self, wanted: &Wanted<'_>) -> Result<(), Failure> {
        if self.status != if wanted.whole { 200 } else { 206 } {
            return Err(ask(&format!("the server answered {}", self.status)));
        }
        if !wanted.etag.is_empty() {
            let Some(etag) = self.value(ETAG) else { return Err(ask("an answer has no ETag")) };
            if unquoted(etag) != unquoted(wanted.etag) {
                return Err(Failure::OtherVersion);
            }
        }
        if !wanted.whole {
            let range = self.value(RANGE).and_then(parse_range);
            let end = wanted.offset + wanted.length;
            let right = range.is_some_and(|(first, last, size)| {
                (first, last.checked_add(1)) == (wanted.offset, Some(end)) && size >= end
            });
            if !right {
                return Err(ask("a range was answered with another one"));
            }
        }
        if self.value(ENCODING).is_some() {
            return Err(ask("an answer comes in chunks"));
        }
        if self.value(LENGTH).and_then(parse_number) != Some(wanted.length) {
            return Err(ask("an answer has another length than asked for"));
        }
        Ok(())
    }

    /// The full-object checksum that the answer carries. A composite one (of a multipart upload's
    /// parts) says nothing about the bytes as a whole, and is none.
    pub(super) fn checksum(&self) -> Result<Option<Checksum>, Failure> {
        if !self.value(TYPE).is_some_and(|kind| kind.eq_ignore_ascii_case(b"FULL_OBJECT")) {
            return Ok(None);
        }
        for (name, kind, width) in CHECKSUMS {
            let Some(text) = self.value(name) else { continue };
            let raw = base64_simd::STANDARD.decode_to_vec(text).unwrap_or_default();
            if raw.len() != width {
                return Err(ask("a checksum is malformed"));
            }
            let value = raw.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
            return Ok(Some(Checksum { kind, value }));
        }
        Ok(None)
    }

    fn value(&self, name: &str) -> Option<&'a [u8]> {
        let at = KNOWN.iter().position(|known| *known == name)?;
        self.values[at].map(<[u8]>::trim_ascii)
    }
}

/// How long the head at the beginning of `bytes` is; `None` if it goes on.
pub(super) fn head_length(bytes: &[u8]) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    bytes.windows(END.len()).position(|window| window == END).map(|at| at + END.len())
}

pub(super) fn ask(reason: &str) -> Failure {
    Failure::Ask(reason.to_owned())
}

/// What a fuzzer does: any head, and what is made of it.
pub(crate) fn fuzz(bytes: &[u8]) {
    let Some(length) = head_length(bytes) else { return };
    assert!(length <= bytes.len());
    if let Ok(head) = Head::parse(&bytes[..length]) {
        for whole in [false, true] {
            let _ = head.check(&Wanted { etag: b"\"1\"", offset: 5, length: 5, whole });
        }
        let _ = head.checksum();
    }
}

/// An `ETag` without what servers and proxies spell differently: weak or not, quoted or not.
fn unquoted(etag: &[u8]) -> &[u8] {
    let etag = etag.strip_prefix(b"W/").unwrap_or(etag);
    etag.strip_prefix(b"\"").and_then(|etag| etag.strip_suffix(b"\"")).unwrap_or(etag)
}

fn parse_number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| str::from_utf8(text).ok()?.parse().ok())?
}

/// First, last and size of `bytes 0-9/10`.
fn parse_range(text: &[u8]) -> Option<(u64, u64, u64)> {
    let (span, size) = str::from_utf8(text).ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let number = |text: &str| parse_number(text.as_bytes());
    Some((number(first)?, number(last)?, number(size)?))
}
