//! What is sent.

use super::*;

#[test]
fn a_range_of_a_version_again_and_again_on_one_connection() {
    let server = Server::start(vec![vec![Say(part()), Say(part())]]);
    let lake = server.lake();
    for _ in 0..2 {
        assert_eq!(get(&lake), Ok(*b"34567"));
    }
    let counters = lake.counters();
    assert_eq!(counters.get_requests.load(Ordering::Relaxed), 2);
    assert_eq!(counters.bytes_read.load(Ordering::Relaxed), 10);
    assert_eq!(counters.retries.load(Ordering::Relaxed), 0);
    let port = server.port.clone();
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    let request = &requests[0];
    assert!(request.starts_with("GET /bucket/a%20b/key HTTP/1.1\r\n"), "{request}");
    assert_eq!(header(request, "host"), Some(&format!("127.0.0.1:{port}")[..]));
    assert_eq!(header(request, "range"), Some("bytes=3-7"));
    assert_eq!(header(request, "if-match"), Some("\"abc\""));
    assert_eq!(header(request, "accept-encoding"), Some("identity"));
    assert_eq!(header(request, "x-amz-checksum-mode"), None);
    let proof = header(request, "authorization").unwrap();
    assert!(proof.contains("SignedHeaders=host;if-match;range;x-amz-content-sha256;x-amz-date,"));
}

#[test]
fn an_unknown_version_is_asked_for_without_a_condition() {
    let server = Server::start(vec![vec![Say(part())]]);
    let mut buffer = [0; 5];
    assert_eq!(server.lake().get(b"key", b"", 3, &mut buffer, false), Ok(None));
    assert_eq!(header(&server.requests()[0], "if-match"), None);
    let lake = lake(&fields("9"));
    for (etag, offset, length, whole) in
        [(&b"x\r\ny"[..], 0, 1, false), (b"", 0, 0, false), (b"", 1, 1, true), (b"", !0, 1, false)]
    {
        let failed = lake.get(b"key", etag, offset, &mut vec![0; length], whole);
        assert!(matches!(failed, Err(Failure::Ask(_))), "{failed:?}");
    }
    assert_eq!(lake.counters().get_requests.load(Ordering::Relaxed), 0);
}

#[test]
fn keys_go_out_as_they_are() {
    let keys: [(&[u8], &str); 7] = [
        (b"a//b", "a//b"),
        (b".", "."),
        (b"../x/./..", "../x/./.."),
        (b"a/", "a/"),
        (b"/a", "/a"),
        (b"a b+%2F?#&~_-.", "a%20b%2B%252F%3F%23%26~_-."),
        (b"\xC3\xA9\xFF\r\n\0", "%C3%A9%FF%0D%0A%00"),
    ];
    let server = Server::start(vec![keys.iter().map(|_| Say(part())).collect()]);
    let lake = server.lake();
    for (key, _) in keys {
        assert_eq!(lake.get(key, ETAG, 3, &mut [0; 5], false), Ok(None));
    }
    for ((_, target), request) in keys.iter().zip(server.requests()) {
        assert_eq!(request.lines().next().unwrap(), format!("GET /bucket/a%20b/{target} HTTP/1.1"));
    }
}

#[test]
fn headers_of_the_lake_are_sent_and_signed_and_nobodys_requests_are_not() {
    let server = Server::start(vec![vec![Say(part())], vec![Say(part())]]);
    let port = server.port.clone();
    let mut fields = fields(&port);
    fields[8] = "X-Amz-Request-Payer: requester\nx-amz-server-side-encryption-customer-key: aaa=\n";
    let signed = lake(&fields);
    assert_eq!(get(&signed), Ok(*b"34567"));
    drop(signed);
    fields[5] = "";
    assert_eq!(get(&lake(&fields)), Ok(*b"34567"));
    let requests = server.requests();
    for request in &requests {
        assert_eq!(header(request, "x-amz-request-payer"), Some("requester"));
        let key = header(request, "x-amz-server-side-encryption-customer-key");
        assert_eq!(key, Some("aaa="));
    }
    let proof = header(&requests[0], "authorization").unwrap();
    let names = "x-amz-date;x-amz-request-payer;x-amz-server-side-encryption-customer-key,";
    assert!(proof.contains(names), "{proof}");
    assert!(header(&requests[1], "authorization").is_none());
    assert!(header(&requests[1], "x-amz-date").is_none());
}

#[test]
fn new_credentials_are_used_at_once_on_the_old_connections() {
    let server = Server::start(vec![vec![Say(part()), Say(part())]]);
    let port = server.port.clone();
    let mut fields = fields(&port);
    let lake = lake(&fields);
    assert_eq!(get(&lake), Ok(*b"34567"));
    [fields[5], fields[6], fields[7]] = ["AKIDOTHER", "secret", "token"];
    assert!(lake.renew(&Source::parse(&tail(&fields)).unwrap()));
    assert_eq!(get(&lake), Ok(*b"34567"));
    fields[4] = "eu-west-2";
    assert!(!lake.renew(&Source::parse(&tail(&fields)).unwrap()));
    let requests = server.requests();
    assert!(header(&requests[0], "authorization").unwrap().contains("Credential=AKIDEXAMPLE/"));
    assert!(header(&requests[1], "authorization").unwrap().contains("Credential=AKIDOTHER/"));
    assert_eq!(header(&requests[1], "x-amz-security-token"), Some("token"));
}
