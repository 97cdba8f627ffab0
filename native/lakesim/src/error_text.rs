//! Errors say something: s3s leaves the message out where it was given none, and there are clients
//! that do not take an error without one.

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::Response;
use s3s::Body;

/// Gives an error in XML the elements that S3 gives it: a message and the id of the request.
pub(crate) async fn complete(response: Response<Body>, request_id: &str) -> Response<Body> {
    let is_error = response.status().is_client_error() || response.status().is_server_error();
    if !is_error || response.body().is_end_stream() {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Response::from_parts(parts, Body::from(completed(text, request_id)))
}

fn completed(text: Bytes, request_id: &str) -> Bytes {
    let Ok(xml) = std::str::from_utf8(&text) else { return text };
    let Some((before, _)) = xml.split_once("</Error>") else { return text };
    let code = before.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    let Some((code, rest)) = code else { return text };
    let message = if rest.contains("<Message>") {
        String::new()
    } else {
        format!("<Message>The request failed: {code}.</Message>")
    };
    format!("{before}{message}<RequestId>{request_id}</RequestId></Error>").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_gets_what_it_lacks() {
        let of = |inner: &str| {
            let text = format!("<Error>{inner}</Error>");
            String::from_utf8(completed(text.into(), "7").to_vec()).unwrap()
        };
        assert_eq!(
            of("<Code>NoSuchKey</Code>"),
            "<Error><Code>NoSuchKey</Code><Message>The request failed: NoSuchKey.</Message>\
             <RequestId>7</RequestId></Error>"
        );
        assert_eq!(
            of("<Code>A</Code><Message>b</Message>"),
            "<Error><Code>A</Code><Message>b</Message><RequestId>7</RequestId></Error>"
        );
    }

    #[test]
    fn what_is_no_error_stays_as_it_is() {
        for text in ["", "<ListBucketResult></ListBucketResult>", "<Error></Error>"] {
            assert_eq!(completed(text.into(), "7"), text);
        }
    }
}
