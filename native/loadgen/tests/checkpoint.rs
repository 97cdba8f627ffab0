//! The writers of checkpoints, and whoever waits for a file.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use support::Fixture;

/// Two tensors and a bit.
const SIZE: u64 = 9_000_000;

fn names(fixture: &Fixture, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(fixture.path(directory)).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

fn save(fixture: &Fixture, arguments: &[&str], lines: &str) -> Value {
    let all = [&["ckpt", "--writer"], arguments].concat();
    // The second save replaces the first.
    fixture.succeeds(&all, lines);
    fixture.succeeds(&all, lines)
}

#[test]
fn every_writer_leaves_its_files_and_nothing_else() {
    let fixture = Fixture::new();
    let one = format!("{SIZE}\ta/latest.pt\n100\ta/small.pt\n");
    for arguments in [&["torch-save"] as &[&str], &["torch-save", "--fsync"]] {
        assert_eq!(save(&fixture, arguments, &one)["bytes"], SIZE + 100);
        assert_eq!(names(&fixture, "a"), ["latest.pt", "small.pt"]);
    }
    let ranks = format!("{SIZE}\tb/__0_0.distcp\n{SIZE}\tb/__1_0.distcp\n1483\tb/.metadata\n");
    assert_eq!(save(&fixture, &["torch-dcp"], &ranks)["files"], 3);
    assert_eq!(names(&fixture, "b"), [".metadata", "__0_0.distcp", "__1_0.distcp"]);
    let size = SIZE.to_string();
    save(&fixture, &["safetensors"], &format!("{size}\tc/m.safetensors\n"));
    assert_eq!(names(&fixture, "c"), ["m.safetensors"]);
    let mode = fs::metadata(fixture.path("c/m.safetensors")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for (path, size) in [("a/small.pt", "100"), ("b/.metadata", "1483")] {
        fixture.succeeds(&["seq", "--size", size, path], "");
    }
    let paths = ["a/latest.pt", "b/__0_0.distcp", "b/__1_0.distcp", "c/m.safetensors"];
    fixture.succeeds(&[&["seq", "--size", &size], &paths[..]].concat(), "");
}

#[test]
fn a_save_says_when_it_began() {
    let (fixture, before) = (Fixture::new(), now_ns());
    let result = fixture.succeeds(&["ckpt", "--writer", "torch-save"], "1M\tone\n");
    let started = result["started_ns"].as_u64().unwrap();
    let closed = result["first_closed_ns"].as_u64().unwrap();
    assert!(before < started && started < closed && closed < now_ns());
}

#[test]
fn small_files_are_created_once_each() {
    let fixture = Fixture::new();
    let lines: String = (0..100).map(|n| format!("4096\tsmall/{n}\n")).collect();
    let result = fixture.succeeds(&["create", "--writers", "7"], &lines);
    assert_eq!((&result["files"], &result["bytes"]), (&100.into(), &409_600.into()));
    assert!(result["latency_us"]["p50"].as_f64().unwrap() > 0.0);
    fixture.succeeds(&["small", "--readers", "2"], &lines);
    // What is there already is somebody's.
    fixture.fails(4, "File exists", &["create"], &lines);
}

#[test]
fn first_waits_for_the_file_and_says_when_it_had_a_byte() {
    let fixture = Fixture::with("5000\tthere\n");
    fs::rename(fixture.path("there"), fixture.path("later")).unwrap();
    let (from, to) = (fixture.path("later"), fixture.path("there"));
    let mover = thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        let at = now_ns();
        fs::rename(from, to).unwrap();
        at
    });
    let result = fixture.succeeds(&["first", "--size", "5000", "there"], "");
    assert!(result["first_byte_ns"].as_u64().unwrap() >= mover.join().unwrap());
}

#[test]
fn first_finds_a_flipped_byte_and_another_length() {
    let fixture = Fixture::with("5000\tf\n");
    fixture.flip("f", 4_000);
    fixture.fails(3, "f: wrong byte at offset 4000", &["first", "--size", "5000", "f"], "");
    fixture.fails(3, "f: ends at offset", &["first", "--size", "5001", "f"], "");
}

#[test]
fn first_gives_up() {
    let fixture = Fixture::new();
    let arguments = ["first", "--size", "10", "--limit-s", "0.05", "gone"];
    fixture.fails(4, "gone: No such file", &arguments, "");
}
