//! The bare client's other half: PUTs of objects, or of the parts of multipart uploads, whose URLs
//! the caller signed and whose uploads it completes with the ETags printed here.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::connection::{Connection, HEAD_ROOM};
use crate::dataset::{DataFile, DataSet};
use crate::failure::Failure;
use crate::gate::{self, Gate};
use crate::input;
use crate::memory::{self, Extent};
use crate::remote::{self, Server};
use crate::report::{Histogram, merged};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Persistent connections, a thread each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: u16,
    /// The size of a part: a line with an OFFSET stands for so much of the object, or its rest
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = input::parse_unit)]
    pub part: u64,
    /// The most that all bodies, made ready before the clock starts, may take
    #[arg(long, value_name = "SIZE", default_value = "8G", value_parser = input::parse_size)]
    pub memory: u64,
}

struct Request {
    file: DataFile,
    target: String,
    body: Vec<u8>,
}

struct Tally {
    latency: Histogram,
    opened: u64,
    /// By index of the request.
    etags: Vec<(usize, Option<String>)>,
}

/// Sends the lines `SIZE<TAB>PATH<TAB>URL` (an object) or `SIZE<TAB>OFFSET<TAB>PATH<TAB>URL` (the part
/// at OFFSET of an object of SIZE).
pub fn run(data: &DataSet, options: &Options, lines: &[u8]) -> Result<Value, Failure> {
    let (server, requests) = requests(data, options, lines)?;
    let count = requests.len();
    let bytes: usize = requests.iter().map(|request| request.body.len()).sum();
    let shared = Arc::new((server, requests, AtomicUsize::new(0)));
    let worker = |_| {
        let shared = shared.clone();
        move |gate: &Gate<Tally>| {
            let (server, requests, next) = &*shared;
            connection(gate, server, requests, next)
        }
    };
    let finished = gate::run((0..options.connections).map(worker).collect())?;
    let mut etags = vec![None; count];
    for (at, etag) in finished.results.iter().flat_map(|one| &one.etags) {
        etags[*at].clone_from(etag);
    }
    Ok(json!({
        "requests": count,
        "bytes": bytes,
        "connections_opened": finished.results.iter().map(|one| one.opened).sum::<u64>(),
        "seconds": finished.seconds,
        "cpu_s": finished.cpu_s,
        "latency_us": merged(finished.results.iter().map(|one| &one.latency)).json_us(),
        "etags": etags,
    }))
}

fn requests(
    data: &DataSet,
    options: &Options,
    lines: &[u8],
) -> Result<(Server, Vec<Request>), Failure> {
    let mut server = None;
    let mut wanted = Vec::new();
    for line in input::lines(lines) {
        let is_part = line.iter().filter(|&&byte| byte == b'\t').count() == 3;
        let (size, offset, path, url) = if is_part {
            let [size, offset, path, url] = input::fields(line)?;
            (size, Some(input::number(line, offset)?), path, url)
        } else {
            let [size, path, url] = input::fields(line)?;
            (size, None, path, url)
        };
        let file = data.file(path, Some(input::number(line, size)?))?;
        let (offset, most) = offset.map_or((0, u64::MAX), |offset| (offset, options.part));
        let rest = file.size.checked_sub(offset).ok_or_else(|| {
            Failure::Usage(format!("line {:?}: beyond the end", String::from_utf8_lossy(line)))
        })?;
        wanted.push((file, Server::target(&mut server, url)?, offset, rest.min(most)));
    }
    let extents: Vec<_> = wanted
        .iter()
        .map(|&(ref file, _, offset, length)| Extent { file, offset, length })
        .collect();
    let bodies = memory::bodies(&extents, options.memory)?;
    let requests = wanted
        .into_iter()
        .zip(bodies)
        .map(|((file, target, ..), body)| Request { file, target, body })
        .collect();
    Ok((Server::known(server)?, requests))
}

fn connection(
    gate: &Gate<Tally>,
    server: &Server,
    requests: &[Request],
    next: &AtomicUsize,
) -> Result<Tally, Failure> {
    let mut connection = Connection::new(server.address);
    let mut tally = Tally { latency: Histogram::default(), opened: 0, etags: Vec::new() };
    let mut buffer = vec![0; HEAD_ROOM];
    let mut head = Vec::with_capacity(2048);
    let _ = gate.wait();
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let Some(request) = requests.get(at) else {
            break;
        };
        head.clear();
        server.begin(&mut head, "PUT", &request.target);
        let _ = write!(head, "Content-Length: {}\r\n\r\n", request.body.len());
        let begin = Instant::now();
        let answer = connection
            .exchange(&head, &request.body, &mut buffer)
            .map_err(|error| request.file.failed(error))?;
        tally.latency.record(begin.elapsed());
        if answer.status != 200 {
            let body = &buffer[answer.body];
            return Err(remote::refused(request.file.location(), answer.status, body));
        }
        tally.etags.push((at, answer.etag));
    }
    tally.opened = connection.opened;
    Ok(tally)
}
