//! Which S3 operation an HTTP request is, before anything has been checked about it.

use std::borrow::Cow;

use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};

/// What a request asks for: the ground on which faults choose it, and what the log says about it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: &'static str,
    pub(crate) operation: &'static str,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) query: Option<String>,
    pub(crate) range: Option<String>,
    /// Whether it carries a condition such as `If-Match`.
    pub(crate) conditional: bool,
}

const CONDITIONS: [&str; 8] = [
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "x-amz-copy-source-if-match",
    "x-amz-copy-source-if-none-match",
    "x-amz-copy-source-if-modified-since",
    "x-amz-copy-source-if-unmodified-since",
];

impl From<&Parts> for Asked {
    fn from(request: &Parts) -> Self {
        let path = request.uri.path();
        let (bucket, key) = path[1.min(path.len())..].split_once('/').unwrap_or((&path[1..], ""));
        let query = request.uri.query();
        let range = request.headers.get("range").and_then(|value| value.to_str().ok());
        Self {
            method: method_name(&request.method),
            operation: operation(
                &request.method,
                (!bucket.is_empty(), !key.is_empty()),
                query.unwrap_or_default(),
                &request.headers,
            ),
            bucket: decoded(bucket),
            key: decoded(key),
            query: query.map(str::to_owned),
            range: range.map(str::to_owned),
            conditional: CONDITIONS.iter().any(|name| request.headers.contains_key(*name)),
        }
    }
}

fn decoded(text: &str) -> String {
    urlencoding::decode(text).unwrap_or(Cow::Borrowed(text)).into_owned()
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// The name in the S3 API reference.
fn operation(
    method: &Method,
    (has_bucket, has_key): (bool, bool),
    query: &str,
    headers: &HeaderMap,
) -> &'static str {
    let names = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    let asks = |name: &str| names.clone().any(|other| other == name);
    let copies = headers.contains_key("x-amz-copy-source");
    match (method.as_str(), has_bucket, has_key) {
        ("GET", false, _) => "ListBuckets",

        ("GET", true, false) if asks("versions") => "ListObjectVersions",
        ("GET", true, false) if asks("uploads") => "ListMultipartUploads",
        ("GET", true, false) if asks("versioning") => "GetBucketVersioning",
        ("GET", true, false) if asks("location") => "GetBucketLocation",
        ("GET", true, false) if asks("list-type") => "ListObjectsV2",
        ("GET", true, false) => "ListObjects",
        ("HEAD", true, false) => "HeadBucket",
        ("PUT", true, false) if asks("versioning") => "PutBucketVersioning",
        ("PUT", true, false) => "CreateBucket",
        ("POST", true, false) if asks("delete") => "DeleteObjects",
        ("DELETE", true, false) => "DeleteBucket",

        ("GET", _, true) if asks("uploadId") => "ListParts",
        ("GET", _, true) if asks("tagging") => "GetObjectTagging",
        ("GET", _, true) => "GetObject",
        ("HEAD", _, true) => "HeadObject",
        ("PUT", _, true) if asks("uploadId") && copies => "UploadPartCopy",
        ("PUT", _, true) if asks("uploadId") => "UploadPart",
        ("PUT", _, true) if asks("tagging") => "PutObjectTagging",
        ("PUT", _, true) if asks("renameObject") => "RenameObject",
        ("PUT", _, true) if copies => "CopyObject",
        ("PUT", _, true) => "PutObject",
        ("POST", _, true) if asks("uploads") => "CreateMultipartUpload",
        ("POST", _, true) if asks("uploadId") => "CompleteMultipartUpload",
        ("DELETE", _, true) if asks("uploadId") => "AbortMultipartUpload",
        ("DELETE", _, true) if asks("tagging") => "DeleteObjectTagging",
        ("DELETE", _, true) => "DeleteObject",

        _ => "other",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a client asks for with a method, a path, and headers.
    pub(crate) fn asked(method: &str, uri: &str, headers: &[(&str, &str)]) -> Asked {
        let mut request = hyper::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Asked::from(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn operations() {
        let of = |method, uri| asked(method, uri, &[]).operation;
        assert_eq!(of("GET", "/"), "ListBuckets");
        assert_eq!(of("GET", "/b?list-type=2&prefix=versions"), "ListObjectsV2");
        assert_eq!(of("GET", "/b/?versions"), "ListObjectVersions");
        assert_eq!(of("PUT", "/b/k?partNumber=1&uploadId=x"), "UploadPart");
        assert_eq!(of("POST", "/b/k?uploads="), "CreateMultipartUpload");
        assert_eq!(of("DELETE", "/b/k?uploadId=x"), "AbortMultipartUpload");
        let copy = [("x-amz-copy-source", "b/k")];
        assert_eq!(asked("PUT", "/b/k", &copy).operation, "CopyObject");
        assert_eq!(asked("PUT", "/b/k?partNumber=1&uploadId=x", &copy).operation, "UploadPartCopy");
    }

    #[test]
    fn keys_are_spelled_as_they_are_meant() {
        let of = |uri| {
            let asked = asked("GET", uri, &[]);
            (asked.bucket, asked.key)
        };
        let pair = |bucket: &str, key: &str| (bucket.to_owned(), key.to_owned());
        assert_eq!(of("/b//x"), pair("b", "/x"));
        assert_eq!(of("/b/a/../%C3%A9%2F"), pair("b", "a/../é/"));
        assert_eq!(of("/b"), pair("b", ""));
    }
}
