//! An object: its bytes, and what it says about them.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use s3s::Body;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::Metadata;

use super::checksums::{Algorithm, Hasher, ObjectChecksum};

/// A stored object. Shared, and never changed once it is in the store: to change its tags is to
/// replace it by a copy that shares its bytes.
#[derive(Clone)]
pub(crate) struct Object {
    pub(crate) content: Content,
    /// Without quotes.
    pub(crate) etag: String,
    pub(crate) checksum: ObjectChecksum,
    pub(crate) description: Description,
    pub(crate) tags: Tags,
}

pub(crate) type Tags = Vec<(String, String)>;

/// The headers that are kept with an object and given back with it.
#[derive(Clone, Default)]
pub(crate) struct Description {
    pub(crate) metadata: Option<Metadata>,
    pub(crate) content_type: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_language: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) cache_control: Option<String>,
}

/// The description in a request's fields.
macro_rules! description {
    ($request:expr) => {
        $crate::backend::object::Description {
            metadata: $request.metadata.take(),
            content_type: $request.content_type.take(),
            content_encoding: $crate::backend::object::without_chunking(
                $request.content_encoding.take(),
            ),
            content_language: $request.content_language.take(),
            content_disposition: $request.content_disposition.take(),
            cache_control: $request.cache_control.take(),
        }
    };
}
pub(crate) use description;

/// The content encoding without `aws-chunked`, which describes the upload and not the object.
pub(crate) fn without_chunking(encoding: Option<String>) -> Option<String> {
    let kept = encoding?
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty() && *name != "aws-chunked")
        .collect::<Vec<_>>()
        .join(",");
    (!kept.is_empty()).then_some(kept)
}

/// Bytes in the parts in which they were uploaded; shared, never copied.
#[derive(Clone, Default)]
pub(crate) struct Content {
    parts: Vec<Bytes>,
    length: u64,
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::from(vec![bytes])
    }
}

impl From<Vec<Bytes>> for Content {
    fn from(parts: Vec<Bytes>) -> Self {
        let length = parts.iter().map(|part| part.len() as u64).sum();
        Self { parts, length }
    }
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    pub(crate) fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// Where part *number*, from 1, lies.
    pub(crate) fn part_range(&self, number: usize) -> Option<Range<u64>> {
        let size = self.parts.get(number.checked_sub(1)?)?.len() as u64;
        let start = self.parts[..number - 1].iter().map(|part| part.len() as u64).sum();
        Some(start..start + size)
    }

    /// The bytes in *range*, which must lie within.
    pub(crate) fn slice(&self, range: Range<u64>) -> Self {
        let mut found = Vec::new();
        let mut start = 0;
        for part in &self.parts {
            let end = start + part.len() as u64;
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                let within = |at: u64| usize::try_from(at - start).expect("less than a part");
                found.push(part.slice(within(from)..within(to)));
            }
            start = end;
        }
        Self::from(found)
    }

    pub(crate) fn md5(&self) -> [u8; 16] {
        let mut hasher = Md5::new();
        self.parts.iter().for_each(|part| hasher.update(part));
        hasher.finalize()
    }

    pub(crate) fn checksum(&self, algorithm: Algorithm) -> ObjectChecksum {
        let mut hasher = Hasher::new(algorithm);
        self.parts.iter().for_each(|part| hasher.update(part));
        hasher.finish().into()
    }

    /// All of it in one piece; copied if it is in several.
    pub(crate) fn into_bytes(mut self) -> Bytes {
        if self.parts.len() == 1 { self.parts.remove(0) } else { self.parts.concat().into() }
    }

    pub(crate) fn into_body(mut self) -> Body {
        match self.parts.len() {
            0 => Body::empty(),
            1 => Body::from(self.parts.remove(0)),
            _ => Body::http_body(Pieces { parts: self.parts.into(), left: self.length }),
        }
    }
}

/// A body of several pieces whose length is known.
struct Pieces {
    parts: VecDeque<Bytes>,
    left: u64,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = self.parts.pop_front();
        self.left -= next.as_ref().map_or(0, |part| part.len() as u64);
        Poll::Ready(next.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        Content::from(vec![
            Bytes::from_static(b"abc"),
            Bytes::new(),
            Bytes::from_static(b"defgh"),
            Bytes::from_static(b"i"),
        ])
    }

    #[test]
    fn every_slice_of_several_parts() {
        let whole = b"abcdefghi";
        for from in 0..=9_usize {
            for to in from..=9 {
                let slice = content().slice(from as u64..to as u64);
                assert_eq!(slice.len(), (to - from) as u64);
                assert_eq!(slice.into_bytes(), whole[from..to]);
            }
        }
    }

    #[test]
    fn parts_are_numbered_from_one() {
        assert_eq!(content().part_range(0), None);
        assert_eq!(content().part_range(3), Some(3..8));
        assert_eq!(content().part_range(5), None);
    }

    #[test]
    fn chunking_is_no_encoding() {
        let of = |text: &str| without_chunking(Some(text.into()));
        assert_eq!(of("aws-chunked"), None);
        assert_eq!(of("aws-chunked, gzip"), Some("gzip".into()));
        assert_eq!(of("gzip,aws-chunked"), Some("gzip".into()));
    }
}
