//! Buckets and their versioning.

use s3s::dto::{
    Bucket as ListedBucket, BucketVersioningStatus, CreateBucketInput, CreateBucketOutput,
    DeleteBucketInput, DeleteBucketOutput, GetBucketVersioningInput, GetBucketVersioningOutput,
    ListBucketsOutput, PutBucketVersioningInput, PutBucketVersioningOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::Backend;
use super::listing::owner;
use super::store::{Bucket, Versioning};
use crate::exchange::Exchange;

pub(super) fn create(
    backend: &Backend,
    request: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let name = request.input.bucket;
    let mut store = backend.store();
    if store.buckets.contains_key(&name) {
        return Err(s3_error!(BucketAlreadyOwnedByYou));
    }
    let location = Some(format!("/{name}"));
    store.buckets.insert(name, Bucket::default());
    Exchange::commit(&request.extensions);
    Ok(S3Response::new(CreateBucketOutput { location }))
}

pub(super) fn delete(
    backend: &Backend,
    request: &S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    let name = &request.input.bucket;
    let mut store = backend.store();
    if !store.bucket(name)?.entries.is_empty() {
        return Err(s3_error!(BucketNotEmpty));
    }
    store.buckets.remove(name);
    store.uploads.retain(|_, upload| upload.bucket != *name);
    Exchange::commit(&request.extensions);
    Ok(S3Response::new(DeleteBucketOutput {}))
}

pub(super) fn list(backend: &Backend) -> S3Response<ListBucketsOutput> {
    let store = backend.store();
    let buckets = store.buckets.iter().map(|(name, bucket)| ListedBucket {
        name: Some(name.clone()),
        creation_date: Some(bucket.created.into()),
        ..Default::default()
    });
    let buckets = Some(buckets.collect());
    S3Response::new(ListBucketsOutput { buckets, owner: Some(owner()), ..Default::default() })
}

pub(super) fn put_versioning(
    backend: &Backend,
    request: S3Request<PutBucketVersioningInput>,
) -> S3Result<S3Response<PutBucketVersioningOutput>> {
    let input = request.input;
    let status = input.versioning_configuration.status;
    let versioning = match status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
        Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
        _ => return Err(s3_error!(MalformedXML)),
    };
    let mut store = backend.store();
    store.bucket_mut(&input.bucket)?.versioning = versioning;
    Exchange::commit(&request.extensions);
    Ok(S3Response::new(PutBucketVersioningOutput::default()))
}

pub(super) fn get_versioning(
    backend: &Backend,
    input: &GetBucketVersioningInput,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    let status = match backend.store().bucket(&input.bucket)?.versioning {
        Versioning::Never => None,
        Versioning::Enabled => Some(BucketVersioningStatus::ENABLED),
        Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
    };
    let status = status.map(BucketVersioningStatus::from_static);
    Ok(S3Response::new(GetBucketVersioningOutput { status, ..Default::default() }))
}
