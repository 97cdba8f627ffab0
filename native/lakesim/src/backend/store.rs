//! What the server holds: buckets, keys, versions. Plain data behind one lock; no S3 types.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use s3s::{S3Result, s3_error};

use super::multipart::Upload;
use super::object::Object;

#[derive(Default)]
pub(crate) struct Store {
    pub(crate) buckets: BTreeMap<String, Bucket>,
    pub(crate) uploads: BTreeMap<String, Upload>,
    /// The last number given out, to a version or an upload.
    serial: u64,
}

impl Store {
    pub(crate) fn bucket(&self, name: &str) -> S3Result<&Bucket> {
        self.buckets.get(name).ok_or_else(|| s3_error!(NoSuchBucket))
    }

    pub(crate) fn bucket_mut(&mut self, name: &str) -> S3Result<&mut Bucket> {
        self.buckets.get_mut(name).ok_or_else(|| s3_error!(NoSuchBucket))
    }

    /// A number never given out before.
    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Makes *object* the current version of *key*; gives that version.
    pub(crate) fn put(
        &mut self,
        bucket: &str,
        key: &str,
        object: Arc<Object>,
    ) -> S3Result<Version> {
        self.add(bucket, key, Some(object))
    }

    /// Deletes *key* as a request without a version id does; gives the delete marker, if one was
    /// made.
    pub(crate) fn delete(&mut self, bucket: &str, key: &str) -> S3Result<Option<Version>> {
        if self.bucket(bucket)?.versioning == Versioning::Never {
            self.bucket_mut(bucket)?.entries.remove(key);
            return Ok(None);
        }
        self.add(bucket, key, None).map(Some)
    }

    fn add(&mut self, bucket: &str, key: &str, object: Option<Arc<Object>>) -> S3Result<Version> {
        let serial = self.next_serial();
        let bucket = self.bucket_mut(bucket)?;
        let id = if bucket.versioning == Versioning::Enabled {
            VersionId(serial)
        } else {
            VersionId::NULL
        };
        let version = Version { id, modified_s: now_s(), object };
        match bucket.entries.get_mut(key) {
            None => {
                bucket.entries.insert(key.to_owned(), vec![version.clone()]);
            }
            Some(versions) => {
                versions.retain(|old| old.id != id); // only the null version can be there already
                versions.push(version.clone());
            }
        }
        Ok(version)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Versioning {
    #[default]
    Never,
    Enabled,
    Suspended,
}

pub(crate) struct Bucket {
    pub(crate) created: SystemTime,
    pub(crate) versioning: Versioning,
    /// A key's versions, oldest first; never empty.
    pub(crate) entries: BTreeMap<String, Vec<Version>>,
}

impl Default for Bucket {
    fn default() -> Self {
        let (created, entries) = (SystemTime::now(), BTreeMap::new());
        Self { created, versioning: Versioning::Never, entries }
    }
}

impl Bucket {
    /// The newest version of *key*, be it a delete marker.
    pub(crate) fn newest(&self, key: &str) -> Option<&Version> {
        self.entries.get(key)?.last()
    }

    /// The object that a plain GET of *key* reads.
    pub(crate) fn current(&self, key: &str) -> Option<&Arc<Object>> {
        self.newest(key)?.object.as_ref()
    }

    pub(crate) fn version(&self, key: &str, id: VersionId) -> Option<&Version> {
        self.entries.get(key)?.iter().find(|version| version.id == id)
    }

    pub(crate) fn version_mut(&mut self, key: &str, id: Option<VersionId>) -> Option<&mut Version> {
        let versions = self.entries.get_mut(key)?;
        match id {
            None => versions.last_mut(),
            Some(id) => versions.iter_mut().find(|version| version.id == id),
        }
    }

    /// Takes one version away for good.
    pub(crate) fn remove_version(&mut self, key: &str, id: VersionId) -> Option<Version> {
        let versions = self.entries.get_mut(key)?;
        let at = versions.iter().position(|version| version.id == id)?;
        let removed = versions.remove(at);
        if versions.is_empty() {
            self.entries.remove(key);
        }
        Some(removed)
    }
}

/// One version of a key: an object, or a delete marker.
#[derive(Clone)]
pub(crate) struct Version {
    pub(crate) id: VersionId,
    /// Whole seconds since 1970, as S3 keeps it.
    pub(crate) modified_s: u64,
    pub(crate) object: Option<Arc<Object>>,
}

impl Version {
    pub(crate) fn modified(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.modified_s)
    }

    /// The id as answers carry it: absent where versioning was never enabled.
    pub(crate) fn shown_id(&self, bucket: &Bucket) -> Option<String> {
        (bucket.versioning != Versioning::Never).then(|| self.id.to_string())
    }
}

/// Number of a version; 0 is "null", the version of a bucket that does not number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VersionId(u64);

impl VersionId {
    pub(crate) const NULL: Self = Self(0);

    pub(crate) fn parse(text: &str) -> S3Result<Self> {
        if text == "null" {
            return Ok(Self::NULL);
        }
        text.strip_prefix('v')
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| s3_error!(InvalidArgument, "Invalid version id specified"))
    }
}

impl std::fmt::Display for VersionId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Self::NULL { out.write_str("null") } else { write!(out, "v{:016x}", self.0) }
    }
}

pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
