//! GETs of objects, whole or in part, with their retries.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use time::UtcDateTime;

use super::Failure;
use super::answer::{self, HEAD_BYTES, Head, Wanted, ask};
use super::connection::{Connection, Pool};
use super::limiter::Limiter;
use super::signature::{Header, Signer, push_header, target};
use super::source::Source;
use crate::checksum::Checksum;

/// How often one GET is tried; after that the control plane goes on trying.
const ATTEMPTS: u32 = 3;
// https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ ("full jitter").
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The first read of an answer: its head, and little of its body, which would be copied.
const FIRST_BYTES: usize = 2 << 10;

/// A client of one lake. To be shared by threads, each with one GET at a time.
pub struct Lake {
    /// All but the credentials, which `signer` has.
    source: Source,
    authority: String,
    signer: RwLock<Option<Arc<Signer>>>,
    pool: Pool,
    limiter: Limiter,
    counters: Counters,
}

/// What went over the wire, retries included. Bytes are those of bodies.
#[derive(Debug, Default)]
pub struct Counters {
    pub get_requests: AtomicU64,
    pub bytes_read: AtomicU64,
    pub retries: AtomicU64,
    pub slow_downs: AtomicU64,
}

/// How one attempt failed.
enum Fault {
    /// Another one may not. `slow_down`: the server wants fewer requests.
    Transient {
        reason: String,
        slow_down: bool,
    },
    Final(Failure),
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::Final(failure)
    }
}

/// One GET, but for what is new in each attempt.
struct Get<'a> {
    target: Vec<u8>,
    /// Empty: the whole object.
    range: String,
    wanted: Wanted<'a>,
}

/// A request that was sent, and the first bytes of its answer.
struct Begun {
    connection: Connection,
    received: Vec<u8>,
}

impl Lake {
    /// An error is one of setting up TLS.
    pub fn new(source: Source) -> Result<Self, String> {
        Ok(Self {
            authority: source.authority(),
            signer: RwLock::new(Signer::new(&source).map(Arc::new)),
            pool: Pool::new(&source)?,
            limiter: Limiter::new(source.connections),
            counters: Counters::default(),
            source,
        })
    }

    /// Take over the credentials of `source`, if it differs in nothing else; false: it is another
    /// lake, or another way to it.
    pub fn renew(&self, source: &Source) -> bool {
        let same = self.source.same_but_for_credentials(source);
        if same {
            let signer = Signer::new(source).map(Arc::new);
            *self.signer.write().unwrap_or_else(PoisonError::into_inner) = signer;
        }
        same
    }

    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.pool.idle()
    }

    #[cfg(test)]
    pub(super) fn is_quiet(&self) -> bool {
        self.pool.is_quiet()
    }

    #[cfg(test)]
    pub(super) fn limit(&self) -> f64 {
        self.limiter.limit()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Fill `buffer` with the bytes from `offset` on of the object `key`, in its version `etag`
    /// (as the index has it, with its quotes; empty: any).
    ///
    /// `whole`: the buffer is as long as the object. It is asked for as such, with its checksum,
    /// which is returned if it comes; the caller compares it.
    ///
    /// Without an answer, `buffer` holds anything.
    pub fn get(
        &self,
        key: &[u8],
        etag: &[u8],
        offset: u64,
        buffer: &mut [u8],
        whole: bool,
    ) -> Result<Option<Checksum>, Failure> {
        let get = Get::new(&self.source.path, key, etag, offset, buffer.len(), whole)?;
        let mut failures = 0;
        loop {
            let slot = self.limiter.slot();
            let reason = match self.attempt(&get, buffer) {
                Ok(checksum) => {
                    self.limiter.succeeded();
                    return Ok(checksum);
                }
                Err(Fault::Final(failure)) => return Err(failure),
                Err(Fault::Transient { reason, slow_down }) => {
                    if slow_down {
                        count(&self.counters.slow_downs, 1);
                        self.limiter.slow_down();
                    }
                    reason
                }
            };
            drop(slot);
            failures += 1;
            if failures == ATTEMPTS {
                return Err(Failure::Ask(reason));
            }
            thread::sleep((FIRST_BACKOFF * (1 << (failures - 1))).mul_f64(fastrand::f64()));
            count(&self.counters.retries, 1);
        }
    }

    /// Send the request, again at once if the server had closed the connection, and take the answer.
    fn attempt(&self, get: &Get<'_>, buffer: &mut [u8]) -> Result<Option<Checksum>, Fault> {
        let request = self.request(get);
        if let Some(connection) = self.pool.take() {
            match self.begin(connection, &request) {
                Ok(begun) => return self.finish(begun, get, buffer),
                Err(error) if is_stall(&error) => return Err(self.lost(&error)),
                // Closed when it was taken, in all likelihood.
                Err(_) => count(&self.counters.retries, 1),
            }
        }
        let connection = self.pool.connect().map_err(|error| match error.kind() {
            ErrorKind::InvalidData => Fault::Final(Failure::Ask(format!("TLS failed: {error}"))),
            _ => transient(format!("cannot connect: {error}")),
        })?;
        let begun = self.begin(connection, &request).map_err(|error| self.lost(&error))?;
        self.finish(begun, get, buffer)
    }

    /// The head of a request, signed now: there is no more to it.
    fn request(&self, get: &Get<'_>) -> Vec<u8> {
        let mut headers: Vec<Header<'_>> = vec![("host", self.authority.as_bytes())];
        if !get.wanted.etag.is_empty() {
            headers.push(("if-match", get.wanted.etag));
        }
        if get.wanted.whole {
            headers.push(("x-amz-checksum-mode", b"ENABLED"));
        } else {
            headers.push(("range", get.range.as_bytes()));
        }
        headers
            .extend(self.source.headers.iter().map(|(name, value)| (&name[..], value.as_bytes())));
        let mut head = Vec::with_capacity(1 << 10);
        head.extend_from_slice(b"GET ");
        head.extend_from_slice(&get.target);
        head.extend_from_slice(b" HTTP/1.1\r\n");
        // Not signed: there are proxies that change it.
        push_header(&mut head, "accept-encoding", b"identity");
        for (name, value) in &headers {
            push_header(&mut head, name, value);
        }
        let signer = self.signer.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(signer) = signer {
            signer.sign(&mut head, &get.target, &headers, UtcDateTime::now());
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    fn begin(&self, mut connection: Connection, request: &[u8]) -> io::Result<Begun> {
        count(&self.counters.get_requests, 1);
        connection.send(request)?;
        let mut begun = Begun { connection, received: Vec::new() };
        begun.receive()?;
        Ok(begun)
    }

    /// The answer: its head compared with what was asked, its body in `buffer`. The connection is
    /// kept if nothing of it is left.
    fn finish(
        &self,
        mut begun: Begun,
        get: &Get<'_>,
        buffer: &mut [u8],
    ) -> Result<Option<Checksum>, Fault> {
        let length = self.receive_head(&mut begun)?;
        let Begun { mut connection, received } = begun;
        let head = Head::parse(&received[..length])?;
        judge(head.status)?;
        head.check(&get.wanted)?;
        let checksum = if get.wanted.whole { head.checksum()? } else { None };
        let early = &received[length..];
        if early.len() > buffer.len() {
            return Err(ask("the body has another length than asked for").into());
        }
        let (start, mut rest) = buffer.split_at_mut(early.len());
        start.copy_from_slice(early);
        count(&self.counters.bytes_read, early.len());
        while !rest.is_empty() {
            let got = connection.receive(rest).map_err(|error| self.lost(&error))?;
            count(&self.counters.bytes_read, got);
            rest = &mut rest[got..];
        }
        if head.persistent {
            self.pool.keep(connection);
        }
        Ok(checksum)
    }

    /// Receive until the head is whole: its length.
    fn receive_head(&self, begun: &mut Begun) -> Result<usize, Fault> {
        let patience = Instant::now() + self.source.stall;
        loop {
            if let Some(length) = answer::head_length(&begun.received) {
                return Ok(length);
            }
            if begun.received.len() > HEAD_BYTES {
                return Err(ask("an answer's head has no end").into());
            }
            // Byte after byte would be progress for ever.
            if Instant::now() >= patience {
                return Err(self.lost(&ErrorKind::TimedOut.into()));
            }
            begun.receive().map_err(|error| self.lost(&error))?;
        }
    }

    /// A connection failed under a request.
    fn lost(&self, error: &io::Error) -> Fault {
        if is_stall(error) {
            // Whoever waits has waited for long; the control plane tries on another connection, and
            // knows when to stop.
            let stall = self.source.stall.as_millis();
            return ask(&format!("no progress for {stall} ms")).into();
        }
        transient(format!("the connection failed: {error}"))
    }
}

impl<'a> Get<'a> {
    fn new(
        path: &[u8],
        key: &[u8],
        etag: &'a [u8],
        offset: u64,
        length: usize,
        whole: bool,
    ) -> Result<Self, Failure> {
        let length = length as u64;
        let right = if whole { offset == 0 } else { length > 0 };
        let Some(end) = offset.checked_add(length).filter(|_| right) else {
            return Err(ask("no such range"));
        };
        if etag.iter().any(u8::is_ascii_control) {
            return Err(ask("an ETag that no header can hold"));
        }
        let range = if whole { String::new() } else { format!("bytes={offset}-{}", end - 1) };
        let wanted = Wanted { etag, offset, length, whole };
        Ok(Self { target: target(path, key), range, wanted })
    }
}

impl Begun {
    fn receive(&mut self) -> io::Result<()> {
        let before = self.received.len();
        self.received.resize(before + FIRST_BYTES, 0);
        let received = self.connection.receive(&mut self.received[before..]);
        self.received.truncate(before + *received.as_ref().unwrap_or(&0));
        received.map(|_| ())
    }
}

/// What a status means before all else.
fn judge(status: u16) -> Result<(), Fault> {
    match status {
        412 => Err(Failure::OtherVersion.into()),
        408 | 429 | 500 | 502 | 503 | 504 | 509 => Err(Fault::Transient {
            reason: format!("the server answered {status}"),
            slow_down: matches!(status, 429 | 503),
        }),
        _ => Ok(()),
    }
}

fn transient(reason: String) -> Fault {
    Fault::Transient { reason, slow_down: false }
}

/// Whether a socket's patience ended.
fn is_stall(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}
