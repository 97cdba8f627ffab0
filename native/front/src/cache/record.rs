//! Brings the index to what the objects in use say, in groups.
//!
//! State, not operations: an object that changed is marked, and when the recorder comes round it
//! writes what the object is then. It gathers for a moment before each round, so that a fill of
//! small files makes one commit of many; for how long, is said with each mark (`State::due`). While
//! a group commits, the records in it stay readable in `State::recording`.
//!
//! Order within one object: the old copy is dropped, then the file is recorded, then its blocks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Cache;
use super::table::Held;
use crate::gate::Gate;
use crate::health::Part;
use crate::index::cache::Change;
use crate::index::lmdb;

/// How long marks are gathered for a commit. CPU of the control plane's index thread for a cold
/// small file with 4 and with 16 readers, when it was the one who recorded: 300 and 230 us without
/// it, 130 and 50 with this.
const GATHER: Duration = Duration::from_millis(20);
/// Block records in one commit, so that a group stays a matter of milliseconds.
const MAX_GROUP: usize = 4096;
/// How often last uses are written.
const TOUCH_INTERVAL: Duration = Duration::from_secs(5);
/// Last uses kept until then. Beyond it one is forgotten: an error of seconds in an estimate.
const MAX_TOUCHED: usize = 1 << 16;

/// How a commit went.
pub type Committed = Result<(), Arc<lmdb::Error>>;

/// Told whether a file was recorded, by the recorder's thread.
type Announced = Box<dyn FnOnce(bool) + Send>;

/// One for each front.
#[derive(Default)]
pub struct Recorder {
    state: Mutex<State>,
    wake: Condvar,
    /// A round is under way, or due.
    busy: AtomicBool,
}

#[derive(Default)]
struct State {
    dirty: HashMap<u64, Held>,
    /// Who waits until a file is recorded.
    announcing: HashMap<u64, Vec<Announced>>,
    jobs: Vec<(Vec<Change>, Gate<Committed>)>,
    touched: HashMap<u64, u64>,
    touched_at: Option<Instant>,
    /// When the next commit is to begin; `None`: there is nothing to be committed.
    due: Option<Instant>,
    draining: bool,
}

impl Recorder {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `object` changed; the index will follow soon.
    pub fn mark(&self, object: &Held) {
        let mut state = self.state();
        state.dirty.entry(object.ino).or_insert_with(|| object.clone());
        self.call(&mut state, GATHER);
    }

    /// Have a record of the file of `object` committed, so that the file may be created (C3), and
    /// `then` told whether it was.
    pub fn announce(&self, object: &Held, then: impl FnOnce(bool) + Send + 'static) {
        self.announce_within(object, GATHER, Box::new(then));
    }

    /// Have what is known of `object` committed at once; for whoever waits for it.
    pub fn record_now(&self, object: &Held) -> Gate<bool> {
        let gate = Gate::default();
        let told = gate.clone();
        let then = Box::new(move |recorded| told.give(recorded));
        self.announce_within(object, Duration::ZERO, then);
        gate
    }

    fn announce_within(&self, object: &Held, patience: Duration, then: Announced) {
        let mut state = self.state();
        state.dirty.entry(object.ino).or_insert_with(|| object.clone());
        state.announcing.entry(object.ino).or_default().push(then);
        self.call(&mut state, patience);
    }

    /// Commit `changes`, and wait for it. For eviction: of inodes that are not in use.
    pub fn commit(&self, changes: Vec<Change>) -> Committed {
        let gate = Gate::default();
        let mut state = self.state();
        state.jobs.push((changes, gate.clone()));
        self.call(&mut state, Duration::ZERO);
        drop(state);
        gate.wait(None).unwrap_or(Ok(()))
    }

    /// A file was used at `last_used_s` (since the Unix epoch).
    pub fn touch(&self, ino: u64, last_used_s: u64) {
        let mut state = self.state();
        if state.touched.len() < MAX_TOUCHED {
            state.touched.insert(ino, last_used_s);
        }
    }

    fn call(&self, state: &mut State, patience: Duration) {
        let due = Instant::now() + patience;
        if state.due.is_none_or(|earlier| due < earlier) {
            state.due = Some(due);
            self.busy.store(true, Ordering::Release);
            self.wake.notify_one();
        }
    }

    /// Commit, until the end of the process.
    pub fn run(&self, cache: &Cache) {
        let mut writer = cache.index.writer();
        loop {
            let round = self.next_round();
            let committed = writer.commit(&round.changes).map_err(Arc::new);
            match &committed {
                Ok(()) => cache.health.worked(Part::Index),
                Err(error) => cache.index_failed("record blocks", error),
            }
            round.finish(&committed);
        }
    }

    fn next_round(&self) -> Round {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let touched_at = *state.touched_at.get_or_insert(now);
            let touch = (!state.touched.is_empty()).then(|| touched_at + TOUCH_INTERVAL);
            let due = [state.due, touch].into_iter().flatten().min();
            let patience = match due {
                Some(due) if due <= now || state.draining => break,
                Some(due) => due - now,
                None => {
                    self.busy.store(false, Ordering::Release);
                    TOUCH_INTERVAL
                }
            };
            let waited = self.wake.wait_timeout(state, patience);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.due = None;
        let round = Round::take(&mut state);
        if !state.dirty.is_empty() {
            self.call(&mut state, Duration::ZERO); // There were too many for one.
        }
        round
    }

    /// Wait, at most `patience`, until everything that is marked is committed.
    pub fn drain(&self, patience: Duration) {
        let end = Instant::now() + patience;
        {
            let mut state = self.state();
            state.draining = true;
            state.touched_at = Some(Instant::now().checked_sub(TOUCH_INTERVAL).unwrap_or(end));
            self.call(&mut state, Duration::ZERO);
        }
        while self.busy.load(Ordering::Acquire) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// What goes into one commit, and who is to hear of it.
struct Round {
    changes: Vec<Change>,
    objects: Vec<Held>,
    /// Inodes whose old life is dropped with it.
    purged: Vec<u64>,
    announcing: HashMap<u64, Vec<Announced>>,
    jobs: Vec<Gate<Committed>>,
}

impl Round {
    fn take(state: &mut State) -> Self {
        let mut round = Self {
            changes: Vec::new(),
            objects: Vec::new(),
            purged: Vec::new(),
            announcing: std::mem::take(&mut state.announcing),
            jobs: Vec::new(),
        };
        for (changes, gate) in state.jobs.drain(..) {
            round.changes.extend(changes);
            round.jobs.push(gate);
        }
        // Those that somebody waits for are in any group.
        let waited_for: Vec<u64> = round.announcing.keys().copied().collect();
        for ino in waited_for {
            if let Some(object) = state.dirty.remove(&ino) {
                round.add(object, true);
            }
        }
        let others: Vec<u64> = state.dirty.keys().copied().collect();
        for ino in others {
            if round.changes.len() >= MAX_GROUP {
                break;
            }
            if let Some(object) = state.dirty.remove(&ino) {
                round.add(object, false);
            }
        }
        if state.touched_at.is_none_or(|since| since.elapsed() >= TOUCH_INTERVAL) {
            state.touched_at = Some(Instant::now());
            let touched = std::mem::take(&mut state.touched);
            round.changes.extend(touched.into_iter().map(|(ino, at_s)| Change::Touch(ino, at_s)));
        }
        round
    }

    /// Put what is due of an object into the commit; with `announce` its file, too, which may not
    /// exist yet.
    fn add(&mut self, object: Held, announce: bool) {
        let ino = object.ino;
        let mut state = object.state();
        state.recording = std::mem::take(&mut state.fresh);
        // A file that is about to be made has no old blocks, whatever the index says.
        let purge = std::mem::take(&mut state.purge) || (announce && !state.announced);
        if purge {
            // The file may still be there, so its record stays, empty (C3).
            self.changes.push(Change::DropFile(ino));
            self.purged.push(ino);
        }
        if announce || state.announced || purge {
            self.changes.push(Change::PutFile(ino, object.file_record(&state)));
        }
        let mut put = Vec::new();
        let mut dropped = Vec::new();
        for (&number, record) in &state.recording {
            match record {
                Some(record) => put.push((number, *record)),
                None => dropped.push(number),
            }
        }
        if !put.is_empty() {
            put.sort_unstable_by_key(|&(number, _)| number);
            self.changes.push(Change::PutBlocks(ino, put));
        }
        if !dropped.is_empty() {
            self.changes.push(Change::DropBlocks(ino, dropped));
        }
        drop(state);
        self.objects.push(object);
    }

    fn finish(self, committed: &Committed) {
        for object in &self.objects {
            let mut state = object.state();
            let recording = std::mem::take(&mut state.recording);
            if committed.is_ok() {
                state.announced |= self.announcing.contains_key(&object.ino);
                continue;
            }
            // What the index does not know will be fetched again after a restart; until then the
            // objects in use know better, and say it again when they change.
            object.unrecorded.store(true, Ordering::Release);
            if !state.purge {
                for (number, record) in recording {
                    state.fresh.entry(number).or_insert(record);
                }
            }
            state.purge |= self.purged.contains(&object.ino);
        }
        for announced in self.announcing.into_values().flatten() {
            announced(committed.is_ok());
        }
        for gate in self.jobs {
            gate.give(committed.clone());
        }
    }
}
