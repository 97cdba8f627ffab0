//! GET, HEAD and PUT of objects.

use std::ops::Range;
use std::sync::Arc;

use hyper::{HeaderMap, StatusCode};
use s3s::dto::{
    ChecksumMode, ETag, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput,
    PutObjectInput, PutObjectOutput,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::Backend;
use super::checksums::{Algorithm, sent_checksums, set_checksum};
use super::conditions::{ReadConditions, WriteConditions};
use super::errors::invalid_part_number;
use super::object::{Content, Object, description, hex};
use super::receive::{Announced, receive};
use super::store::{Bucket, Store, Version, VersionId};
use super::tagging::parse_tags;
use crate::exchange::Exchange;
use crate::faults::FaultKind;

/// The conditions in a request's four fields.
macro_rules! read_conditions {
    ($request:expr) => {{
        let input = &mut $request.input;
        let conditions = ReadConditions {
            if_match: input.if_match.take(),
            if_none_match: input.if_none_match.take(),
            if_modified_since: input.if_modified_since.take(),
            if_unmodified_since: input.if_unmodified_since.take(),
        };
        conditions.unless_ignored(&$request.extensions)
    }};
}

/// What a GET or HEAD answers about one version.
struct Selected {
    object: Arc<Object>,
    modified: std::time::SystemTime,
    version_id: Option<String>,
    range: Range<u64>,
    /// Set if the answer is a 206.
    content_range: Option<String>,
    parts_count: Option<i32>,
}

impl Selected {
    /// The checksum that a client which asked for it may see: that of what it reads.
    fn shows_checksum(&self, mode: Option<&ChecksumMode>) -> bool {
        mode.is_some() && self.content_range.is_none()
    }
}

fn select(
    store: &Store,
    target: (&str, &str, Option<&str>),
    conditions: &ReadConditions,
    range: Option<s3s::dto::Range>,
    part_number: Option<i32>,
) -> S3Result<Selected> {
    let (name, key, version_id) = target;
    let bucket = store.bucket(name)?;
    let (version, object) = find(bucket, key, version_id)?;
    conditions.check(object, version.modified())?;
    let size = object.content.len();
    let (range, parts_count) = match (range, part_number) {
        (Some(_), Some(_)) => return Err(s3_error!(InvalidRequest)),
        (Some(range), None) => (Some(range.check(size)?), None),
        (None, Some(number)) => {
            let part = usize::try_from(number).ok().and_then(|n| object.content.part_range(n));
            let count = i32::try_from(object.content.part_count()).ok();
            let shown = count.filter(|_| object.etag.contains('-'));
            (Some(part.ok_or_else(invalid_part_number)?), shown)
        }
        (None, None) => (None, None),
    };
    // The range of an empty object's only part has no bytes to name.
    let content_range = range
        .as_ref()
        .filter(|range| !range.is_empty())
        .map(|range| format!("bytes {}-{}/{size}", range.start, range.end - 1));
    Ok(Selected {
        object: Arc::clone(object),
        modified: version.modified(),
        version_id: version.shown_id(bucket),
        range: range.unwrap_or(0..size),
        content_range,
        parts_count,
    })
}

/// The version that a read names. A delete marker is an error that says so in its headers.
pub(super) fn find<'a>(
    bucket: &'a Bucket,
    key: &str,
    version_id: Option<&str>,
) -> S3Result<(&'a Version, &'a Arc<Object>)> {
    let (version, if_marker) = match version_id {
        None => (bucket.newest(key).ok_or_else(|| s3_error!(NoSuchKey))?, s3_error!(NoSuchKey)),
        Some(id) => {
            let version = bucket.version(key, VersionId::parse(id)?);
            (version.ok_or_else(|| s3_error!(NoSuchVersion))?, s3_error!(MethodNotAllowed))
        }
    };
    match &version.object {
        Some(object) => Ok((version, object)),
        None => Err(with_marker_headers(if_marker, version)),
    }
}

fn with_marker_headers(mut error: S3Error, marker: &Version) -> S3Error {
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-delete-marker", hyper::header::HeaderValue::from_static("true"));
    if let Ok(id) = marker.id.to_string().try_into() {
        headers.insert("x-amz-version-id", id);
    }
    error.set_headers(headers);
    error
}

/// GET and HEAD answer with the same fields.
macro_rules! describe {
    ($output:ident, $selected:expr, $mode:expr) => {{
        let object = &$selected.object;
        let about = object.description.clone();
        let mut output = $output {
            accept_ranges: Some("bytes".into()),
            cache_control: about.cache_control,
            content_disposition: about.content_disposition,
            content_encoding: about.content_encoding,
            content_language: about.content_language,
            content_length: i64::try_from($selected.range.end - $selected.range.start).ok(),
            content_range: $selected.content_range.clone(),
            content_type: about.content_type.or_else(|| Some("binary/octet-stream".into())),
            e_tag: Some(ETag::Strong(object.etag.clone())),
            last_modified: Some($selected.modified.into()),
            metadata: about.metadata,
            parts_count: $selected.parts_count,
            version_id: $selected.version_id.clone(),
            ..Default::default()
        };
        if $selected.shows_checksum($mode.as_ref()) {
            set_checksum!(output, object.checksum.algorithm, object.checksum.text.clone());
            output.checksum_type = Some(object.checksum.kind.dto());
        }
        output
    }};
}

pub(super) fn get(
    backend: &Backend,
    mut request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let conditions = read_conditions!(request);
    let range = if Exchange::has_fault(&request.extensions, FaultKind::IgnoreRange) {
        None
    } else {
        request.input.range
    };
    let input = request.input;
    let target = (input.bucket.as_str(), input.key.as_str(), input.version_id.as_deref());
    let selected = select(&backend.store(), target, &conditions, range, input.part_number)?;
    let mut output = describe!(GetObjectOutput, selected, input.checksum_mode);
    let tags = i32::try_from(selected.object.tags.len()).ok();
    output.tag_count = tags.filter(|count| *count > 0);
    let body = selected.object.content.slice(selected.range.clone()).into_body();
    output.body = Some(body.into());
    Ok(S3Response::new(output))
}

pub(super) fn head(
    backend: &Backend,
    mut request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let conditions = read_conditions!(request);
    let input = request.input;
    let target = (input.bucket.as_str(), input.key.as_str(), input.version_id.as_deref());
    let selected = select(&backend.store(), target, &conditions, input.range, input.part_number)?;
    let output = describe!(HeadObjectOutput, selected, input.checksum_mode);
    let mut response = S3Response::new(output);
    response.status = selected.content_range.as_ref().map(|_| StatusCode::PARTIAL_CONTENT);
    Ok(response)
}

pub(super) async fn put(
    backend: &Backend,
    mut request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let input = &mut request.input;
    if input.write_offset_bytes.is_some() {
        return Err(s3_error!(NotImplemented, "Appending is for directory buckets only."));
    }
    backend.store().bucket(&input.bucket)?;
    let body = input.body.take();
    let announced = Announced {
        content_length: input.content_length,
        content_md5: input.content_md5.as_deref(),
        checksums: sent_checksums!(input),
        algorithm: input.checksum_algorithm.as_ref(),
        headers: &request.headers,
        trailers: request.trailing_headers.take(),
    };
    let received = receive(body, announced, Algorithm::Crc64Nvme).await?;
    let object = Arc::new(Object {
        etag: hex(&received.md5),
        content: Content::from(received.bytes),
        checksum: received.sum.into(),
        description: description!(input),
        tags: input.tagging.as_deref().map(parse_tags).transpose()?.unwrap_or_default(),
    });
    let conditions = WriteConditions {
        if_match: input.if_match.take(),
        if_none_match: input.if_none_match.take(),
    };
    let conditions = conditions.unless_ignored(&request.extensions);

    let (name, key) = (&request.input.bucket, &request.input.key);
    let mut store = backend.store();
    conditions.check(store.bucket(name)?.current(key))?;
    let version = store.put(name, key, Arc::clone(&object))?;
    Exchange::commit(&request.extensions);

    let mut output = PutObjectOutput {
        e_tag: Some(ETag::Strong(object.etag.clone())),
        checksum_type: Some(object.checksum.kind.dto()),
        version_id: version.shown_id(store.bucket(name)?),
        ..Default::default()
    };
    set_checksum!(output, object.checksum.algorithm, object.checksum.text.clone());
    Ok(S3Response::new(output))
}
