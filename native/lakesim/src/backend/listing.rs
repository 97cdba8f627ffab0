//! Listings of objects, in both versions of the protocol, and what all listings share.

use std::collections::BTreeMap;

use s3s::dto::{
    ChecksumAlgorithm, CommonPrefix, ETag, EncodingType, ListObjectsInput, ListObjectsOutput,
    ListObjectsV2Input, ListObjectsV2Output, Object as ListedObject, ObjectStorageClass, Owner,
};
use s3s::{S3Error, S3Response, S3Result, s3_error};

use super::Backend;
use super::store::Version;
use super::walk::{Item, Walk};

const MAX_KEYS: i32 = 1000;

/// How text is written where the client may ask for it percent-encoded.
#[derive(Clone, Copy)]
pub(super) struct Spelling {
    url: bool,
}

impl Spelling {
    pub(super) fn of(encoding: Option<&EncodingType>) -> Self {
        Self { url: encoding.is_some_and(|name| name.as_str() == EncodingType::URL) }
    }

    /// Percent-encoded as AWS does it: a space is `+`, a slash stays.
    pub(super) fn write(self, text: &str) -> String {
        if !self.url {
            return text.to_owned();
        }
        let encoded = urlencoding::encode(text);
        if encoded.contains('%') {
            encoded.replace("%20", "+").replace("%2F", "/")
        } else {
            encoded.into_owned()
        }
    }

    pub(super) fn prefixes(self, folded: &[String]) -> Vec<CommonPrefix> {
        let of = |prefix: &String| CommonPrefix { prefix: Some(self.write(prefix)) };
        folded.iter().map(of).collect()
    }
}

pub(super) fn limit(asked: Option<i32>) -> S3Result<(i32, usize)> {
    let limit = asked.unwrap_or(MAX_KEYS).min(MAX_KEYS);
    let count = usize::try_from(limit);
    Ok((limit, count.map_err(|_| s3_error!(InvalidArgument, "max-keys must not be negative"))?))
}

pub(super) fn delimiter(asked: Option<&String>) -> Option<&str> {
    asked.map(String::as_str).filter(|text| !text.is_empty())
}

/// Who owns everything here.
pub(super) fn owner() -> Owner {
    Owner { id: Some("0".repeat(64)), display_name: Some("lakesim".into()) }
}

/// A page of the current objects of a bucket.
struct Page {
    objects: Vec<ListedObject>,
    prefixes: Vec<String>,
    /// The last key or prefix, if there is more to come.
    last: Option<String>,
}

fn page(
    backend: &Backend,
    bucket: &str,
    walk: &Walk<'_>,
    limit: usize,
    (spelling, with_owner): (Spelling, bool),
) -> S3Result<Page> {
    let store = backend.store();
    let entries = &store.bucket(bucket)?.entries;
    let mut page = Page { objects: Vec::new(), prefixes: Vec::new(), last: None };
    let mut after = walk.after.to_owned();
    // A key whose newest version is a delete marker is passed over; so is a prefix of only such.
    loop {
        let walk = Walk { after: &after, ..*walk };
        let wanted = limit - page.objects.len() - page.prefixes.len();
        let (items, more) = walk.page(entries, wanted);
        let Some(last) = items.last() else { break };
        after = match last {
            Item::Key(key, _) => (*key).clone(),
            Item::Prefix(prefix) => prefix.clone(),
        };
        for item in items {
            match item {
                Item::Key(key, versions) => {
                    let newest = versions.last().expect("a key has versions");
                    page.objects.extend(listed(key, newest, spelling, with_owner));
                }
                Item::Prefix(prefix) if is_alive(entries, &prefix) => page.prefixes.push(prefix),
                Item::Prefix(_) => {}
            }
        }
        if !more {
            break;
        }
        if page.objects.len() + page.prefixes.len() == limit {
            page.last = Some(after);
            break;
        }
    }
    Ok(page)
}

fn is_alive(entries: &BTreeMap<String, Vec<Version>>, prefix: &str) -> bool {
    entries
        .range(prefix.to_owned()..)
        .take_while(|(key, _)| key.starts_with(prefix))
        .any(|(_, versions)| versions.last().is_some_and(|newest| newest.object.is_some()))
}

fn listed(
    key: &str,
    version: &Version,
    spelling: Spelling,
    with_owner: bool,
) -> Option<ListedObject> {
    let object = version.object.as_ref()?;
    Some(ListedObject {
        key: Some(spelling.write(key)),
        size: i64::try_from(object.content.len()).ok(),
        e_tag: Some(ETag::Strong(object.etag.clone())),
        last_modified: Some(version.modified().into()),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        checksum_algorithm: Some(vec![ChecksumAlgorithm::from_static(
            object.checksum.algorithm.name(),
        )]),
        checksum_type: Some(object.checksum.kind.dto()),
        owner: with_owner.then(owner),
        restore_status: None,
    })
}

pub(super) fn objects_v2(
    backend: &Backend,
    input: ListObjectsV2Input,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let (max_keys, limit) = limit(input.max_keys)?;
    let spelling = Spelling::of(input.encoding_type.as_ref());
    let prefix = input.prefix.unwrap_or_default();
    let after = match &input.continuation_token {
        Some(token) => decode_token(token)?,
        None => input.start_after.clone().unwrap_or_default(),
    };
    let walk =
        Walk { prefix: &prefix, delimiter: delimiter(input.delimiter.as_ref()), after: &after };
    let with_owner = input.fetch_owner == Some(true);
    let page = page(backend, &input.bucket, &walk, limit, (spelling, with_owner))?;
    Ok(S3Response::new(ListObjectsV2Output {
        key_count: i32::try_from(page.objects.len() + page.prefixes.len()).ok(),
        max_keys: Some(max_keys),
        is_truncated: Some(page.last.is_some()),
        next_continuation_token: page.last.as_deref().map(encode_token),
        contents: Some(page.objects),
        common_prefixes: Some(spelling.prefixes(&page.prefixes)),
        continuation_token: input.continuation_token,
        start_after: input.start_after.map(|key| spelling.write(&key)),
        delimiter: input.delimiter.map(|text| spelling.write(&text)),
        prefix: Some(spelling.write(&prefix)),
        encoding_type: input.encoding_type,
        name: Some(input.bucket),
        ..Default::default()
    }))
}

/// A token is opaque to clients: some check that they treat it so.
fn encode_token(last: &str) -> String {
    base64_simd::URL_SAFE_NO_PAD.encode_to_string(last)
}

fn decode_token(token: &str) -> S3Result<String> {
    let wrong = || -> S3Error {
        s3_error!(InvalidArgument, "The continuation token provided is incorrect")
    };
    let bytes = base64_simd::URL_SAFE_NO_PAD.decode_to_vec(token).map_err(|_| wrong())?;
    String::from_utf8(bytes).map_err(|_| wrong())
}

pub(super) fn objects_v1(
    backend: &Backend,
    input: ListObjectsInput,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let (max_keys, limit) = limit(input.max_keys)?;
    let spelling = Spelling::of(input.encoding_type.as_ref());
    let (prefix, marker) = (input.prefix.unwrap_or_default(), input.marker.unwrap_or_default());
    let walk =
        Walk { prefix: &prefix, delimiter: delimiter(input.delimiter.as_ref()), after: &marker };
    let page = page(backend, &input.bucket, &walk, limit, (spelling, true))?;
    // Without a delimiter clients go on from the last key, and AWS sends no marker.
    let next_marker = page.last.as_deref().filter(|_| walk.delimiter.is_some());
    Ok(S3Response::new(ListObjectsOutput {
        max_keys: Some(max_keys),
        is_truncated: Some(page.last.is_some()),
        next_marker: next_marker.map(|last| spelling.write(last)),
        contents: Some(page.objects),
        common_prefixes: Some(spelling.prefixes(&page.prefixes)),
        marker: Some(spelling.write(&marker)),
        delimiter: input.delimiter.map(|text| spelling.write(&text)),
        prefix: Some(spelling.write(&prefix)),
        encoding_type: input.encoding_type,
        name: Some(input.bucket),
        ..Default::default()
    }))
}
