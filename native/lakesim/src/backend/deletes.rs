//! DELETE of objects and of their versions, one or many.

use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
    Error,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::Backend;
use super::conditions::WriteConditions;
use super::store::{Store, VersionId};
use crate::exchange::Exchange;

pub(super) fn delete(
    backend: &Backend,
    request: &S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = &request.input;
    let conditions = WriteConditions::from_headers(&request.headers);
    let conditions = conditions.unless_ignored(&request.extensions);
    let mut store = backend.store();
    conditions.check(store.bucket(&input.bucket)?.current(&input.key))?;
    let (version_id, delete_marker) =
        remove(&mut store, &input.bucket, &input.key, input.version_id.as_deref())?;
    Exchange::commit(&request.extensions);
    let output = DeleteObjectOutput { version_id, delete_marker, ..Default::default() };
    Ok(S3Response::new(output))
}

pub(super) fn delete_many(
    backend: &Backend,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let (name, delete) = (request.input.bucket, request.input.delete);
    if delete.objects.len() > 1000 {
        return Err(s3_error!(MalformedXML));
    }
    let mut store = backend.store();
    store.bucket(&name)?;
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for object in delete.objects {
        match remove(&mut store, &name, &object.key, object.version_id.as_deref()) {
            Ok((id, delete_marker)) => deleted.push(DeletedObject {
                key: Some(object.key),
                delete_marker,
                delete_marker_version_id: id.filter(|_| delete_marker.is_some()),
                version_id: object.version_id,
            }),
            Err(error) => errors.push(Error {
                key: Some(object.key),
                version_id: object.version_id,
                code: Some(error.code().as_str().to_owned()),
                message: error.message().map(str::to_owned),
            }),
        }
    }
    Exchange::commit(&request.extensions);
    if delete.quiet == Some(true) {
        deleted.clear();
    }
    let output =
        DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), ..Default::default() };
    Ok(S3Response::new(output))
}

/// Deletes a key, or one version of it; gives the version id concerned, and true if it is that of
/// a delete marker.
fn remove(
    store: &mut Store,
    name: &str,
    key: &str,
    version_id: Option<&str>,
) -> S3Result<(Option<String>, Option<bool>)> {
    let Some(id) = version_id else {
        let marker = store.delete(name, key)?;
        return Ok((marker.as_ref().map(|marker| marker.id.to_string()), marker.map(|_| true)));
    };
    let removed = store.bucket_mut(name)?.remove_version(key, VersionId::parse(id)?);
    let was_marker = removed.is_some_and(|version| version.object.is_none());
    Ok((Some(id.to_owned()), was_marker.then_some(true)))
}
