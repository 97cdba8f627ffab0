//! A blocking HTTP/1.1 connection to one plain-HTTP server: as little work for an answer as there
//! can be. One request is in flight; the answer is read straight into the caller's buffer, head and
//! body in one piece. No redirects, no chunked bodies, no TLS.

use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use crate::http::{invalid, parse_head};

/// The longest head of an answer; the buffer has room for it in front of the body.
pub const HEAD_ROOM: usize = 16 << 10;
/// A server that is silent for so long has failed.
const SILENCE: Duration = Duration::from_secs(60);

/// What a server said.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub etag: Option<String>,
    /// Where in the buffer its body is: all of it if the status is 200 or 206, else what came.
    pub body: Range<usize>,
}

/// A persistent connection.
pub struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    /// How often a connection was opened.
    pub opened: u64,
}

/// Why there is no answer, and whether the server had closed the connection before it said a word.
struct Broken {
    error: io::Error,
    closed: bool,
}

impl Connection {
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, opened: 0 }
    }

    /// Sends one request and reads its answer into `buffer`, which must have room for the body
    /// beside [`HEAD_ROOM`]. A connection that the server closed meanwhile is opened again, once.
    pub fn exchange(&mut self, head: &[u8], body: &[u8], buffer: &mut [u8]) -> io::Result<Answer> {
        let used = self.stream.is_some();
        let mut stream = self.take()?;
        let (answer, close) = match exchange(&mut stream, head, body, buffer) {
            Err(Broken { closed: true, .. }) if used => {
                stream = self.take()?;
                exchange(&mut stream, head, body, buffer)
            }
            result => result,
        }
        .map_err(|broken| broken.error)?;
        if !close {
            self.stream = Some(stream);
        }
        Ok(answer)
    }

    fn take(&mut self) -> io::Result<TcpStream> {
        if let Some(stream) = self.stream.take() {
            return Ok(stream);
        }
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        self.opened += 1;
        Ok(stream)
    }
}

/// The answer, and whether the connection cannot be used again.
fn exchange(
    stream: &mut TcpStream,
    head: &[u8],
    body: &[u8],
    buffer: &mut [u8],
) -> Result<(Answer, bool), Broken> {
    // A server may refuse a body before it has read it, and close: then its answer is there.
    let sent = send(stream, head, body);
    let mut have = 0;
    let received = receive(stream, buffer, &mut have);
    let error = match (received, sent) {
        (Ok(received), Ok(())) => return Ok(received),
        (Ok(received), _) if received.0.status >= 300 => return Ok(received),
        (_, Err(error)) | (Err(error), _) => error,
    };
    let late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
    Err(Broken { error, closed: have == 0 && !late })
}

fn send(stream: &mut TcpStream, head: &[u8], body: &[u8]) -> io::Result<()> {
    if body.is_empty() {
        return stream.write_all(head);
    }
    let mut sent = 0;
    while sent < head.len() {
        match stream.write_vectored(&[IoSlice::new(&head[sent..]), IoSlice::new(body)]) {
            Ok(now) => sent += now,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.write_all(&body[sent - head.len()..])
}

fn receive(
    stream: &mut TcpStream,
    buffer: &mut [u8],
    have: &mut usize,
) -> io::Result<(Answer, bool)> {
    let head = loop {
        more(stream, buffer, have)?;
        if let Some(head) = parse_head(&buffer[..*have])? {
            break head;
        }
        if *have >= HEAD_ROOM.min(buffer.len()) {
            return Err(invalid("the answer's head is too long".into()));
        }
    };
    let answer = |body| Answer { status: head.status, etag: head.etag.clone(), body };
    if head.status != 200 && head.status != 206 {
        if *have == head.size && head.length != Some(0) {
            let _ = more(stream, buffer, have);
        }
        return Ok((answer(head.size..*have), true));
    }
    if head.chunked {
        return Err(invalid("the answer is chunked, which is not supported".into()));
    }
    let length = head.length.ok_or_else(|| invalid("the answer does not say its length".into()))?;
    let end = usize::try_from(length).ok().and_then(|length| head.size.checked_add(length));
    let end = end.filter(|&end| end <= buffer.len()).ok_or_else(|| {
        invalid(format!("the answer has {length} bytes, which are more than were asked for"))
    })?;
    while *have < end {
        more(stream, &mut buffer[..end], have)?;
    }
    if *have > end {
        return Err(invalid("the answer goes on beyond its length".into()));
    }
    Ok((answer(head.size..end), head.close))
}

/// One read(2) of at least a byte.
fn more(stream: &mut TcpStream, buffer: &mut [u8], have: &mut usize) -> io::Result<()> {
    loop {
        match stream.read(&mut buffer[*have..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => {
                *have += got;
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
