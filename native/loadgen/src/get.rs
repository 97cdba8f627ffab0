//! The bare client: what the lake gives to somebody who only sends GETs. Presigned URLs, persistent
//! connections, no file system: the yardstick for cold reads.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::connection::{Answer, Connection, HEAD_ROOM};
use crate::dataset::{DataFile, DataSet};
use crate::failure::Failure;
use crate::gate::{self, Gate};
use crate::input;
use crate::remote::{self, Server};
use crate::report::{Histogram, merged};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Persistent connections, a thread each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: u16,
    /// A larger object is fetched in ranges of this size
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = input::parse_unit)]
    pub part: u64,
}

struct Object {
    file: DataFile,
    target: String,
}

/// What one request fetches.
struct Piece {
    object: usize,
    offset: u64,
    length: u64,
    hash: u64,
}

#[derive(Default)]
struct Tally {
    requests: u64,
    bytes: u64,
    opened: u64,
    /// Of objects that are one piece.
    latency: Histogram,
}

/// Everything that the connections share.
struct Work {
    server: Server,
    objects: Vec<Object>,
    pieces: Vec<Piece>,
    next: AtomicUsize,
    largest: usize,
}

/// Fetches the objects of the lines `SIZE<TAB>PATH<TAB>URL`.
pub fn run(data: &DataSet, options: &Options, lines: &[u8]) -> Result<Value, Failure> {
    let work = Arc::new(Work::of(data, options.part, lines)?);
    let worker = |_| {
        let work = work.clone();
        move |gate: &Gate<Tally>| work.connection(gate)
    };
    let finished = gate::run((0..options.connections).map(worker).collect())?;
    let all = &finished.results;
    Ok(json!({
        "objects": work.objects.len(),
        "bytes": all.iter().map(|one| one.bytes).sum::<u64>(),
        "requests": all.iter().map(|one| one.requests).sum::<u64>(),
        "connections_opened": all.iter().map(|one| one.opened).sum::<u64>(),
        "seconds": finished.seconds,
        "cpu_s": finished.cpu_s,
        "latency_us": merged(all.iter().map(|one| &one.latency)).json_us(),
    }))
}

impl Work {
    fn of(data: &DataSet, part: u64, lines: &[u8]) -> Result<Self, Failure> {
        let mut server = None;
        let mut objects = Vec::new();
        let mut pieces = Vec::new();
        for line in input::lines(lines) {
            let [size, path, url] = input::fields(line)?;
            let file = data.file(path, Some(input::number(line, size)?))?;
            let target = Server::target(&mut server, url)?;
            let object = objects.len();
            let mut offset = 0;
            while offset == 0 || offset < file.size {
                let length = part.min(file.size - offset);
                pieces.push(Piece { object, offset, length, hash: 0 });
                offset += length.max(1);
            }
            objects.push(Object { file, target });
        }
        let hashes = gate::prepare(&pieces, |piece| {
            objects[piece.object].file.content.hash(piece.offset, piece.length)
        });
        for (piece, hash) in pieces.iter_mut().zip(hashes) {
            piece.hash = hash;
        }
        let largest = pieces.iter().map(|piece| piece.length as usize).max().unwrap_or(0);
        let server = Server::known(server)?;
        Ok(Self { server, objects, pieces, next: AtomicUsize::new(0), largest })
    }

    fn connection(&self, gate: &Gate<Tally>) -> Result<Tally, Failure> {
        let mut tally = Tally::default();
        let mut connection = Connection::new(self.server.address);
        // Written once, so that its pages are there.
        let mut buffer = vec![0xA5; HEAD_ROOM + self.largest];
        let mut request = Vec::with_capacity(2048);
        let _ = gate.wait();
        while let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let object = &self.objects[piece.object];
            let whole = piece.length == object.file.size;
            self.request(&mut request, object, piece, whole);
            let begin = Instant::now();
            let answer = connection
                .exchange(&request, b"", &mut buffer)
                .map_err(|error| object.file.failed(error))?;
            if whole {
                tally.latency.record(begin.elapsed());
            }
            check(object, piece, whole, &answer, &buffer)?;
            tally.requests += 1;
            tally.bytes += piece.length;
        }
        tally.opened = connection.opened;
        Ok(tally)
    }

    fn request(&self, request: &mut Vec<u8>, object: &Object, piece: &Piece, whole: bool) {
        request.clear();
        self.server.begin(request, "GET", &object.target);
        if !whole {
            let last = piece.offset + piece.length - 1;
            let _ = write!(request, "Range: bytes={}-{last}\r\n", piece.offset);
        }
        request.extend_from_slice(b"\r\n");
    }
}

fn check(
    object: &Object,
    piece: &Piece,
    whole: bool,
    answer: &Answer,
    buffer: &[u8],
) -> Result<(), Failure> {
    let body = &buffer[answer.body.clone()];
    let wanted = if whole { 200 } else { 206 };
    if answer.status != wanted {
        return Err(remote::refused(object.file.location(), answer.status, body));
    }
    let got = body.len() as u64;
    if got != piece.length {
        return Err(object.file.wrong_length(piece.offset + got, piece.offset + piece.length));
    }
    object.file.verify(piece.offset, body, piece.hash)
}
