//! Many objects at once, without uploads: lakes for benchmarks.
//!
//! What they hold can be computed elsewhere. With `PERIOD` = 1,048,573 (a prime) and 32-bit
//! numbers in decimal:
//!
//! ```text
//! stream(seed)      = SHA-256("lakesim:SEED:0") + SHA-256("lakesim:SEED:1") + ..., cut to PERIOD
//!                     bytes and repeated without end
//! variants(size)    = 2^27 / size, but at least 16 and at most 1024
//! variant(key,size) = CRC-32(key) mod variants(size)
//! body(key)         = size bytes of stream(seed) from offset 1021 * variant(key, size)
//! ```
//!
//! So bodies are slices of one stream, which is in memory once; objects of one variant are one
//! object under many names. The period is odd, so that no two aligned blocks of a body are equal.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use s3s::crypto::{Checksum as _, Crc32, Md5, Sha256};
use serde::Deserialize;

use super::Backend;
use super::checksums::{Algorithm, Sum};
use super::object::{Content, Description, Object, hex};
use super::store::{Store, Version, VersionId, Versioning, now_s};

const PERIOD: usize = 1_048_573;
const STRIDE: usize = 1021;
/// A body is not longer than what fits comfortably in memory beside its client.
const MAX_SIZE: usize = 8 << 30;

/// A request to the admin port: *count* objects of *size* bytes.
///
/// Object *i* has the key `{prefix}{i:08}{suffix}`, or `{prefix}{i / fanout:05}/{i:08}{suffix}`
/// where a fanout is given.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeedRequest {
    bucket: String,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    suffix: String,
    count: usize,
    size: usize,
    #[serde(default)]
    seed: u32,
    fanout: Option<usize>,
}

impl SeedRequest {
    fn key(&self, index: usize) -> String {
        let Self { prefix, suffix, .. } = self;
        match self.fanout {
            Some(fanout) => format!("{prefix}{:05}/{index:08}{suffix}", index / fanout),
            None => format!("{prefix}{index:08}{suffix}"),
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.size > MAX_SIZE {
            return Err(format!("size is at most {MAX_SIZE}"));
        }
        if !s3s::path::check_bucket_name(&self.bucket) {
            return Err(format!("no name for a bucket: {}", self.bucket));
        }
        if self.fanout == Some(0) {
            return Err("fanout is at least 1".into());
        }
        Ok(())
    }
}

impl Backend {
    /// Makes the objects, and the bucket if there is none of that name. Only for buckets without
    /// versions.
    pub(crate) fn seed(&self, request: &SeedRequest) -> Result<(), String> {
        request.check()?;
        let mut variants = Variants::new(request.seed, request.size);
        let objects = (0..request.count).map(|index| {
            let key = request.key(index);
            let object = variants.of(&key);
            (key, object)
        });
        let objects = objects.collect::<Vec<_>>(); // made before the lock is taken
        let store: &mut Store = &mut self.store();
        let bucket = store.buckets.entry(request.bucket.clone()).or_default();
        if bucket.versioning != Versioning::Never {
            return Err("the bucket has versions".into());
        }
        let modified_s = now_s();
        for (key, object) in objects {
            let version = Version { id: VersionId::NULL, modified_s, object: Some(object) };
            bucket.entries.insert(key, vec![version]);
        }
        Ok(())
    }
}

/// The distinct bodies of one size.
struct Variants {
    stream: Bytes,
    size: usize,
    count: u32,
    made: HashMap<u32, Arc<Object>>,
}

impl Variants {
    fn new(seed: u32, size: usize) -> Self {
        let count = ((1 << 27) / size.max(1)).clamp(16, 1024);
        let stream = stream(seed, size + STRIDE * count);
        let count = u32::try_from(count).expect("at most 1024");
        Self { stream, size, count, made: HashMap::new() }
    }

    fn of(&mut self, key: &str) -> Arc<Object> {
        let variant = Crc32::checksum_u32(key.as_bytes()) % self.count;
        let make = || {
            let offset = STRIDE * variant as usize;
            let bytes = self.stream.slice(offset..offset + self.size);
            Arc::new(Object {
                etag: hex(&Md5::checksum(&bytes)),
                checksum: Sum::of(Algorithm::Crc64Nvme, &bytes).into(),
                content: Content::from(bytes),
                description: Description::default(),
                tags: Vec::new(),
            })
        };
        Arc::clone(self.made.entry(variant).or_insert_with(make))
    }
}

fn stream(seed: u32, length: usize) -> Bytes {
    let hashes = (0_u32..).flat_map(|n| Sha256::checksum(format!("lakesim:{seed}:{n}").as_bytes()));
    let period = hashes.take(PERIOD.min(length)).collect::<Vec<u8>>();
    let mut stream = BytesMut::with_capacity(length);
    while stream.len() < length {
        stream.extend_from_slice(&period[..period.len().min(length - stream.len())]);
    }
    stream.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_repeats_after_its_period() {
        let stream = stream(7, 2 * PERIOD + 100);
        assert_eq!(stream[..100], stream[PERIOD..PERIOD + 100]);
        assert_eq!(stream[..100], stream[2 * PERIOD..]);
        assert_eq!(stream[..32], Sha256::checksum(b"lakesim:7:0"));
        assert_eq!(stream[32..64], Sha256::checksum(b"lakesim:7:1"));
    }

    #[test]
    fn objects_of_one_variant_share_their_body() {
        let mut variants = Variants::new(0, 8 << 20);
        assert_eq!(variants.count, 16);
        for n in 0..200 {
            variants.of(&n.to_string());
        }
        assert_eq!(variants.made.len(), 16);
    }
}
