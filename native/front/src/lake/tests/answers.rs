//! What is taken as an answer, and what is not.

use super::*;
use crate::checksum::{Checksum, ChecksumKind};

/// That a range is refused for good if it is answered so, and the connection not used again.
fn refused(answer: Vec<u8>) -> Failure {
    let server = Server::start(vec![vec![Say(answer)]]);
    let lake = server.lake();
    let failure = get(&lake).unwrap_err();
    assert_eq!((lake.idle(), server.requests().len()), (0, 1));
    failure
}

fn refused_for(answer: Vec<u8>, reason: &str) {
    let failure = refused(answer);
    assert!(matches!(&failure, Failure::Ask(text) if text.contains(reason)), "{failure:?}");
}

#[test]
fn a_whole_object_with_the_checksum_of_all_of_it() {
    let lines = |kind, sum| ["200 OK", "ETag: W/\"abc\"", kind, sum];
    let full = "x-amz-checksum-type: FULL_OBJECT";
    let cases = [
        (lines(full, "x-amz-checksum-crc32: AAECAw=="), Some((ChecksumKind::Crc32, 0x10203))),
        (lines(full, "x-amz-checksum-crc32c: /wECAw=="), Some((ChecksumKind::Crc32c, 0xFF01_0203))),
        (
            lines(full, "x-amz-checksum-crc64nvme: AQIDBAUGBwg="),
            Some((ChecksumKind::Crc64Nvme, 0x0102_0304_0506_0708)),
        ),
        (lines(full, "x-amz-checksum-sha1: AAAA"), None),
        (lines("x-amz-checksum-type: COMPOSITE", "x-amz-checksum-crc32: AAECAw==-2"), None),
        (lines("x-other: 1", "x-amz-checksum-crc32: AAECAw=="), None),
    ];
    // More than the first read takes, and nothing at all.
    for body in [vec![7; 200_000], vec![]] {
        let steps = cases.iter().map(|(lines, _)| Say(answer(lines, &body))).collect();
        let server = Server::start(vec![steps]);
        let lake = server.lake();
        for (lines, expected) in cases {
            let mut buffer = vec![0; body.len()];
            let found = lake.get(b"key", ETAG, 0, &mut buffer, true).unwrap();
            let expected = expected.map(|(kind, value)| Checksum { kind, value });
            assert_eq!(found, expected, "{lines:?}");
            assert_eq!(buffer, body);
        }
        for request in server.requests() {
            assert_eq!(header(&request, "range"), None);
            assert_eq!(header(&request, "x-amz-checksum-mode"), Some("ENABLED"));
        }
    }
    let bad = lines(full, "x-amz-checksum-crc32c: AAECAwQF");
    let server = Server::start(vec![vec![Say(answer(&bad, b"01234"))]]);
    let failed = server.lake().get(b"key", ETAG, 0, &mut [0; 5], true);
    assert_eq!(failed, Err(Failure::Ask("a checksum is malformed".into())));
}

#[test]
fn an_answer_to_something_else_is_refused_at_once() {
    let range = "Content-Range: bytes 3-7/10";
    let tag = "ETag: \"abc\"";
    refused_for(answer(&["200 OK", tag], b"34567"), "answered 200");
    refused_for(answer(&["206 x", tag, "Content-Range: bytes 4-8/10"], b"34567"), "another one");
    refused_for(answer(&["206 x", tag, "Content-Range: bytes 3-7/7"], b"34567"), "another one");
    refused_for(answer(&["206 x", tag], b"34567"), "another one");
    refused_for(answer(&["206 x", tag, range], b"3456"), "another length");
    refused_for(answer(&["206 x", tag, range], b"345678"), "another length");
    refused_for([&part()[..], b"8"].concat(), "another length");
    refused_for(answer(&["206 x", range], b"34567"), "no ETag");
    refused_for(answer(&["206 x", tag, range, "Content-Length: 5"], b"34567"), "twice");
    let chunks = [tag, range, "Transfer-Encoding: chunked", "", "5\r\n34567\r\n0\r\n\r\n"];
    refused_for(format!("HTTP/1.1 206 x\r\n{}", chunks.join("\r\n")).into_bytes(), "chunks");
    refused_for(answer(&["206 x", tag, range, "no colon"], b"34567"), "malformed");
    refused_for(vec![b'x'; 70 << 10], "no end");
    for status in ["301 x", "307 x", "400 x", "403 x", "404 x", "416 x", "100 x", "501 x"] {
        refused_for(answer(&[status, tag, range], b"34567"), &status[..3]);
    }
}

#[test]
fn another_version_is_said_to_be_one() {
    let other = ["206 x", "ETag: \"abd\"", "Content-Range: bytes 3-7/10"];
    assert_eq!(refused(answer(&other, b"34567")), Failure::OtherVersion);
    assert_eq!(refused(answer(&["412 Precondition Failed"], b"<Error/>")), Failure::OtherVersion);
}
