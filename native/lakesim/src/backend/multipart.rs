//! Multipart uploads: nothing shows until the upload is completed, in one step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumAlgorithm,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart,
    CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag, UploadPartInput,
    UploadPartOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::Backend;
use super::checksums::{
    Algorithm, Kind, ObjectChecksum, Sum, combine, composite, only_one, sent_checksums,
    set_checksum,
};
use super::conditions::WriteConditions;
use super::object::{Content, Description, Object, Tags, description, hex};
use super::receive::{Announced, receive};
use super::store::Store;
use super::tagging::parse_tags;
use crate::exchange::Exchange;

/// All parts but the last are at least this long.
const MIN_PART_BYTES: usize = 5 << 20;
const MAX_PARTS: i32 = 10_000;

/// An upload in progress.
pub(crate) struct Upload {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) initiated: SystemTime,
    pub(super) algorithm: Algorithm,
    pub(super) kind: Kind,
    /// Whether the client named the algorithm.
    pub(super) named: bool,
    pub(super) parts: BTreeMap<i32, Part>,
    description: Description,
    tags: Tags,
}

#[derive(Clone)]
pub(crate) struct Part {
    pub(super) bytes: Bytes,
    pub(super) md5: [u8; 16],
    pub(super) sum: Sum,
    pub(super) modified: SystemTime,
}

impl Part {
    pub(super) fn etag(&self) -> String {
        hex(&self.md5)
    }
}

impl Store {
    /// The upload *id* of that key.
    pub(super) fn upload(&mut self, id: &str, bucket: &str, key: &str) -> S3Result<&mut Upload> {
        self.uploads
            .get_mut(id)
            .filter(|upload| upload.bucket == bucket && upload.key == key)
            .ok_or_else(|| s3_error!(NoSuchUpload))
    }
}

pub(super) fn create(
    backend: &Backend,
    mut request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let input = &mut request.input;
    let named = input.checksum_algorithm.as_ref().map(Algorithm::parse).transpose()?;
    let algorithm = named.unwrap_or(Algorithm::Crc64Nvme);
    let kind = input.checksum_type.as_ref().map(Kind::parse).transpose()?;
    let kind = kind.unwrap_or(algorithm.types()[0]);
    if !algorithm.types().contains(&kind) {
        return Err(s3_error!(
            InvalidRequest,
            "The {} checksum type cannot be used with the {} checksum algorithm.",
            kind.dto().as_str(),
            algorithm.name()
        ));
    }
    let tags = input.tagging.as_deref().map(parse_tags).transpose()?.unwrap_or_default();
    let upload = Upload {
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        initiated: SystemTime::now(),
        algorithm,
        kind,
        named: named.is_some(),
        parts: BTreeMap::new(),
        description: description!(input),
        tags,
    };
    let mut store = backend.store();
    store.bucket(&upload.bucket)?;
    let id = format!("upload-{:012x}", store.next_serial());
    store.uploads.insert(id.clone(), upload);
    Exchange::commit(&request.extensions);
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(request.input.bucket),
        key: Some(request.input.key),
        upload_id: Some(id),
        checksum_algorithm: named.map(|_| ChecksumAlgorithm::from_static(algorithm.name())),
        checksum_type: named.map(|_| kind.dto()),
        ..Default::default()
    }))
}

pub(super) fn check_part_number(number: i32) -> S3Result {
    if (1..=MAX_PARTS).contains(&number) {
        return Ok(());
    }
    Err(s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive"))
}

pub(super) async fn upload_part(
    backend: &Backend,
    mut request: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let input = &mut request.input;
    check_part_number(input.part_number)?;
    let (algorithm, named) = {
        let mut store = backend.store();
        let upload = store.upload(&input.upload_id, &input.bucket, &input.key)?;
        (upload.algorithm, upload.named)
    };
    let body = input.body.take();
    let announced = Announced {
        content_length: input.content_length,
        content_md5: input.content_md5.as_deref(),
        checksums: sent_checksums!(input),
        algorithm: input.checksum_algorithm.as_ref(),
        headers: &request.headers,
        trailers: request.trailing_headers.take(),
    };
    let received = receive(body, announced, algorithm).await?;
    if named && received.sum.algorithm != algorithm {
        return Err(s3_error!(
            InvalidRequest,
            "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
            algorithm.name().to_lowercase(),
            received.sum.algorithm.name().to_lowercase()
        ));
    }
    let answered = received.sum.clone();
    let sum = if answered.algorithm == algorithm {
        received.sum
    } else {
        Sum::of(algorithm, &received.bytes)
    };
    let modified = SystemTime::now();
    let part = Part { bytes: received.bytes, md5: received.md5, sum, modified };
    let mut output =
        UploadPartOutput { e_tag: Some(ETag::Strong(part.etag())), ..Default::default() };
    set_checksum!(output, answered.algorithm, answered.base64());

    // Looked up again: it may have been aborted or completed while the body came in.
    let mut store = backend.store();
    let upload = store.upload(&input.upload_id, &input.bucket, &input.key)?;
    upload.parts.insert(input.part_number, part);
    Exchange::commit(&request.extensions);
    Ok(S3Response::new(output))
}

pub(super) fn abort(
    backend: &Backend,
    request: &S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let input = &request.input;
    let mut store = backend.store();
    store.upload(&input.upload_id, &input.bucket, &input.key)?;
    store.uploads.remove(&input.upload_id);
    Exchange::commit(&request.extensions);
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

pub(super) fn complete(
    backend: &Backend,
    mut request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let input = &mut request.input;
    let named = input.multipart_upload.take().and_then(|body| body.parts);
    let named = named.filter(|parts| !parts.is_empty()).ok_or_else(|| s3_error!(MalformedXML))?;
    let conditions = WriteConditions {
        if_match: input.if_match.take(),
        if_none_match: input.if_none_match.take(),
    };
    let conditions = conditions.unless_ignored(&request.extensions);

    let mut store = backend.store();
    let upload = store.upload(&input.upload_id, &input.bucket, &input.key)?;
    let parts = chosen_parts(upload, &named)?;
    let checksum = match upload.kind {
        Kind::Composite => composite(upload.algorithm, parts.iter().map(|part| &part.sum)),
        Kind::FullObject => {
            combine(upload.algorithm, parts.iter().map(|part| (&part.sum, part.bytes.len() as u64)))
        }
    };
    let content = Content::from(parts.iter().map(|part| part.bytes.clone()).collect::<Vec<_>>());
    check_whole(input, &checksum, &content)?;
    let md5s = parts.iter().flat_map(|part| part.md5).collect::<Vec<u8>>();
    let object = Object {
        etag: format!("{}-{}", hex(&Md5::checksum(&md5s)), parts.len()),
        content,
        checksum,
        description: upload.description.clone(),
        tags: upload.tags.clone(),
    };
    conditions.check(store.bucket(&input.bucket)?.current(&input.key))?;
    store.uploads.remove(&input.upload_id);
    let object = Arc::new(object);
    let version = store.put(&input.bucket, &input.key, Arc::clone(&object))?;
    Exchange::commit(&request.extensions);

    let mut output = CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", request.input.bucket, request.input.key)),
        e_tag: Some(ETag::Strong(object.etag.clone())),
        checksum_type: Some(object.checksum.kind.dto()),
        version_id: version.shown_id(store.bucket(&request.input.bucket)?),
        bucket: Some(request.input.bucket),
        key: Some(request.input.key),
        ..Default::default()
    };
    set_checksum!(output, object.checksum.algorithm, object.checksum.text.clone());
    Ok(S3Response::new(output))
}

/// The uploaded parts that the client names, in its order, each as it says it is.
fn chosen_parts(upload: &Upload, named: &[CompletedPart]) -> S3Result<Vec<Part>> {
    if !named.is_sorted_by(|a, b| a.part_number < b.part_number) {
        return Err(s3_error!(InvalidPartOrder));
    }
    let mut parts = Vec::with_capacity(named.len());
    for name in named {
        let part = name.part_number.and_then(|number| upload.parts.get(&number));
        let part = part.ok_or_else(|| s3_error!(InvalidPart))?;
        if name.e_tag.as_ref().is_none_or(|etag| etag.value() != part.etag()) {
            return Err(s3_error!(InvalidPart));
        }
        let sent = only_one(sent_checksums!(name))?;
        let sent = sent.filter(|(algorithm, _)| *algorithm == upload.algorithm);
        if sent.is_some_and(|(_, sum)| sum != part.sum.base64()) {
            return Err(s3_error!(InvalidPart));
        }
        if sent.is_none() && upload.named && upload.kind == Kind::Composite {
            return Err(s3_error!(
                InvalidRequest,
                "The upload was created using a {} checksum. The complete request must include \
                 the checksum for each part.",
                upload.algorithm.name().to_lowercase()
            ));
        }
        parts.push(part.clone());
    }
    let all_but_last = &parts[..parts.len() - 1];
    if all_but_last.iter().any(|part| part.bytes.len() < MIN_PART_BYTES) {
        return Err(s3_error!(EntityTooSmall));
    }
    Ok(parts)
}

/// What the client says about the whole object must be so.
fn check_whole(
    input: &CompleteMultipartUploadInput,
    checksum: &ObjectChecksum,
    content: &Content,
) -> S3Result {
    if let Some((algorithm, sent)) = only_one(sent_checksums!(input))?
        && (algorithm != checksum.algorithm || sent != checksum.text)
    {
        return Err(s3_error!(
            BadDigest,
            "The {} you specified did not match the calculated checksum.",
            algorithm.name().to_lowercase()
        ));
    }
    if let Some(kind) = input.checksum_type.as_ref().map(Kind::parse).transpose()?
        && kind != checksum.kind
    {
        return Err(s3_error!(InvalidRequest, "The checksum type is not that of the upload."));
    }
    if let Some(size) = input.mpu_object_size
        && u64::try_from(size) != Ok(content.len())
    {
        return Err(s3_error!(
            InvalidRequest,
            "The provided 'x-amz-mp-object-size' does not match."
        ));
    }
    Ok(())
}
