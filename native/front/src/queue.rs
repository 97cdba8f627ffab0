//! Requests to the lake that wait, and the memory budget: who begins next, and when.
//!
//! An item stands for one request and the buffer that it fills. It waits from `push` to `take`, and
//! from `take` it counts: its request until `arrived`, its bytes until `give_back`, when they are on
//! the cache disk or dropped. Rules, as in `tierfs/cache/budget.py`:
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

/// Threads that take items, for each of which there are others: so those for whom nobody waits can
/// have less of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// Of all but fill.
    Foreground = 0,
    /// Of fill.
    Background = 1,
}

impl Taker {
    fn of(priority: Priority) -> Self {
        if priority == Priority::Fill { Self::Background } else { Self::Foreground }
    }
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
    /// Its request counts, too.
    under_way: bool,
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
    requests: u64,
    link: Link,
    closed: bool,
}

/// Hands out `total_bytes` to about `max_requests`.
///
/// Threads that wait in `take` for the same items are all alike, so one is woken for each item that
/// may begin, and wakes the next one if there is more.
pub struct Queue<T> {
    total_bytes: u64,
    max_requests: u64,
    state: Mutex<State<T>>,
    /// An item may begin, or the queue is closed; for each kind of `Taker`.
    changed: [Condvar; 2],
}

impl<T> Queue<T> {
    pub fn new(total_bytes: u64, max_requests: usize) -> Self {
        let state = State {
            waiting: BTreeMap::new(),
            places: HashMap::new(),
            next: 0,
            used_bytes: 0,
            requests: 0,
            link: Link::new(),
            closed: false,
        };
        Self {
            total_bytes: total_bytes.max(1),
            max_requests: max_requests as u64,
            state: Mutex::new(state),
            changed: Default::default(),
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

    /// Wait until an item may begin that is for `taker`. `None` after `close`.
    pub fn take(&self, taker: Taker) -> Option<(T, Grant)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(begun) = self.begin(&mut state, taker) {
                self.wake(&state);
                return Some(begun);
            }
            let changed = &self.changed[taker as usize];
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The request of an item is over; its bytes are still held.
    pub fn arrived(&self, grant: &mut Grant) {
        if std::mem::take(&mut grant.under_way) {
            let mut state = self.lock();
            state.requests = state.requests.saturating_sub(1);
            self.wake(&state);
        }
    }

    /// An item has ended.
    pub fn give_back(&self, mut grant: Grant) {
        self.arrived(&mut grant);
        let mut state = self.lock();
        state.used_bytes = state.used_bytes.saturating_sub(grant.bytes);
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
        state.requests = 0;
        self.wake(&state);
    }

    /// How many items of `taker`'s may be under way, but for demand.
    pub fn most_requests(&self, taker: Taker) -> u64 {
        match taker {
            Taker::Foreground => self.max_requests,
            Taker::Background => (self.max_requests * u64::from(link::MOST) / 100).max(1),
        }
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
        self.changed.iter().for_each(Condvar::notify_all);
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

    /// Wake one that waits, if there is something for it.
    fn wake(&self, state: &State<T>) {
        if let Some(taker) = self.ready(state) {
            self.changed[taker as usize].notify_one();
        }
    }

    /// Who is to take the first item, if it may begin. No other may (Q3).
    fn ready(&self, state: &State<T>) -> Option<Taker> {
        let (&(priority, _), first) = state.waiting.first_key_value()?;
        let ready = state.used_bytes == 0 || self.fits(state, priority, first.bytes); // Q4
        ready.then(|| Taker::of(priority))
    }

    fn fits(&self, state: &State<T>, priority: Priority, bytes: u64) -> bool {
        let share = SHARES[priority as usize];
        let requests = match priority {
            Priority::Fill => Some(state.link.share()),
            _ => REQUEST_SHARES[priority as usize],
        };
        let used_bytes = state.used_bytes.saturating_add(bytes);
        percent(used_bytes, 100) <= percent(self.total_bytes, share)
            && requests.is_none_or(|share| {
                percent(state.requests, 100) < percent(self.max_requests, share)
            })
    }

    fn begin(&self, state: &mut State<T>, taker: Taker) -> Option<(T, Grant)> {
        if self.ready(state) != Some(taker) {
            return None;
        }
        let (_, first) = state.waiting.pop_first()?;
        state.places.remove(&first.id);
        state.used_bytes += first.bytes;
        state.requests += 1;
        Some((first.item, Grant { bytes: first.bytes, under_way: true }))
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
