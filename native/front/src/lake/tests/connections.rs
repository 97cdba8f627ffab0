//! Connections that fail, and those that are kept.

use super::*;

/// Until something came on the connections that are kept, be it their end.
fn wait_for_the_server(lake: &Lake) {
    let begun = Instant::now();
    while lake.is_quiet() {
        assert!(begun.elapsed() < Duration::from_mins(1));
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_passes_is_tried_again() {
    let slow = answer(&["503 Slow Down"], b"<Error/>");
    let cut = part()[..part().len() - 2].to_vec();
    for first in [slow, answer(&["500 x"], b""), answer(&["429 x"], b""), cut, vec![]] {
        let complains = first.starts_with(b"HTTP/1.1 503") || first.starts_with(b"HTTP/1.1 429");
        let server = Server::start(vec![vec![Say(first)], vec![Say(part())]]);
        let lake = server.lake();
        assert_eq!(get(&lake), Ok(*b"34567"));
        let counters = lake.counters();
        assert_eq!(counters.retries.load(Ordering::Relaxed), 1);
        assert_eq!(counters.slow_downs.load(Ordering::Relaxed), u64::from(complains));
        // Of four: cut to one, and raised by the success.
        assert!((lake.limit() - if complains { 2.0 } else { 4.0 }).abs() < 1e-9);
        assert_eq!(server.requests().len(), 2);
    }
}

#[test]
fn what_does_not_pass_is_left_to_the_control_plane() {
    let slow = || vec![Say(answer(&["503 x"], b""))];
    let server = Server::start(vec![slow(), slow(), slow()]);
    let lake = server.lake();
    assert_eq!(get(&lake), Err(Failure::Ask("the server answered 503".into())));
    assert_eq!(lake.counters().get_requests.load(Ordering::Relaxed), 3);
    assert_eq!(lake.counters().retries.load(Ordering::Relaxed), 2);
    server.requests();
    // Nobody listens there any more.
    let failed = get(&lake);
    assert!(matches!(&failed, Err(Failure::Ask(why)) if why.contains("cannot connect")));
}

#[test]
fn a_stall_in_head_or_body_is_given_up_and_its_connection_not_used_again() {
    let whole = part();
    for said in [0, 20, whole.len() - 3] {
        let stall = Stall(whole[..said].to_vec());
        let server = Server::start(vec![vec![stall, Say(whole.clone())], vec![Say(whole.clone())]]);
        let lake = server.impatient_lake();
        let begun = Instant::now();
        assert!(matches!(get(&lake), Err(Failure::Ask(why)) if why.contains("no progress")));
        assert!(begun.elapsed() >= Duration::from_millis(300));
        assert_eq!(lake.idle(), 0);
        assert_eq!(get(&server.lake()), Ok(*b"34567"));
        assert_eq!(server.requests().len(), 2);
    }
}

#[test]
fn a_head_that_never_ends_is_given_up() {
    // It would have ended, some seconds later.
    let drip = Drip(part());
    let server = Server::start(vec![vec![drip], vec![Say(part())]]);
    let lake = server.impatient_lake();
    assert!(matches!(get(&lake), Err(Failure::Ask(why)) if why.contains("no progress")));
    assert_eq!(get(&server.lake()), Ok(*b"34567"));
    server.requests();
}

#[test]
fn a_connection_that_ended_while_it_was_idle_costs_no_attempt() {
    let slow = || vec![Say(answer(&["503 x"], b""))];
    // The end comes with the second request, or before it: both are seen.
    for first in [vec![Say(part()), Say(vec![])], vec![Say(part())]] {
        let early = first.len() == 1;
        let server = Server::start(vec![first, slow(), slow(), vec![Say(part())]]);
        let lake = server.lake();
        assert_eq!(get(&lake), Ok(*b"34567"));
        if early {
            wait_for_the_server(&lake);
        }
        assert_eq!(get(&lake), Ok(*b"34567"));
        let again = if early { 2 } else { 3 };
        assert_eq!(lake.counters().retries.load(Ordering::Relaxed), again);
        assert_eq!(server.requests().len() as u64, 2 + again);
    }
}

#[test]
fn a_connection_is_kept_only_if_the_server_says_so_and_nothing_more() {
    let closing = String::from_utf8(part()).unwrap();
    let closing = closing.replace("etag", "Connection: Close\r\netag").into_bytes();
    let old = String::from_utf8(part()).unwrap().replace("HTTP/1.1", "HTTP/1.0").into_bytes();
    for said in [closing, old] {
        let server = Server::start(vec![vec![Say(said), Say(part())], vec![Say(part())]]);
        let lake = server.lake();
        assert_eq!(get(&lake), Ok(*b"34567"));
        assert_eq!(lake.idle(), 0);
        assert_eq!(get(&lake), Ok(*b"34567"));
        server.requests();
    }
    // A second answer to the first request is nobody's answer to the second.
    let long = vec![b'x'; 100_000];
    let head = ["200 x", "ETag: \"abc\""];
    let twice = [answer(&head, &long), answer(&head, &vec![b'y'; 100_000])].concat();
    let server = Server::start(vec![vec![Say(twice)], vec![Say(answer(&head, &long))]]);
    let lake = server.lake();
    for _ in 0..2 {
        let mut buffer = vec![0; long.len()];
        lake.get(b"key", ETAG, 0, &mut buffer, true).unwrap();
        assert!(buffer == long);
        wait_for_the_server(&lake);
    }
    server.requests();
}
