//! S3 errors that s3s has no name for.

use hyper::StatusCode;
use s3s::{S3Error, S3ErrorCode};

fn unlisted(code: &'static str, status: StatusCode, message: &'static str) -> S3Error {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).expect("it is text");
    let mut error = S3Error::with_message(code, message);
    error.set_status_code(status);
    error
}

pub(super) fn content_sha256_mismatch() -> S3Error {
    unlisted(
        "XAmzContentSHA256Mismatch",
        StatusCode::BAD_REQUEST,
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    )
}

pub(super) fn malformed_trailer() -> S3Error {
    unlisted(
        "MalformedTrailerError",
        StatusCode::BAD_REQUEST,
        "The request contained trailing data that was not well-formed or did not conform to our \
         published schema.",
    )
}

pub(super) fn invalid_part_number() -> S3Error {
    unlisted(
        "InvalidPartNumber",
        StatusCode::RANGE_NOT_SATISFIABLE,
        "The requested partnumber is not satisfiable",
    )
}
