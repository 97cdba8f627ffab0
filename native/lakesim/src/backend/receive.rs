//! Reading an upload's body: its bytes, its MD5 and its checksum, compared with what the client
//! sent in headers or trailers. Nothing is stored that does not match.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::{ChecksumAlgorithm, StreamingBlob};
use s3s::{Body, S3Result, TrailingHeaders, s3_error};

use super::checksums::{Algorithm, Hasher, Sum, only_one};
use super::errors::{content_sha256_mismatch, malformed_trailer};

/// More than this is not reserved on a client's word.
const MAX_RESERVED_BYTES: i64 = 64 << 20;

/// A body that arrived whole and matched.
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    pub(crate) md5: [u8; 16],
    pub(crate) sum: Sum,
}

/// What a request says about the body that follows.
pub(crate) struct Announced<'a> {
    pub(crate) content_length: Option<i64>,
    pub(crate) content_md5: Option<&'a str>,
    pub(crate) checksums: [Option<&'a str>; 5],
    /// `x-amz-sdk-checksum-algorithm`.
    pub(crate) algorithm: Option<&'a ChecksumAlgorithm>,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) trailers: Option<TrailingHeaders>,
}

/// Reads *body*. The checksum is of the algorithm that the client sends one of, else *preferred*.
pub(crate) async fn receive(
    body: Option<StreamingBlob>,
    announced: Announced<'_>,
    preferred: Algorithm,
) -> S3Result<Received> {
    let in_header = only_one(announced.checksums)?;
    let in_trailer = announced.trailing_algorithm();
    if announced.algorithm.is_some() && in_header.is_none() && in_trailer.is_none() {
        return Err(s3_error!(
            InvalidRequest,
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or \
             x-amz-trailer headers were found."
        ));
    }
    let algorithm = in_header.map(|(algorithm, _)| algorithm).or(in_trailer).unwrap_or(preferred);

    let reserved = announced.content_length.unwrap_or(0).clamp(0, MAX_RESERVED_BYTES);
    let mut bytes = BytesMut::with_capacity(usize::try_from(reserved).unwrap_or(0));
    let (mut md5, mut hasher) = (Md5::new(), Hasher::new(algorithm));
    if let Some(body) = body {
        let mut body = Body::from(body);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken_body(&error))?;
            if let Ok(data) = frame.into_data() {
                md5.update(&data);
                hasher.update(&data);
                bytes.extend_from_slice(&data);
            }
        }
    }
    let (md5, sum) = (md5.finalize(), hasher.finish());

    if let Some((_, sent)) = in_header {
        sum.check(sent)?;
    }
    if let Some(algorithm) = in_trailer {
        let trailers = announced.trailers.as_ref().and_then(TrailingHeaders::take);
        let sent = trailers.as_ref().and_then(|all| all.get(algorithm.header()));
        let sent = sent.and_then(|value| value.to_str().ok());
        sum.check(sent.ok_or_else(malformed_trailer)?)?;
    }
    if let Some(sent) = announced.content_md5 {
        let sent = base64_simd::STANDARD.decode_to_vec(sent).unwrap_or_default();
        if sent.len() != md5.len() {
            return Err(s3_error!(InvalidDigest, "The Content-MD5 you specified was invalid."));
        }
        if sent != md5 {
            return Err(s3_error!(
                BadDigest,
                "The Content-MD5 you specified did not match what we received."
            ));
        }
    }
    Ok(Received { bytes: bytes.freeze(), md5, sum })
}

impl Announced<'_> {
    fn trailing_algorithm(&self) -> Option<Algorithm> {
        let names = self.headers.get("x-amz-trailer")?.to_str().ok()?;
        let names = names.split(',').map(str::trim).collect::<Vec<_>>();
        Algorithm::ALL.into_iter().find(|algorithm| names.contains(&algorithm.header()))
    }
}

/// What is wrong with a body that s3s could not read to its end.
fn broken_body(error: &s3s::StdError) -> s3s::S3Error {
    let reason = error.to_string(); // its types are private
    if reason.contains("Sha256Mismatch") {
        content_sha256_mismatch()
    } else if reason.contains("SignatureMismatch") {
        s3_error!(SignatureDoesNotMatch)
    } else {
        s3_error!(IncompleteBody)
    }
}
