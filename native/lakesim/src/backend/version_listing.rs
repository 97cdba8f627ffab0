//! `ListObjectVersions`: every version and delete marker, a key's newest first.

use s3s::dto::{
    DeleteMarkerEntry, ETag, ListObjectVersionsInput, ListObjectVersionsOutput, ObjectVersion,
    ObjectVersionStorageClass,
};
use s3s::{S3Response, S3Result};

use super::Backend;
use super::listing::{Spelling, delimiter, limit, owner};
use super::object::Object;
use super::store::{Version, VersionId};
use super::walk::{Item, Walk};

enum Line<'a> {
    Version { key: &'a str, version: &'a Version, is_latest: bool },
    Prefix(String),
}

impl Line<'_> {
    /// What the next page comes after.
    fn marker(&self) -> (&str, Option<VersionId>) {
        match self {
            Line::Version { key, version, .. } => (key, Some(version.id)),
            Line::Prefix(prefix) => (prefix, None),
        }
    }
}

/// Newest first.
fn lines<'a>(key: &'a str, versions: &'a [Version]) -> impl Iterator<Item = Line<'a>> {
    let newest_first = versions.iter().rev().enumerate();
    newest_first.map(move |(at, version)| Line::Version { key, version, is_latest: at == 0 })
}

pub(super) fn versions(
    backend: &Backend,
    input: ListObjectVersionsInput,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let (max_keys, limit) = limit(input.max_keys)?;
    let spelling = Spelling::of(input.encoding_type.as_ref());
    let prefix = input.prefix.unwrap_or_default();
    let after = input.key_marker.unwrap_or_default();
    let after_id = input.version_id_marker.as_deref().filter(|id| !id.is_empty());
    let after_id = after_id.map(VersionId::parse).transpose()?;

    let store = backend.store();
    let entries = &store.bucket(&input.bucket)?.entries;
    let mut page = Vec::new();
    // First what is left of the key that the last page ended in.
    if let (Some(id), Some((key, versions))) = (after_id, entries.get_key_value(&after)) {
        let is_other = |line: &Line<'_>| line.marker().1 != Some(id);
        page.extend(lines(key, versions).skip_while(is_other).skip(1));
    }
    let folds_at = delimiter(input.delimiter.as_ref());
    let walk = Walk { prefix: &prefix, delimiter: folds_at, after: &after };
    for item in walk.page(entries, limit + 1).0 {
        match item {
            Item::Key(key, versions) => page.extend(lines(key, versions)),
            Item::Prefix(folded) => page.push(Line::Prefix(folded)),
        }
    }
    let is_truncated = limit > 0 && page.len() > limit;
    page.truncate(limit);
    let next = page.last().filter(|_| is_truncated).map(Line::marker);

    let mut output = ListObjectVersionsOutput {
        max_keys: Some(max_keys),
        is_truncated: Some(is_truncated),
        next_key_marker: next.map(|(key, _)| spelling.write(key)),
        next_version_id_marker: next.and_then(|(_, id)| id).map(|id| id.to_string()),
        key_marker: Some(spelling.write(&after)),
        version_id_marker: input.version_id_marker,
        delimiter: input.delimiter.as_deref().map(|text| spelling.write(text)),
        prefix: Some(spelling.write(&prefix)),
        encoding_type: input.encoding_type,
        name: Some(input.bucket),
        ..Default::default()
    };
    let (mut versions, mut markers, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
    for line in page {
        match line {
            Line::Prefix(prefix) => prefixes.push(prefix),
            Line::Version { key, version, is_latest } => match &version.object {
                Some(object) => {
                    versions.push(listed(spelling.write(key), version, object, is_latest));
                }
                None => markers.push(DeleteMarkerEntry {
                    key: Some(spelling.write(key)),
                    is_latest: Some(is_latest),
                    last_modified: Some(version.modified().into()),
                    owner: Some(owner()),
                    version_id: Some(version.id.to_string()),
                }),
            },
        }
    }
    output.versions = Some(versions);
    output.delete_markers = Some(markers);
    output.common_prefixes = Some(spelling.prefixes(&prefixes));
    Ok(S3Response::new(output))
}

fn listed(key: String, version: &Version, object: &Object, is_latest: bool) -> ObjectVersion {
    let standard = ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD);
    ObjectVersion {
        key: Some(key),
        is_latest: Some(is_latest),
        last_modified: Some(version.modified().into()),
        owner: Some(owner()),
        version_id: Some(version.id.to_string()),
        size: i64::try_from(object.content.len()).ok(),
        e_tag: Some(ETag::Strong(object.etag.clone())),
        storage_class: Some(standard),
        ..Default::default()
    }
}
