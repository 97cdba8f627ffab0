//! Copies within the server: of objects, and of ranges into parts.

use std::sync::Arc;
use std::time::SystemTime;

use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource, ETag,
    MetadataDirective, TaggingDirective, UploadPartCopyInput, UploadPartCopyOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::Backend;
use super::checksums::{Algorithm, Kind, Sum, set_checksum};
use super::conditions::{ReadConditions, WriteConditions};
use super::multipart::{Part, check_part_number};
use super::object::{Object, description, hex};
use super::objects::find;
use super::store::Store;
use super::tagging::parse_tags;
use crate::exchange::Exchange;

/// The source of a copy, once its conditions hold.
fn copy_source(
    store: &Store,
    source: &CopySource,
    conditions: &ReadConditions,
) -> S3Result<(Arc<Object>, Option<String>)> {
    let CopySource::Bucket { bucket, key, version_id } = source else {
        return Err(s3_error!(NotImplemented, "Access points are not supported."));
    };
    let bucket = store.bucket(bucket)?;
    let (version, object) = find(bucket, key, version_id.as_deref())?;
    // What is 304 for a read is 412 for a copy.
    conditions.check(object, version.modified()).map_err(|_| s3_error!(PreconditionFailed))?;
    Ok((Arc::clone(object), version.shown_id(bucket)))
}

/// The conditions on the source in a copy request's fields.
macro_rules! source_conditions {
    ($request:expr) => {{
        let input = &mut $request.input;
        let conditions = ReadConditions {
            if_match: input.copy_source_if_match.take(),
            if_none_match: input.copy_source_if_none_match.take(),
            if_modified_since: input.copy_source_if_modified_since.take(),
            if_unmodified_since: input.copy_source_if_unmodified_since.take(),
        };
        conditions.unless_ignored(&$request.extensions)
    }};
}

pub(super) fn copy(
    backend: &Backend,
    mut request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let conditions = WriteConditions::from_headers(&request.headers);
    let conditions = conditions.unless_ignored(&request.extensions);
    let source_conditions = source_conditions!(request);
    let input = &mut request.input;

    let mut store = backend.store();
    let (source, source_version) = copy_source(&store, &input.copy_source, &source_conditions)?;
    let mut object = Object::clone(&source);
    let replaces =
        |value: Option<&str>| value.is_some_and(|value| value == MetadataDirective::REPLACE);
    let new_description =
        replaces(input.metadata_directive.as_ref().map(MetadataDirective::as_str));
    if new_description {
        object.description = description!(input);
    } else if is_same(&input.copy_source, &input.bucket, &input.key) {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself \
             without changing the object's metadata, storage class, website redirect location or \
             encryption attributes."
        ));
    }
    if replaces(input.tagging_directive.as_ref().map(TaggingDirective::as_str)) {
        object.tags = input.tagging.as_deref().map(parse_tags).transpose()?.unwrap_or_default();
    }
    let asked = input.checksum_algorithm.as_ref().map(Algorithm::parse).transpose()?;
    let algorithm = asked.unwrap_or(object.checksum.algorithm);
    if algorithm != object.checksum.algorithm || object.checksum.kind == Kind::Composite {
        object.checksum = object.content.checksum(algorithm);
    }
    if object.etag.contains('-') {
        object.etag = hex(&object.content.md5()); // a copy is made in one part
    }

    conditions.check(store.bucket(&input.bucket)?.current(&input.key))?;
    let (etag, checksum) = (object.etag.clone(), object.checksum.clone());
    let version = store.put(&input.bucket, &input.key, Arc::new(object))?;
    Exchange::commit(&request.extensions);

    let mut result = CopyObjectResult {
        e_tag: Some(ETag::Strong(etag)),
        last_modified: Some(version.modified().into()),
        checksum_type: Some(checksum.kind.dto()),
        ..Default::default()
    };
    set_checksum!(result, checksum.algorithm, checksum.text);
    Ok(S3Response::new(CopyObjectOutput {
        copy_object_result: Some(result),
        copy_source_version_id: source_version,
        version_id: version.shown_id(store.bucket(&request.input.bucket)?),
        ..Default::default()
    }))
}

fn is_same(source: &CopySource, bucket: &str, key: &str) -> bool {
    matches!(source, CopySource::Bucket { bucket: b, key: k, version_id: None }
        if **b == *bucket && **k == *key)
}

pub(super) fn upload_part_copy(
    backend: &Backend,
    mut request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let conditions = source_conditions!(request);
    let input = &mut request.input;
    check_part_number(input.part_number)?;
    let mut store = backend.store();
    let (object, source_version) = copy_source(&store, &input.copy_source, &conditions)?;
    let size = object.content.len();
    let range = match &input.copy_source_range {
        None => 0..size,
        Some(text) => copy_range(text, size)?,
    };
    let upload = store.upload(&input.upload_id, &input.bucket, &input.key)?;
    let bytes = object.content.slice(range).into_bytes();
    let part = Part {
        md5: Md5::checksum(&bytes),
        sum: Sum::of(upload.algorithm, &bytes),
        bytes,
        modified: SystemTime::now(),
    };
    let mut result = CopyPartResult {
        e_tag: Some(ETag::Strong(part.etag())),
        last_modified: Some(part.modified.into()),
        ..Default::default()
    };
    if upload.named {
        set_checksum!(result, part.sum.algorithm, part.sum.base64());
    }
    upload.parts.insert(input.part_number, part);
    Exchange::commit(&request.extensions);
    Ok(S3Response::new(UploadPartCopyOutput {
        copy_part_result: Some(result),
        copy_source_version_id: source_version,
        ..Default::default()
    }))
}

/// `bytes=first-last`, both given and both within the object.
fn copy_range(text: &str, size: u64) -> S3Result<std::ops::Range<u64>> {
    match s3s::dto::Range::parse(text) {
        Ok(s3s::dto::Range::Int { first, last: Some(last) }) if last < size => Ok(first..last + 1),
        _ => Err(s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first \
             and last are the zero-based offsets of the first and last bytes to copy"
        )),
    }
}
