//! A `Lake` against servers that say what a test tells them to.

mod answers;
mod connections;
mod requests;
mod tls;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::*;

const ETAG: &[u8] = b"\"abc\"";

/// Fields as the control plane sends them.
pub(super) fn tail(fields: &[&str]) -> Vec<u8> {
    let mut tail = Vec::new();
    for field in fields {
        tail.extend(u16::try_from(field.len()).unwrap().to_le_bytes());
        tail.extend(field.as_bytes());
    }
    tail
}

pub(super) fn fields(port: &str) -> [&str; 12] {
    [
        "http",
        "127.0.0.1",
        port,
        "/bucket/a%20b/",
        "eu-west-1",
        "AKIDEXAMPLE",
        "hush",
        "",
        "",
        "",
        "4",
        "10000",
    ]
}

/// What a server does with one request.
enum Step {
    Say(Vec<u8>),
    /// Say this, and nothing until the client has gone.
    Stall(Vec<u8>),
    /// Say this, byte after byte, none of them late.
    Drip(Vec<u8>),
}

use Step::{Drip, Say, Stall};

/// A server whose connections, one after the other, answer as they are told and then end. Joined,
/// it gives the requests as they came.
struct Server {
    port: String,
    thread: JoinHandle<Vec<String>>,
}

impl Server {
    fn start(connections: Vec<Vec<Step>>) -> Self {
        Self::start_with(connections, |socket| socket)
    }

    fn start_with<S: Read + Write>(
        connections: Vec<Vec<Step>>,
        wrap: impl Fn(TcpStream) -> S + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let thread = thread::spawn(move || {
            let mut requests = Vec::new();
            for steps in connections {
                let mut socket = wrap(listener.accept().unwrap().0);
                for step in steps {
                    let Some(request) = read_request(&mut socket) else { break };
                    requests.push(request);
                    let mut say = |bytes: &[u8]| socket.write_all(bytes).and(socket.flush());
                    match step {
                        Say(bytes) => drop(say(&bytes)),
                        Stall(bytes) => {
                            let _ = say(&bytes);
                            let _ = socket.read(&mut [0]);
                        }
                        Drip(bytes) => drop(bytes.iter().try_for_each(|byte| {
                            thread::sleep(Duration::from_millis(20));
                            say(&[*byte])
                        })),
                    }
                }
            }
            requests
        });
        Self { port, thread }
    }

    fn lake(&self) -> Lake {
        lake(&fields(&self.port))
    }

    /// One that does not wait for long.
    fn impatient_lake(&self) -> Lake {
        let mut fields = fields(&self.port);
        fields[11] = "300";
        lake(&fields)
    }

    fn requests(self) -> Vec<String> {
        self.thread.join().unwrap()
    }
}

fn lake(fields: &[&str]) -> Lake {
    Lake::new(Source::parse(&tail(fields)).unwrap()).unwrap()
}

fn read_request(socket: &mut impl Read) -> Option<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        (socket.read(&mut byte).ok()? > 0).then_some(())?;
        request.push(byte[0]);
    }
    Some(String::from_utf8(request).unwrap())
}

/// An answer with these lines in its head, and this body.
fn answer(lines: &[&str], body: &[u8]) -> Vec<u8> {
    let length = format!("Content-Length: {}\r\n\r\n", body.len());
    let text = format!("HTTP/1.1 {}\r\n{length}", lines.join("\r\n"));
    [text.as_bytes(), body].concat()
}

/// Bytes 3 to 7 of ten.
fn part() -> Vec<u8> {
    answer(&["206 Partial", "etag: \"abc\"", "Content-Range: bytes 3-7/10"], b"34567")
}

fn get(lake: &Lake) -> Result<[u8; 5], Failure> {
    let mut buffer = [0; 5];
    lake.get(b"key", ETAG, 3, &mut buffer, false).map(|checksum| {
        assert_eq!(checksum, None);
        buffer
    })
}

fn header<'r>(request: &'r str, name: &str) -> Option<&'r str> {
    let mut lines = request.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(known, _)| *known == name).map(|(_, value)| value)
}
