//! get and put against a tiny server, well and badly behaved.

mod support;

use loadgen::content::Content;
use support::server::{Behaviour, Server};
use support::{Fixture, SEED};

fn bytes(name: &str, size: u64) -> Vec<u8> {
    Content::of(SEED, name.as_bytes(), size).unwrap().bytes(0, size as usize)
}

/// A server with these objects, and the lines that name them.
fn serving(behaviour: Behaviour, objects: &[(&str, u64)]) -> (Server, String) {
    let server = Server::start(behaviour);
    let mut lines = String::new();
    for &(name, size) in objects {
        server.put(name, bytes(name, size));
        lines += &format!("{size}\t{name}\t{}/{name}?X-Amz-Signature=1%2B\n", server.url);
    }
    (server, lines)
}

const OBJECTS: [(&str, u64); 4] = [("a", 110_000), ("b", 0), ("c/d", 1_000_001), ("e", 65_536)];
const TOTAL: u64 = 1_175_537;

#[test]
fn objects_are_fetched_whole_or_in_ranges_over_few_connections() {
    let (_server, lines) = serving(Behaviour::Good, &OBJECTS);
    let fixture = Fixture::new();
    for (part, requests) in [("8M", 4), ("64K", 2 + 1 + 16 + 1), ("110000", 1 + 1 + 10 + 1)] {
        let result = fixture.succeeds(&["get", "--connections", "2", "--part", part], &lines);
        assert_eq!(result["objects"], 4);
        assert_eq!(result["bytes"], TOTAL);
        assert_eq!(result["requests"], requests);
        assert!(result["connections_opened"].as_u64().unwrap() <= 2);
    }
}

#[test]
fn a_connection_that_the_server_closed_is_opened_again() {
    let (_server, lines) = serving(Behaviour::Closes, &OBJECTS);
    let result = Fixture::new().succeeds(&["get"], &lines);
    assert_eq!(result["bytes"], TOTAL);
    assert_eq!(result["connections_opened"], 4);
}

#[test]
fn a_flipped_byte_is_found_in_whole_objects_and_in_ranges() {
    let (server, lines) = serving(Behaviour::Good, &OBJECTS);
    let mut damaged = bytes("c/d", 1_000_001);
    damaged[777_777] ^= 0x80;
    server.put("c/d", damaged);
    for part in ["8M", "64K"] {
        let message = "c/d: wrong byte at offset 777777\n";
        Fixture::new().fails(3, message, &["get", "--part", part], &lines);
    }
}

#[test]
fn an_object_of_another_length_is_wrong() {
    let (server, lines) = serving(Behaviour::Good, &OBJECTS);
    server.put("a", bytes("a", 109_000));
    Fixture::new().fails(3, "a: ends at offset 109000", &["get"], &lines);
}

#[test]
fn what_is_no_answer_is_an_error_that_says_why() {
    for (behaviour, message) in [
        (Behaviour::Chunked, "chunked"),
        (Behaviour::Refuses, "answered 403 <Error><Code>SignatureDoesNotMatch"),
        (Behaviour::IgnoresRanges, "more than were asked for"),
        (Behaviour::Breaks, "unexpected end of file"),
    ] {
        let (_server, lines) = serving(behaviour, &[("c/d", 1_000_001)]);
        Fixture::new().fails(4, message, &["get", "--part", "64K"], &lines);
    }
    let nobody = "1\ta\thttp://127.0.0.1:1/a\n";
    Fixture::new().fails(4, "Connection refused", &["get"], nobody);
}

#[test]
fn puts_send_the_content_and_return_the_etags_in_order() {
    for behaviour in [Behaviour::Good, Behaviour::Closes] {
        let server = Server::start(behaviour);
        let url = &server.url;
        let lines = format!(
            "110000\ta\t{url}/a\n1000001\t0\tbig\t{url}/big?partNumber=1\n\
             1000001\t600K\tbig\t{url}/big?partNumber=2\n0\tempty\t{url}/empty\n"
        );
        let arguments = ["put", "--connections", "3", "--part", "600K"];
        let result = Fixture::new().succeeds(&arguments, &lines);
        assert_eq!(result["bytes"], 1_110_001);
        let etags = ["/a", "/big?partNumber=1", "/big?partNumber=2", "/empty"];
        let etags = etags.map(|target| format!("\"{target}\""));
        assert_eq!(result["etags"], serde_json::json!(etags));
        assert_eq!(*server.object("a"), bytes("a", 110_000));
        let big = [&server.object("big?partNumber=1")[..], &server.object("big?partNumber=2")];
        assert_eq!(big.map(<[u8]>::len), [614_400, 385_601]);
        assert_eq!(big.concat(), bytes("big", 1_000_001));
    }
}

#[test]
fn a_refused_put_says_why() {
    let server = Server::start(Behaviour::Refuses);
    let line = format!("5000000\ta\t{}/a\n", server.url);
    Fixture::new().fails(4, "a: the server answered 403 <Error>", &["put"], &line);
}

/// What one GET costs the client; for people: `cargo test --release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cpu_of_a_get() {
    let (_server, line) = serving(Behaviour::Good, &[("a", 110_000)]);
    for connections in ["1", "4", "16"] {
        let lines = line.repeat(40_000);
        let result = Fixture::new().succeeds(&["get", "--connections", connections], &lines);
        let each = |of: &str| result[of].as_f64().unwrap() / 40_000.0 * 1e6;
        println!(
            "{connections:>2} connections: {:.1} us CPU, {:.1} us",
            each("cpu_s"),
            each("seconds")
        );
    }
}
