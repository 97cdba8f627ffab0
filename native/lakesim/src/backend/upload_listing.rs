//! Listings of multipart uploads and of their parts.

use std::collections::BTreeMap;

use s3s::dto::{
    ChecksumAlgorithm, ETag, Initiator, ListMultipartUploadsInput, ListMultipartUploadsOutput,
    ListPartsInput, ListPartsOutput, MultipartUpload, Part, StorageClass,
};
use s3s::{S3Response, S3Result};

use super::Backend;
use super::checksums::set_checksum;
use super::listing::{Spelling, delimiter, limit, owner};
use super::multipart::Upload;
use super::walk::{Item, Walk};

fn initiator() -> Initiator {
    let owner = owner();
    Initiator { id: owner.id, display_name: owner.display_name }
}

fn standard() -> StorageClass {
    StorageClass::from_static(StorageClass::STANDARD)
}

pub(super) fn uploads(
    backend: &Backend,
    input: ListMultipartUploadsInput,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let (max_uploads, limit) = limit(input.max_uploads)?;
    let spelling = Spelling::of(input.encoding_type.as_ref());
    let prefix = input.prefix.unwrap_or_default();
    let after = input.key_marker.unwrap_or_default();
    let after_id = input.upload_id_marker.as_deref().filter(|_| !after.is_empty());

    let store = backend.store();
    store.bucket(&input.bucket)?;
    let mut by_key = BTreeMap::<String, Vec<(&str, &Upload)>>::new();
    for (id, upload) in store.uploads.iter().filter(|(_, u)| u.bucket == input.bucket) {
        by_key.entry(upload.key.clone()).or_default().push((id, upload)); // ids are in order
    }
    let mut page = Vec::new(); // a key and an upload, or a prefix
    if let (Some(id), Some((key, uploads))) = (after_id, by_key.get_key_value(&after)) {
        let rest = uploads.iter().filter(|(other, _)| *other > id);
        page.extend(rest.map(|upload| (key.as_str(), Some(upload))));
    }
    let folds_at = delimiter(input.delimiter.as_ref());
    let items =
        Walk { prefix: &prefix, delimiter: folds_at, after: &after }.page(&by_key, limit + 1).0;
    for item in &items {
        match item {
            Item::Key(key, uploads) => {
                page.extend(uploads.iter().map(|upload| (key.as_str(), Some(upload))));
            }
            Item::Prefix(folded) => page.push((folded, None)),
        }
    }
    let is_truncated = limit > 0 && page.len() > limit;
    page.truncate(limit);
    let next = page.last().filter(|_| is_truncated);

    let mut output = ListMultipartUploadsOutput {
        max_uploads: Some(max_uploads),
        is_truncated: Some(is_truncated),
        next_key_marker: next.map(|(key, _)| spelling.write(key)),
        next_upload_id_marker: next.and_then(|(_, upload)| Some((*upload)?.0.to_owned())),
        key_marker: Some(spelling.write(&after)),
        upload_id_marker: input.upload_id_marker.clone(),
        delimiter: input.delimiter.as_deref().map(|text| spelling.write(text)),
        prefix: Some(spelling.write(&prefix)),
        encoding_type: input.encoding_type,
        bucket: Some(input.bucket),
        ..Default::default()
    };
    let (mut uploads, mut prefixes) = (Vec::new(), Vec::new());
    for (key, upload) in page {
        match upload {
            None => prefixes.push(key.to_owned()),
            Some((id, upload)) => uploads.push(MultipartUpload {
                key: Some(spelling.write(key)),
                upload_id: Some((*id).to_owned()),
                initiated: Some(upload.initiated.into()),
                initiator: Some(initiator()),
                owner: Some(owner()),
                storage_class: Some(standard()),
                checksum_algorithm: upload.shown_algorithm(),
                checksum_type: upload.named.then(|| upload.kind.dto()),
            }),
        }
    }
    output.uploads = Some(uploads);
    output.common_prefixes = Some(spelling.prefixes(&prefixes));
    Ok(S3Response::new(output))
}

impl Upload {
    fn shown_algorithm(&self) -> Option<ChecksumAlgorithm> {
        self.named.then(|| ChecksumAlgorithm::from_static(self.algorithm.name()))
    }
}

pub(super) fn parts(
    backend: &Backend,
    input: ListPartsInput,
) -> S3Result<S3Response<ListPartsOutput>> {
    let (max_parts, limit) = limit(input.max_parts)?;
    let after = input.part_number_marker.unwrap_or(0);
    let mut store = backend.store();
    let upload = store.upload(&input.upload_id, &input.bucket, &input.key)?;
    let mut rest = upload.parts.range(after.saturating_add(1)..);
    let mut parts = Vec::new();
    for (number, part) in rest.by_ref().take(limit) {
        let mut listed = Part {
            part_number: Some(*number),
            size: i64::try_from(part.bytes.len()).ok(),
            e_tag: Some(ETag::Strong(part.etag())),
            last_modified: Some(part.modified.into()),
            ..Default::default()
        };
        if upload.named {
            set_checksum!(listed, part.sum.algorithm, part.sum.base64());
        }
        parts.push(listed);
    }
    let is_truncated = limit > 0 && rest.next().is_some();
    Ok(S3Response::new(ListPartsOutput {
        next_part_number_marker: parts.last().and_then(|part| part.part_number),
        parts: Some(parts),
        is_truncated: Some(is_truncated),
        max_parts: Some(max_parts),
        part_number_marker: Some(after),
        checksum_algorithm: upload.shown_algorithm(),
        checksum_type: upload.named.then(|| upload.kind.dto()),
        initiator: Some(initiator()),
        owner: Some(owner()),
        storage_class: Some(standard()),
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        ..Default::default()
    }))
}
