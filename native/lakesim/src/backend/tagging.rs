//! Tags of objects.

use std::sync::Arc;

use s3s::dto::{
    DeleteObjectTaggingInput, DeleteObjectTaggingOutput, GetObjectTaggingInput,
    GetObjectTaggingOutput, PutObjectTaggingInput, PutObjectTaggingOutput, Tag,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::Backend;
use super::object::{Object, Tags};
use super::objects::find;
use super::store::VersionId;
use crate::exchange::Exchange;

/// What S3 allows on one object.
const MAX_TAGS: usize = 10;

/// The tags in an `x-amz-tagging` header, which is written like a query.
pub(super) fn parse_tags(text: &str) -> S3Result<Tags> {
    let decode = |word: &str| {
        let word = word.replace('+', " ");
        urlencoding::decode(&word).map(std::borrow::Cow::into_owned)
    };
    let mut tags = Tags::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (decode(name), decode(value)) {
            (Ok(name), Ok(value)) => tags.push((name, value)),
            _ => return Err(s3_error!(InvalidArgument, "The header 'x-amz-tagging' is malformed")),
        }
    }
    check(tags)
}

fn check(tags: Tags) -> S3Result<Tags> {
    let repeated = tags.iter().enumerate().any(|(n, tag)| tags[..n].iter().any(|t| t.0 == tag.0));
    if tags.len() > MAX_TAGS || repeated {
        return Err(s3_error!(InvalidTag));
    }
    Ok(tags)
}

pub(super) fn put(
    backend: &Backend,
    request: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let input = request.input;
    let tags = input.tagging.tag_set.into_iter();
    let tags = tags.map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default()));
    let tags = check(tags.collect())?;
    let target = (input.bucket.as_str(), input.key.as_str(), input.version_id.as_deref());
    let version_id = replace(backend, target, tags, &request.extensions)?;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
}

pub(super) fn delete(
    backend: &Backend,
    request: &S3Request<DeleteObjectTaggingInput>,
) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
    let input = &request.input;
    let target = (input.bucket.as_str(), input.key.as_str(), input.version_id.as_deref());
    let version_id = replace(backend, target, Tags::new(), &request.extensions)?;
    Ok(S3Response::new(DeleteObjectTaggingOutput { version_id }))
}

fn replace(
    backend: &Backend,
    (name, key, version_id): (&str, &str, Option<&str>),
    tags: Tags,
    extensions: &hyper::http::Extensions,
) -> S3Result<Option<String>> {
    let mut store = backend.store();
    let bucket = store.bucket(name)?;
    let (version, object) = find(bucket, key, version_id)?;
    let shown = version.shown_id(bucket);
    let tagged = Arc::new(Object { tags, ..Object::clone(object) });
    let id = version_id.map(VersionId::parse).transpose()?;
    if let Some(version) = store.bucket_mut(name)?.version_mut(key, id) {
        version.object = Some(tagged);
    }
    Exchange::commit(extensions);
    Ok(shown)
}

pub(super) fn get(
    backend: &Backend,
    input: &GetObjectTaggingInput,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let store = backend.store();
    let bucket = store.bucket(&input.bucket)?;
    let (version, object) = find(bucket, &input.key, input.version_id.as_deref())?;
    let tags = object.tags.iter().cloned();
    let tag_set = tags.map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect();
    let version_id = version.shown_id(bucket);
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set, version_id }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tagging_header_is_a_query() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            parse_tags("a=1&b%20c=d%3D+e&flag").unwrap(),
            [pair("a", "1"), pair("b c", "d= e"), pair("flag", "")]
        );
        assert!(parse_tags("a=1&a=2").is_err());
    }
}
