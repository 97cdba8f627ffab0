//! A tiny HTTP/1.1 server in threads: objects in memory, and the ways a server can misbehave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// How it answers; the last request's behaviour is the server's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    Good,
    /// Closes each connection after an answer, and does not say so.
    Closes,
    Chunked,
    /// Does not know ranges, and sends the whole object with 200.
    IgnoresRanges,
    /// 403 and an XML body.
    Refuses,
    /// Half of what it says, then the end.
    Breaks,
}

pub struct Server {
    pub url: String,
    pub objects: Arc<Mutex<HashMap<String, Arc<Vec<u8>>>>>,
}

impl Server {
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let objects: Arc<Mutex<HashMap<String, Arc<Vec<u8>>>>> = Arc::default();
        let shared = objects.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let objects = shared.clone();
                thread::spawn(move || {
                    let mut reader = BufReader::new(stream);
                    while answer(&mut reader, &objects, behaviour).is_some() {}
                });
            }
        });
        Self { url, objects }
    }

    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        self.objects.lock().unwrap().insert(name.into(), Arc::new(bytes));
    }

    pub fn object(&self, name: &str) -> Arc<Vec<u8>> {
        self.objects.lock().unwrap()[name].clone()
    }
}

/// Answers one request; None at the connection's end.
fn answer(
    reader: &mut BufReader<TcpStream>,
    objects: &Mutex<HashMap<String, Arc<Vec<u8>>>>,
    behaviour: Behaviour,
) -> Option<()> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&got| got > 0)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let name = target.trim_start_matches('/').split('?').next()?.to_owned();
    let (mut length, mut range) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("Content-Length: ") {
            length = value.parse().ok()?;
        }
        if let Some(value) = header.strip_prefix("Range: bytes=") {
            let (first, last) = value.split_once('-')?;
            range = Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?));
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let stream = reader.get_mut();
    if behaviour == Behaviour::Refuses {
        let text = "<Error><Code>SignatureDoesNotMatch</Code></Error>";
        let head = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n", text.len());
        return stream.write_all((head + text).as_bytes()).ok();
    }
    if method == "PUT" {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: \"{target}\"\r\n\r\n");
        objects.lock().ok()?.insert(target.trim_start_matches('/').into(), Arc::new(body));
        stream.write_all(head.as_bytes()).ok()?;
        return (behaviour != Behaviour::Closes).then_some(());
    }
    let object = objects.lock().ok()?.get(&name)?.clone();
    let range = range.filter(|_| behaviour != Behaviour::IgnoresRanges);
    let (status, bytes) = match range {
        Some((first, last)) => ("206 Partial Content", object.get(first..=last)?),
        None => ("200 OK", &object[..]),
    };
    let length = match behaviour {
        Behaviour::Chunked => "Transfer-Encoding: chunked\r\n\r\n5".to_owned(),
        _ => format!("Content-Length: {}\r\n", bytes.len()),
    };
    let head = format!("HTTP/1.1 {status}\r\nServer: tiny\r\n{length}\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    if behaviour == Behaviour::Breaks {
        stream.write_all(&bytes[..bytes.len() / 2]).ok()?;
        return None;
    }
    stream.write_all(bytes).ok()?;
    (behaviour != Behaviour::Closes).then_some(())
}
