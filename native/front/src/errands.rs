//! What is done beside requests: commands of the control plane's, and what the cache leaves to be
//! done when its users have left.
//!
//! One thread does them in order; another one tells the kernel what to forget, which may wait for
//! requests that need the first. A fetch, which takes as long as the lake does, has a thread of its
//! own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::attributes::{Rules, Ttl};
use crate::cache::adopt::Adoption;
use crate::cache::evict::Victim;
use crate::cache::fetch::wait_until_landed;
use crate::cache::flight::{Flight, Until, Waiting};
use crate::cache::objects::Object;
use crate::cache::read::PART_BYTES;
use crate::cache::table::Held;
use crate::front::Front;
use crate::index::cache::CacheReader;
use crate::queue::Priority;
use crate::serve::Worker;
use crate::space::Need;
use crate::upcall::client::Command;

/// Parts of one object that a fetch keeps in flight: at 90 MB/s each, four fill the standard link.
const FETCH_WIDTH: usize = 4;

/// Something to be done; of a command its end is told.
pub enum Errand {
    ForgetEntry { command: Command, parent: u64, name: Vec<u8> },
    ForgetContent { command: Option<Command>, ino: u64 },
    Evict { command: Option<Command>, victims: Vec<Victim> },
    Invalidate { command: Command, ino: u64 },
    Resize { command: Option<Command>, limit: Option<u64> },
    Fetch { command: Command, ino: u64, lo: u64, hi: u64, priority: Priority },
    Fill { command: Command, inos: Vec<u64> },
    Adopt { command: Command, adoption: Adoption },
    Renamed { command: Command, ino: u64, old: [u8; 16], new: [u8; 16] },
}

/// Objects whose last user has left, until the end of the process.
pub fn see_off(front: &Arc<Front>, left: Receiver<Arc<Object>>) {
    let mut worker = Worker::new(front.clone());
    for object in left {
        if front.cache.left(worker.cache_reader(), &object) {
            let victims = [Victim { ino: object.ino, extents: Vec::new() }];
            front.evict(worker.cache_reader(), &victims, true);
        }
    }
}

/// Do what comes, until the end of the process.
pub fn run(front: &Arc<Front>, errands: Receiver<Errand>) {
    let mut worker = Worker::new(front.clone());
    for errand in errands {
        run_one(front, &mut worker, errand);
    }
}

fn run_one(front: &Arc<Front>, worker: &mut Worker, errand: Errand) {
    match errand {
        Errand::ForgetEntry { command, parent, name } => {
            done(front, command, front.device.forget_entry(parent, &name));
        }
        Errand::ForgetContent { command, ino } => {
            let result = front.device.forget_content(ino);
            if let Some(command) = command {
                done(front, command, result);
            }
        }
        Errand::Evict { command, victims } => {
            let freed = front.evict(worker.cache_reader(), &victims, true);
            if let Some(command) = command {
                let answer = [freed.files.to_le_bytes(), freed.bytes.to_le_bytes()].concat();
                front.client.done(command, 0, &answer);
            }
        }
        Errand::Invalidate { command, ino } => {
            if let Some(object) = front.cache.table.get(ino) {
                object.stale.store(true, Ordering::Release);
            }
            let victims = [Victim { ino, extents: Vec::new() }];
            front.evict(worker.cache_reader(), &victims, true);
            front.client.done(command, 0, &[]);
        }
        Errand::Resize { command, limit } => {
            let cache = &front.cache;
            cache
                .capacity
                .resize(limit, |need| front.make_room(worker.cache_reader(), need.bytes, None));
            if let Some(command) = command {
                front.client.done(command, 0, &[]);
            }
        }
        Errand::Fetch { command, ino, lo, hi, priority } => {
            beside(front, command, move |front| {
                let bytes = fetch(front, ino, lo, hi, priority)?;
                Ok(bytes.to_le_bytes().to_vec())
            });
        }
        Errand::Fill { command, inos } => {
            beside(front, command, move |front| Ok(fill(front, &inos).to_le_bytes().to_vec()));
        }
        Errand::Renamed { command, ino, old, new } => {
            beside(front, command, move |front| {
                let mut index = front.cache.index.reader();
                front.cache.renamed(&mut index, ino, old, new).map(|()| Vec::new())
            });
        }
        Errand::Adopt { command, adoption } => {
            beside(front, command, move |front| {
                if front.opened.is_open(adoption.ino) {
                    return Err((libc::EBUSY, "it is open".into()));
                }
                let mut index = front.cache.index.reader();
                let make_room =
                    |index: &mut CacheReader, need: Need| front.make_room(index, need.bytes, None);
                front.cache.adopt(&mut index, &adoption, make_room).map(|()| Vec::new())
            });
        }
    }
}

/// Carry out a command that waits for the lake in a thread of its own, and answer it.
fn beside(
    front: &Arc<Front>,
    command: Command,
    work: impl FnOnce(&Arc<Front>) -> Result<Vec<u8>, (i32, String)> + Send + 'static,
) {
    let begun = thread::Builder::new().name("fetch".into()).spawn({
        let front = front.clone();
        move || {
            let (code, answer) = match work(&front) {
                Ok(answer) => (0, answer),
                Err((code, reason)) => (code, reason.into_bytes()),
            };
            front.client.done(command, code.unsigned_abs(), &answer);
        }
    });
    if let Err(error) = begun {
        done(front, command, Err(error));
    }
}

fn done(front: &Front, command: Command, result: std::io::Result<()>) {
    let errno = result.err().and_then(|error| error.raw_os_error()).unwrap_or(0);
    front.client.done(command, errno.unsigned_abs(), &[]);
}

/// Bring `[lo, hi)` of a file into the cache; the bytes that had to be fetched, after they are on
/// the cache disk. Or an errno, and the reason.
fn fetch(
    front: &Arc<Front>,
    ino: u64,
    lo: u64,
    hi: u64,
    priority: Priority,
) -> Result<u64, (i32, String)> {
    let mut worker = Worker::new(front.clone());
    let rules = Rules { ttl: Ttl::FOREVER, ..front.rules.clone() };
    let gone = || (libc::ESTALE, "it changed in the lake".to_owned());
    let version = worker.openable(&rules, ino).ok_or_else(gone)?;
    let size = version.attributes.size;
    if size == 0 {
        return Ok(0);
    }
    let object = worker.acquire(ino, &version).ok_or_else(gone)?;
    let under_way = VecDeque::new();
    let mut fetch = Fetch { front, object, worker: &mut worker, priority, bytes: 0, under_way };
    let (mut at, end) = (lo, hi.min(size));
    while at < end {
        let part_end = ((at / PART_BYTES + 1) * PART_BYTES).min(end);
        fetch.guard()?;
        fetch.send_for(at, part_end);
        while fetch.under_way.len() >= FETCH_WIDTH {
            fetch.land()?;
        }
        at = part_end;
    }
    while !fetch.under_way.is_empty() {
        fetch.land()?;
    }
    fetch.guard()?;
    // Who asked for it looks into the index next.
    front.cache.recorder.record_now(&fetch.object).wait(None);
    Ok(fetch.bytes)
}

/// Bring files, which nobody waits for, into the cache; how many were not worth what would have had
/// to go, after the others are on the cache disk. What the lake refuses is left out.
fn fill(front: &Arc<Front>, inos: &[u64]) -> u64 {
    let mut worker = Worker::new(front.clone());
    let rules = Rules { ttl: Ttl::FOREVER, ..front.rules.clone() };
    let (over, files_over) = channel();
    for &ino in inos {
        let Some(version) = worker.openable(&rules, ino) else { continue };
        let Some(object) = worker.acquire(ino, &version) else { continue };
        let size = version.attributes.size;
        let flights = front.cache.ahead(&object, 0, size, PART_BYTES, Priority::Fill);
        // Each file by itself: whoever holds a flight may hold its bytes, which count no more.
        let over = over.clone();
        let task = Box::new(move |_: &mut Worker, flights: &[Arc<Flight>]| {
            let any = |flag: fn(&Flight) -> &AtomicBool| {
                flights.iter().any(|flight| flag(flight).load(Ordering::Acquire))
            };
            let _ = over.send((object, any(|flight| &flight.declined), any(|flight| &flight.kept)));
        });
        Waiting::until(Until::Landed, flights, task, &mut worker);
    }
    drop(over);
    let (left, rest): (Vec<_>, Vec<_>) =
        files_over.into_iter().partition(|&(_, declined, _)| declined);
    // Who asked for them looks into the index next.
    let kept = rest.iter().filter(|&&(_, _, kept)| kept);
    let recorded: Vec<_> =
        kept.map(|(object, ..)| front.cache.recorder.record_now(object)).collect();
    for gate in recorded {
        gate.wait(None);
    }
    left.len() as u64
}

struct Fetch<'f> {
    front: &'f Arc<Front>,
    object: Held,
    worker: &'f mut Worker,
    priority: Priority,
    bytes: u64,
    under_way: VecDeque<Arc<Flight>>,
}

impl Fetch<'_> {
    fn guard(&self) -> Result<(), (i32, String)> {
        let refused = crate::cache::Cache::guard(&self.object, &self.object.state());
        refused.map_or(Ok(()), |code| Err((code, String::new())))
    }

    fn send_for(&mut self, lo: u64, hi: u64) {
        let flights = self.front.cache.ahead(&self.object, lo, hi, PART_BYTES, self.priority);
        self.under_way.extend(flights);
    }

    fn land(&mut self) -> Result<(), (i32, String)> {
        let Some(flight) = self.under_way.pop_front() else { return Ok(()) };
        wait_until_landed(self.worker, vec![flight.clone()]);
        if flight.kept.load(Ordering::Acquire) {
            self.bytes += flight.hi - flight.lo;
            return Ok(());
        }
        let declined = flight.declined.load(Ordering::Acquire);
        match flight.outcome() {
            Some(Err(code)) if code != libc::ENOSPC => Err((code, String::new())),
            _ if declined && self.priority == Priority::WarmUp => {
                // Room was asked for by others, before this one joined them.
                self.send_for(flight.lo, flight.hi);
                Ok(())
            }
            _ if declined => Err((libc::ENOSPC, "it is not worth what would have to go".into())),
            _ => {
                let reason = self.front.cache.health.reason();
                let reason =
                    if reason.is_empty() { "there is no room for it".to_owned() } else { reason };
                Err((libc::ENOSPC, reason))
            }
        }
    }
}
