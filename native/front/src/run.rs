//! The life of a front: it meets the control plane, takes over what the last front left, serves,
//! and ends with the connection.
//!
//! Threads: `WORKERS` that read requests; one, the main one, that has the control plane's answers
//! and reports to the keeper; one for each request to the lake that may be under way; some that
//! write what they brought, one that records it, some that compare it with the lake's checksums;
//! some that open what the control plane has decided about, one that verifies; one that sees objects
//! off that nobody uses any more; one for errands, and one that tells the kernel what to forget,
//! which may wait for requests that the others answer.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::attributes::now_ns;
use crate::cache::{self, Cache, complete};
use crate::errands::{self, Errand};
use crate::fetching::{self, HeldUp};
use crate::front::{Front, Senders};
use crate::fuse::abi::opcode;
use crate::fuse::init;
use crate::index::journal::Journal;
use crate::index::names::Names;
use crate::log;
use crate::options::Options;
use crate::serve::{Opening, Then, Worker};
use crate::shared::{Shared, Slot};
use crate::sys::device::Device;
use crate::sys::socket::Socket;
use crate::sys::{self, file};
use crate::upcall::client::{Client, Event};
use crate::upcall::wire::{Hello, LONGEST};

/// More than the cores, because a worker waits for the disk when a block is not in the page cache.
/// Small warm files on two cores: 4,900 a second with 16, 5,950 with 8, 5,500 with 4, 4,900 with 2.
const WORKERS: usize = 8;
/// How often the keeper hears that all is well, and the control plane of accesses.
const TURN: Duration = Duration::from_millis(500);
/// Comparisons with the lake's checksums at one time: each waits for a HEAD.
const COMPARISONS: usize = 8;
/// OPENs at one time that the control plane has just decided about.
const OPENERS: usize = 2;
/// An index that can be used no more is opened anew, by another front, but not at once: a disk that
/// fails goes on failing, and a front that ends too often is given up.
const INDEX_LOST: Duration = Duration::from_mins(1);
/// How long nothing may have come from the lake before memory that was for it is given back.
const QUIET: Duration = Duration::from_secs(5);
/// A worker that is busy with one request for longer hangs in the disk. If all of them do, nothing
/// is reported any more, and the keeper's watchdog draws its conclusion.
const HANGING: Duration = Duration::from_secs(20);
/// Copies that wait to be verified.
const UNVERIFIED: usize = 1024;
/// Another index than before: the keeper starts a front that opens the new one.
const EXIT_OTHER_INDEX: u8 = 75;

/// Serve until the end; the exit code.
pub fn run(options: Options) -> Result<u8, Box<dyn std::error::Error>> {
    let report = std::fs::File::from(options.report);
    let device = Device::new(options.fuse);
    let shared = Shared::map(options.shared)?;
    let client = Client::new(Socket::new(options.upcall));
    let Begun { hello, met, index_numbers, names, cache, journal, waiting } =
        begin(&client, &shared)?;
    let left = shared.scan(|unique| device.waits_for(unique));
    let uniques: Vec<u64> = left.iter().map(|slot| unique_of(&shared, slot)).collect();
    let (rows, pending) = shared.rows(|unique| uniques.contains(&unique));
    let begun = shared.init_flags();
    let (unverified, to_verify) = sync_channel(UNVERIFIED);
    let (notices, to_notify) = channel();
    let (others, to_do) = channel();
    let (opening, to_open) = channel();
    let front = Front::new(
        device,
        shared,
        client,
        &rows,
        pending,
        hello,
        index_numbers,
        names,
        cache,
        journal,
        options.masked,
        unverified,
        Senders { notices, others, opening },
    );
    let front = Arc::new(front);
    if met {
        front.tell_what_is_open();
        front.client.resume();
    }
    if let Some(flags) = begun {
        log::info(&format!(
            "a new front goes on: {} requests, {} open files, {}",
            left.len(),
            rows.len(),
            init::names(flags)
        ));
        let _ = front.ready.set(());
    }
    // Before anything else: a RELEASE that was acted on in part may have closed the backing id that
    // an OPEN would be given.
    let (released, left): (Vec<_>, Vec<_>) =
        left.into_iter().partition(|slot| opcode_of(&front.shared, slot) == opcode::RELEASE);
    {
        let mut worker = Worker::new(front.clone());
        for slot in released {
            worker.replay(slot);
        }
    }
    fetching::start(&front)?;
    help(&front, waiting, to_verify, to_open, [to_notify, to_do])?;
    serve(&front, left, &report)
}

/// What a thread does.
type Work = Box<dyn FnOnce(&Arc<Front>) + Send>;

/// Start the threads that work beside requests.
fn help(
    front: &Arc<Front>,
    waiting: cache::Waiting,
    to_verify: Receiver<u64>,
    to_open: Receiver<Opening>,
    errands: [Receiver<Errand>; 2],
) -> io::Result<()> {
    let start = |name: &str, work: Work| {
        let front = front.clone();
        thread::Builder::new().name(name.into()).spawn(move || work(&front)).map(drop)
    };
    start("record", Box::new(|front| front.cache.recorder.run(&front.cache)))?;
    let to_open = Arc::new(Mutex::new(to_open));
    for _ in 0..OPENERS {
        let to_open = to_open.clone();
        let open = move |front: &Arc<Front>| {
            let mut worker = Worker::new(front.clone());
            loop {
                let opening = to_open.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(opening) = opening else { return };
                worker.go_on_opening(opening);
            }
        };
        start("open", Box::new(open))?;
    }
    let cache::Waiting { left, filled } = waiting;
    start("leave", Box::new(move |front| errands::see_off(front, left)))?;
    let filled = Arc::new(Mutex::new(filled));
    for _ in 0..COMPARISONS {
        let filled = filled.clone();
        start("complete", Box::new(move |front| complete::run(front, &filled)))?;
    }
    for receiver in errands {
        start("errands", Box::new(move |front| errands::run(front, receiver)))?;
    }
    start("sweep", Box::new(|front| front.cache.files.sweep()))?;
    let verify = move |front: &Arc<Front>| {
        let mut worker = Worker::new(front.clone());
        for ino in to_verify {
            worker.verify(ino);
        }
    };
    start("verify", Box::new(verify))
}

/// What a front begins with.
struct Begun {
    hello: Hello,
    /// The control plane has said it just now, and not to a front before this one.
    met: bool,
    index_numbers: Vec<Option<u64>>,
    names: Names,
    cache: Cache,
    journal: Option<Journal>,
    waiting: cache::Waiting,
}

/// Begin a session with the control plane. A front that follows another one knows what it will be
/// told, and does not wait for it.
fn begin(client: &Client<Then>, shared: &Shared) -> Result<Begun, Box<dyn std::error::Error>> {
    let open = |hello: Hello, met| {
        // Before they are opened: another one may take their place at any time.
        let index_numbers = index_numbers(&hello.lake_directory);
        let names = Names::open(&hello.lake_directory)?;
        let (cache, waiting) = Cache::open(&hello.lake_directory, hello.limits, Arc::default())?;
        let journal = hello.rules.writes.then(|| Journal::open(&hello.lake_directory));
        let journal = journal.transpose()?;
        let begun = Begun { hello, met, index_numbers, names, cache, journal, waiting };
        Ok::<_, Box<dyn std::error::Error>>(begun)
    };
    client.start(shared.next_session());
    if let Some(hello) = shared.hello().as_deref().and_then(Hello::parse)
        && !is_damaged(&hello.lake_directory)
    {
        match open(hello, false) {
            Ok(begun) => return Ok(begun),
            // The control plane may be about to put another index there.
            Err(error) => log::warning(&format!("waiting for the control plane: {error}")),
        }
    }
    open(meet(client, shared)?, true)
}

/// Whether an index was found damaged in use, and is to be moved aside by the next control plane.
fn is_damaged(lake_directory: &std::path::Path) -> bool {
    ["names", "cache"].iter().any(|name| lake_directory.join(name).join("damaged").exists())
}

/// Wait for HELLO.
fn meet(client: &Client<Then>, shared: &Shared) -> io::Result<Hello> {
    let mut met = None;
    let mut buffer = vec![0; LONGEST];
    while met.is_none() {
        let mut start = false;
        client.pump(&mut buffer, 1000, |event| match event {
            Event::Hello(hello, tail) => {
                shared.set_hello(tail);
                met = Some(hello);
            }
            Event::Ready => start = true,
            _ => {}
        })?;
        if start && met.is_none() {
            client.start(shared.next_session());
        }
    }
    met.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn opcode_of(shared: &Shared, slot: &Slot) -> u32 {
    shared.message(slot)[4..8].try_into().map_or(0, u32::from_ne_bytes)
}

fn unique_of(shared: &Shared, slot: &Slot) -> u64 {
    shared.message(slot)[8..16].try_into().map_or(0, u64::from_ne_bytes)
}

fn serve(
    front: &Arc<Front>,
    left: Vec<Slot>,
    report: &std::fs::File,
) -> Result<u8, Box<dyn std::error::Error>> {
    let left = Arc::new(Mutex::new(left));
    let busy: Arc<Vec<AtomicU64>> = Arc::new((0..WORKERS).map(|_| AtomicU64::new(0)).collect());
    let born = Instant::now();
    let (end, ended) = channel();
    for number in 0..WORKERS {
        let (front, left, busy, end) = (front.clone(), left.clone(), busy.clone(), end.clone());
        thread::Builder::new().name(format!("front-{number}")).spawn(move || {
            let _ = end.send(work(&front, &left, &busy[number], born));
        })?;
    }
    attend(front, &ended, &busy, born, report)
}

fn work(
    front: &Arc<Front>,
    left: &Mutex<Vec<Slot>>,
    busy: &AtomicU64,
    born: Instant,
) -> io::Result<()> {
    let mut worker = Worker::new(front.clone());
    loop {
        let slot = left.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(slot) = slot else { break };
        worker.replay(slot);
    }
    worker.run(|begins| {
        let since = if begins { now_ms(born) } else { 0 };
        busy.store(since, Ordering::Relaxed);
    })
}

/// Milliseconds since `born`, at least 1.
fn now_ms(born: Instant) -> u64 {
    u64::try_from(born.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The main thread's part: the control plane and the keeper.
fn attend(
    front: &Arc<Front>,
    ended: &Receiver<io::Result<()>>,
    busy: &[AtomicU64],
    born: Instant,
    report: &std::fs::File,
) -> Result<u8, Box<dyn std::error::Error>> {
    let mut worker = Worker::new(front.clone());
    let mut buffer = vec![0; LONGEST];
    let mut said_ready = false;
    let mut last_turn = Instant::now();
    let mut quiet = (0, last_turn);
    let mut held_up = HeldUp::begin();
    let mut over = None;
    loop {
        if let Ok(result) = ended.try_recv() {
            front.cache.close();
            result?;
            return Ok(0);
        }
        if !said_ready && front.ready.get().is_some() {
            said_ready = true;
            say(report, "ready");
        }
        if last_turn.elapsed() >= TURN {
            last_turn = Instant::now();
            front.client.flush_accesses();
            held_up.look(front)?;
            if front.cache.index_lost.load(Ordering::Acquire) && born.elapsed() >= INDEX_LOST {
                log::warning("the cache index has to be opened anew: starting again");
                return Ok(EXIT_OTHER_INDEX);
            }
            let came = front.stats.bytes_from_lake.load(Ordering::Relaxed);
            if came != quiet.0 {
                quiet = (came, last_turn);
            } else if quiet.1.elapsed() >= QUIET {
                front.cache.buffers.trim();
            }
            let longest = Duration::from_millis(now_ms(born)).saturating_sub(HANGING);
            let limit = u64::try_from(longest.as_millis()).unwrap_or(0);
            let hangs = |since: &AtomicU64| (1..limit).contains(&since.load(Ordering::Relaxed));
            if !busy.iter().all(hangs) {
                say(report, "alive");
            }
        }
        front.client.flush_due(now_ns());
        // Before INIT, which `ready` waits for, the keeper waits for every millisecond of ours.
        let timeout_ms = if said_ready { 100 } else { 1 };
        front.client.pump(&mut buffer, timeout_ms, |event| match event {
            Event::Answered(pending, answer) => worker.answered(pending, &answer),
            Event::Ready => front.client.start(front.shared.next_session()),
            Event::Hello(hello, tail) => {
                front.shared.set_hello(tail);
                front.send(Errand::Resize { command: None, limit: hello.limits.cache });
                if hello.lake_directory == front.lake_directory && front.index_is_the_same() {
                    front.tell_what_is_open();
                    front.client.resume();
                } else {
                    over = Some(EXIT_OTHER_INDEX);
                }
            }
            Event::Source(tail) => front.set_source(tail),
            Event::Space(space) => front.set_space(space),
            Event::ForgetEntry { command, parent, name } => {
                front.send(Errand::ForgetEntry { command, parent, name: name.to_vec() });
            }
            Event::ForgetContent { command, ino } => {
                front.send(Errand::ForgetContent { command: Some(command), ino });
            }
            Event::Fetch { command, ino, lo, hi, priority } => {
                front.send(Errand::Fetch { command, ino, lo, hi, priority });
            }
            Event::Fill { command, inos } => front.send(Errand::Fill { command, inos }),
            Event::Adopt { command, adoption } => front.send(Errand::Adopt { command, adoption }),
            Event::Renamed { command, ino, old, new } => {
                front.send(Errand::Renamed { command, ino, old, new });
            }
            Event::Evict { command, victims } => {
                front.send(Errand::Evict { command: Some(command), victims });
            }
            Event::Invalidate { command, ino } => {
                front.send(Errand::Invalidate { command, ino });
            }
            Event::Resize { command, limit } => {
                front.send(Errand::Resize { command: Some(command), limit });
            }
            Event::Stats { command } => front.client.done(command, 0, front.status().as_bytes()),
        })?;
        if let Some(code) = over {
            log::warning("the control plane has another index: starting again with it");
            return Ok(code);
        }
    }
}

/// A line for the keeper. One that does not listen will notice the missing `alive`.
fn say(mut report: &std::fs::File, line: &str) {
    let _ = io::Write::write_all(&mut report, format!("{line}\n").as_bytes());
}

/// Set this process up, before its first thread.
pub fn prepare(mountpoint: &str) {
    log::set_up(mountpoint);
    // A thread that panics would leave its request without an answer; a successor answers it.
    std::panic::set_hook(Box::new(|panic| {
        log::error(&format!("the native front failed: {panic}"));
        std::process::abort();
    }));
    sys::keep_few_heaps();
    sys::raise_open_files();
}

/// The numbers of the index files, by which another index in the same place is told.
pub fn index_numbers(lake_directory: &std::path::Path) -> Vec<Option<u64>> {
    ["names", "cache"].map(|name| file::inode(&lake_directory.join(name).join("data.mdb"))).into()
}
