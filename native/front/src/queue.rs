//! Requests to the lake that wait, and the memory budget: who begins next, and when.
//!
//! An item stands for one request and the buffer that it fills. It waits from `push` to `take`, and
//! its bytes and its place among the requests count from `take` to `give_back`: until its bytes are
//! on the cache disk or dropped. Rules, as in `tierfs/cache/budget.py`:
//!
//! - Q1. Demand goes before read-ahead, read-ahead before warm-up, warm-up before fill; first come,
//!   first served within each. An item that is promoted goes behind those that were there before.
//! - Q2. Read-ahead, warm-up and fill may fill a share of the budget only, all that is held counted,
//!   and make up a share of the requests, so that demand finds room and connections. Fill's grows
//!   while the link has more to give (`link`).
//! - Q3. Nothing overtakes a waiting item of a higher priority, even if it would fit.
//! - Q4. An item larger than the budget is let through when it is alone. The budget is never an
//!   error.

mod link;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use link::Link;

/// Who waits for the bytes. Smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    Demand = 0,
    ReadAhead = 1,
    WarmUp = 2,
    /// Nobody, yet: it is expected to be read.
    Fill = 3,
}

/// The part of the budget, in percent, that each priority may fill.
const SHARES: [u64; 4] = [100, 75, 50, 40];
/// The part of the requests, in percent, that each priority may make up. Demand is never held back
/// by their number: the limit on connections is behind it. Fill's part is the `Link`'s to say.
const REQUEST_SHARES: [Option<u64>; 3] = [None, Some(85), Some(75)];
/// What a request costs at least: its connection and headers are not free.
const LEAST_BYTES: u64 = 64 << 10;

/// Names an item for as long as it waits, and none after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(u64);

/// What one item holds. It has to be given back, whatever became of the item.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is not given back is missing from the budget for ever"]
pub struct Grant {
    bytes: u64,
}

/// Where an item stands: those of one priority in the order in which they joined it.
type Place = (Priority, u64);

struct Waiting<T> {
    item: T,
    bytes: u64,
    id: u64,
}

struct State<T> {
    waiting: BTreeMap<Place, Waiting<T>>,
    places: HashMap<u64, Place>,
    /// For ids and places.
    next: u64,
    used_bytes: u64,
    holders: u64,
    link: Link,
    closed: bool,
}

/// Hands out `total_bytes` to about `max_requests`.
///
/// Threads that wait in `take` are all alike, so one is woken for each item that may begin, and
/// wakes the next one if there is more.
pub struct Queue<T> {
    total_bytes: u64,
    max_requests: u64,
    state: Mutex<State<T>>,
    /// An item may begin, or the queue is closed.
    changed: Condvar,
}

impl<T> Queue<T> {
    pub fn new(total_bytes: u64, max_requests: usize) -> Self {
        let state = State {
            waiting: BTreeMap::new(),
            places: HashMap::new(),
            next: 0,
            used_bytes: 0,
            holders: 0,
            link: Link::new(),
            closed: false,
        };
        Self {
            total_bytes: total_bytes.max(1),
            max_requests: max_requests as u64,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Let `item`, which needs `bytes`, wait for its turn. A queue that is closed drops it.
    pub fn push(&self, item: T, bytes: u64, priority: Priority) -> Id {
        let mut state = self.lock();
        let id = state.number();
        if !state.closed {
            state.places.insert(id, (priority, id));
            let waiting = Waiting { item, bytes: bytes.max(LEAST_BYTES), id };
            state.waiting.insert((priority, id), waiting);
            self.wake(&state);
        }
        Id(id)
    }

    /// Wait until an item may begin. `None` after `close`.
    pub fn take(&self) -> Option<(T, Grant)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(begun) = self.begin(&mut state) {
                self.wake(&state);
                return Some(begun);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// An item has ended.
    #[allow(clippy::needless_pass_by_value)] // Who gives it back has it no more.
    pub fn give_back(&self, grant: Grant) {
        let mut state = self.lock();
        state.used_bytes = state.used_bytes.saturating_sub(grant.bytes);
        state.holders = state.holders.saturating_sub(1);
        self.wake(&state);
    }

    /// The answer to a request for a block at most took so long.
    pub fn answered(&self, time: Duration) {
        self.lock().link.answered(time.as_secs_f64() * 1e6);
    }

    /// Count on none of the items that have begun: they may never end. Those that do end after all
    /// are counted off what others hold, so that for a while more may be under way than should.
    pub fn write_off(&self) {
        let mut state = self.lock();
        state.used_bytes = 0;
        state.holders = 0;
        self.wake(&state);
    }

    /// How many items may be under way, but for demand.
    pub fn max_requests(&self) -> u64 {
        self.max_requests
    }

    /// Someone more urgent waits for the same bytes: move a waiting item up. One that has begun, or
    /// is not less urgent, stays where it is.
    pub fn promote(&self, id: Id, priority: Priority) {
        let mut state = self.lock();
        let Some(&place) = state.places.get(&id.0) else { return };
        if priority >= place.0 {
            return;
        }
        let Some(waiting) = state.waiting.remove(&place) else { return };
        let place = (priority, state.number());
        state.places.insert(id.0, place);
        state.waiting.insert(place, waiting);
        self.wake(&state);
    }

    /// End every `take`, now and later; what was still waiting, the most urgent first.
    pub fn close(&self) -> Vec<T> {
        let mut state = self.lock();
        state.closed = true;
        state.places.clear();
        self.changed.notify_all();
        std::mem::take(&mut state.waiting).into_values().map(|waiting| waiting.item).collect()
    }

    /// The bytes of the items that have begun.
    pub fn used_bytes(&self) -> u64 {
        self.lock().used_bytes
    }

    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// How many items have not begun.
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// How many items have begun and not ended.
    pub fn holders(&self) -> u64 {
        self.lock().holders
    }

    /// Wake one that waits, if there is something for it.
    fn wake(&self, state: &State<T>) {
        if self.ready(state) {
            self.changed.notify_one();
        }
    }

    /// Whether the first item may begin. No other may (Q3).
    fn ready(&self, state: &State<T>) -> bool {
        let Some((&(priority, _), first)) = state.waiting.first_key_value() else { return false };
        state.holders == 0 || self.fits(state, priority, first.bytes) // Q4
    }

    fn fits(&self, state: &State<T>, priority: Priority, bytes: u64) -> bool {
        let share = SHARES[priority as usize];
        let requests = match priority {
            Priority::Fill => Some(state.link.share()),
            _ => REQUEST_SHARES[priority as usize],
        };
        let used_bytes = state.used_bytes.saturating_add(bytes);
        percent(used_bytes, 100) <= percent(self.total_bytes, share)
            && requests
                .is_none_or(|share| percent(state.holders, 100) < percent(self.max_requests, share))
    }

    fn begin(&self, state: &mut State<T>) -> Option<(T, Grant)> {
        if !self.ready(state) {
            return None;
        }
        let (_, first) = state.waiting.pop_first()?;
        state.places.remove(&first.id);
        state.used_bytes += first.bytes;
        state.holders += 1;
        Some((first.item, Grant { bytes: first.bytes }))
    }
}

impl<T> State<T> {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// `share` hundredths of `whole`, times a hundred.
fn percent(whole: u64, share: u64) -> u128 {
    u128::from(whole) * u128::from(share)
}

#[cfg(test)]
mod tests;
