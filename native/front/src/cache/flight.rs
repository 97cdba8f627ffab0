//! One GET and what becomes of its bytes.
//!
//! ```text
//! Cache::start() --> queued --> GET --> done: whoever waits goes on from memory
//!                      |         |       |
//!                      |         |       `--> room made --> written, recorded --> landed
//!                      |         |            (or not: C8)
//!                      |         `--> failed: for all who wait; the next one who asks asks the lake
//!                      |              anew
//!                      `--> room there already is taken first; for a fill alone it is made first
//!                             `--> called off: no room, and nobody but fill wants it
//! ```
//!
//! While blocks of a flight are not in the cache file, readers find the flight and take its bytes.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::buffers::Buffer;
use super::table::Held;
use crate::index::records::overhead_bytes;
use crate::queue::{Id, Priority};
use crate::serve::Worker;

/// What is to be done once flights are over, by whichever thread ends the last of them.
pub type Task = Box<dyn FnOnce(&mut Worker, &[Arc<Flight>]) + Send>;

/// One GET of `[lo, hi)` of an object.
pub struct Flight {
    pub object: Held,
    pub lo: u64,
    pub hi: u64,
    /// The blocks that it brings whole and that were missing when it began.
    pub blocks: Vec<u32>,
    /// The life of the object when it began.
    pub life: u32,
    /// Its place in the queue.
    pub id: OnceLock<Id>,
    /// All its blocks went into the cache.
    pub kept: AtomicBool,
    /// They are not worth what would have to go for them.
    pub declined: AtomicBool,
    /// Who has asked for it: a bit for each `Priority`.
    wanted_by: AtomicU8,
    progress: Mutex<Progress>,
}

/// What a GET came to: the bytes, or an errno.
pub type Outcome = Result<Arc<Buffer>, i32>;

/// How far a flight is that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Its bytes are here, or will not come.
    Done,
    /// They are in the cache, too, if they could be kept.
    Landed,
}

#[derive(Default)]
struct Progress {
    outcome: Option<Outcome>,
    landed: bool,
    /// Who waits until it is done, and until it has landed.
    waiting: [Vec<Arc<Waiting>>; 2],
}

impl Flight {
    pub fn new(
        object: Held,
        lo: u64,
        hi: u64,
        blocks: Vec<u32>,
        life: u32,
        priority: Priority,
    ) -> Self {
        Self {
            object,
            lo,
            hi,
            blocks,
            life,
            id: OnceLock::new(),
            kept: AtomicBool::new(false),
            declined: AtomicBool::new(false),
            wanted_by: AtomicU8::new(bit(priority)),
            progress: Mutex::default(),
        }
    }

    /// Somebody more wants it, with this urgency. Whoever is to wait for it says so while holding the
    /// state in which the flight is found.
    pub fn want(&self, priority: Priority) {
        self.wanted_by.fetch_or(bit(priority), Ordering::AcqRel);
    }

    pub fn is_wanted_by(&self, priority: Priority) -> bool {
        self.wanted_by.load(Ordering::Acquire) & bit(priority) != 0
    }

    /// Nobody waits for it: it is expected to be read.
    pub fn is_fill_alone(&self) -> bool {
        self.wanted_by.load(Ordering::Acquire) == bit(Priority::Fill)
    }

    /// Where one of its blocks lies in its bytes.
    pub fn place_of(&self, number: u32) -> Range<usize> {
        let (lo, hi) = self.object.extent(number);
        let [from, to] = [lo, hi].map(|at| usize::try_from(at - self.lo).unwrap_or(usize::MAX));
        from..to
    }

    /// The length of its blocks.
    pub fn block_bytes(&self) -> u64 {
        let lengths = self.blocks.iter().map(|&number| {
            let (lo, hi) = self.object.extent(number);
            hi - lo
        });
        lengths.sum()
    }

    /// What its blocks take of the disk, with their file if it is new.
    pub fn room_bytes(&self) -> u64 {
        self.block_bytes() + overhead_bytes(self.object.size)
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the GET came to; `None`: it is under way.
    pub fn outcome(&self) -> Option<Outcome> {
        self.progress().outcome.clone()
    }

    /// The GET is over; who waited for that.
    pub fn done(&self, outcome: Outcome) -> Vec<Arc<Waiting>> {
        let mut progress = self.progress();
        if progress.outcome.is_none() {
            progress.outcome = Some(outcome);
        }
        std::mem::take(&mut progress.waiting[Until::Done as usize])
    }

    /// Nothing more becomes of it; who waited for that. What was kept is read from the cache file
    /// from now on, so `nothing`, an empty buffer, takes the place of its bytes.
    pub fn landed(&self, nothing: Buffer) -> Vec<Arc<Waiting>> {
        let mut progress = self.progress();
        progress.landed = true;
        if self.kept.load(Ordering::Acquire) {
            progress.outcome = Some(Ok(Arc::new(nothing)));
        }
        std::mem::take(&mut progress.waiting[Until::Landed as usize])
    }

    /// Add to those who wait; false if it is so far already.
    fn join(&self, until: Until, waiting: &Arc<Waiting>) -> bool {
        let mut progress = self.progress();
        let over = match until {
            Until::Done => progress.outcome.is_some(),
            Until::Landed => progress.landed,
        };
        if !over {
            progress.waiting[until as usize].push(waiting.clone());
        }
        !over
    }
}

fn bit(priority: Priority) -> u8 {
    1 << priority as u8
}

/// Somebody who waits for flights.
pub struct Waiting {
    /// One more than there are flights under way, until all of them are joined.
    left: AtomicUsize,
    flights: Vec<Arc<Flight>>,
    task: Mutex<Option<Task>>,
}

impl Waiting {
    /// Have `task` done once all of `flights` are so far; by the caller, at once, if they are.
    pub fn until(until: Until, flights: Vec<Arc<Flight>>, task: Task, worker: &mut Worker) {
        let left = AtomicUsize::new(flights.len() + 1);
        let waiting = Arc::new(Self { left, flights, task: Mutex::new(Some(task)) });
        let over = waiting.flights.iter().filter(|flight| !flight.join(until, &waiting)).count();
        waiting.count_down(over + 1, worker);
    }

    /// One of the flights is so far.
    pub fn flight_is_over(&self, worker: &mut Worker) {
        self.count_down(1, worker);
    }

    fn count_down(&self, by: usize, worker: &mut Worker) {
        if self.left.fetch_sub(by, Ordering::AcqRel) == by {
            let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(task) = task {
                task(worker, &self.flights);
            }
        }
    }
}
