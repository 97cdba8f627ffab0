//! TLS.

use super::*;

/// What a TLS server needs, and the bundle that trusts it.
fn certificates() -> (Arc<rustls::ServerConfig>, tempfile::NamedTempFile) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let mut bundle = tempfile::NamedTempFile::new().unwrap();
    bundle.write_all(cert.pem().as_bytes()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![cert.der().clone()], key)
    .unwrap();
    (Arc::new(config), bundle)
}

#[test]
fn tls_to_a_server_that_is_trusted_and_to_no_other() {
    let (config, bundle) = certificates();
    let (_, other) = certificates();
    let body = vec![9; 300_000];
    let whole = answer(&["200 OK", "ETag: \"abc\""], &body);
    let long = [&whole[..], b"more than that"].concat();
    let connections = vec![vec![Say(whole.clone()), Say(whole), Say(long)], vec![Say(vec![])]];
    let server = Server::start_with(connections, move |socket| {
        let tls = rustls::ServerConnection::new(config.clone()).unwrap();
        rustls::StreamOwned::new(tls, socket)
    });
    let port = server.port.clone();
    let mut fields = fields(&port);
    fields[0] = "https";
    let path = bundle.path().to_str().unwrap();
    fields[9] = path;
    let trusting = lake(&fields);
    // Of the third answer, what is too much lies decrypted in the connection: it is not kept.
    for kept in [1, 1, 0] {
        let mut buffer = vec![0; body.len()];
        assert_eq!(trusting.get(b"key", ETAG, 0, &mut buffer, true), Ok(None));
        assert!(buffer == body);
        assert_eq!(trusting.idle(), kept);
    }
    let path = other.path().to_str().unwrap();
    fields[9] = path;
    let failed = get(&lake(&fields));
    assert!(matches!(&failed, Err(Failure::Ask(why)) if why.contains("TLS failed")), "{failed:?}");
    assert_eq!(server.requests().len(), 3);
    for path in ["/nowhere", "/dev/null"] {
        fields[9] = path;
        assert!(Lake::new(Source::parse(&tail(&fields)).unwrap()).is_err());
    }
}
