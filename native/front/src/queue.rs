//! Requests to the lake that wait, and the memory budget: who begins next, and when.
//!
//! An item stands for one request and the buffer that it fills. It waits from `push` to `take`, and
//! its bytes and its place among the requests count from `take` to `give_back`: until its bytes are
//! on the cache disk or dropped. Rules, as in `tierfs/cache/budget.py`:
//!
//! - Q1. Demand goes before read-ahead, read-ahead before warm-up; first come, first served within
//!   each. An item that is promoted goes behind those that were there before.
//! - Q2. Read-ahead and warm-up may fill a share of the budget only, all that is held counted, and
//!   make up a share of the requests, so that demand finds room and connections.
//! - Q3. Nothing overtakes a waiting item of a higher priority, even if it would fit.
//! - Q4. An item larger than the budget is let through when it is alone. The budget is never an
//!   error.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Who waits for the bytes. Smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    Demand = 0,
    ReadAhead = 1,
    WarmUp = 2,
}

/// The part of the budget, in percent, that each priority may fill.
const SHARES: [u64; 3] = [100, 75, 50];
/// The part of the requests, in percent, that each priority may make up. Demand is never held back
/// by their number: the limit on connections is behind it.
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
        let (share, requests) = (SHARES[priority as usize], REQUEST_SHARES[priority as usize]);
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
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Priority::{Demand, ReadAhead, WarmUp};
    use super::*;

    const MIB: u64 = 1 << 20;

    impl<T> Queue<T> {
        /// As `take`, without waiting.
        fn try_take(&self) -> Option<(T, Grant)> {
            self.begin(&mut self.lock())
        }

        /// All that may begin now, in order.
        fn begun(&self) -> Vec<(T, Grant)> {
            std::iter::from_fn(|| self.try_take()).collect()
        }
    }

    fn names(begun: &[(&'static str, Grant)]) -> Vec<&'static str> {
        begun.iter().map(|(name, _)| *name).collect()
    }

    /// A queue of 4 MiB that a first item has to itself.
    fn full() -> (Queue<&'static str>, Grant) {
        let queue = Queue::new(4 * MIB, 64);
        queue.push("first", 4 * MIB, Demand);
        let (_, grant) = queue.take().unwrap();
        (queue, grant)
    }

    #[test]
    fn demand_goes_first_then_read_ahead_then_warm_up() {
        let (queue, holder) = full();
        queue.push("warm", MIB, WarmUp);
        queue.push("ahead", MIB, ReadAhead);
        queue.push("demand", 4 * MIB, Demand);
        assert!(queue.begun().is_empty());
        queue.give_back(holder);
        let demand = queue.begun();
        assert_eq!(names(&demand), ["demand"]);
        for (_, grant) in demand {
            queue.give_back(grant);
        }
        assert_eq!(names(&queue.begun()), ["ahead", "warm"]);
    }

    #[test]
    fn first_come_first_served_within_a_priority() {
        let queue = Queue::new(4 * MIB, 64);
        queue.push("holder", 3 * MIB, Demand);
        queue.push("large", 4 * MIB, Demand);
        queue.push("small", MIB, Demand);
        let mut begun = queue.begun();
        assert_eq!(names(&begun), ["holder"]);
        queue.give_back(begun.pop().unwrap().1);
        assert_eq!(names(&queue.begun()), ["large"]);
        assert_eq!((queue.waiting(), queue.holders(), queue.used_bytes()), (1, 1, 4 * MIB));
    }

    #[test]
    fn read_ahead_and_warm_up_leave_room_for_demand() {
        let queue = Queue::new(16 * MIB, 64);
        for _ in 0..16 {
            queue.push("ahead", MIB, ReadAhead);
        }
        assert_eq!(queue.begun().len(), 12);
        for _ in 0..4 {
            queue.push("demand", MIB, Demand);
        }
        assert_eq!(queue.begun().len(), 4);
        let queue = Queue::new(16 * MIB, 64);
        for _ in 0..16 {
            queue.push("warm", MIB, WarmUp);
        }
        assert_eq!(queue.begun().len(), 8);
    }

    #[test]
    fn low_priorities_leave_connections_for_demand() {
        for (priority, most) in [(WarmUp, 6), (ReadAhead, 7)] {
            let queue = Queue::new(1 << 40, 8);
            for _ in 0..16 {
                queue.push("low", 1, priority);
            }
            assert_eq!(queue.begun().len(), most);
            for _ in 0..16 {
                queue.push("demand", 1, Demand);
            }
            assert_eq!(queue.begun().len(), 16);
        }
    }

    #[test]
    fn a_request_larger_than_the_budget_goes_alone() {
        let queue = Queue::new(MIB, 64);
        queue.push("small", MIB / 2, Demand);
        queue.push("large", 8 * MIB, WarmUp);
        let mut begun = queue.begun();
        assert_eq!(names(&begun), ["small"]);
        queue.give_back(begun.pop().unwrap().1);
        begun = queue.begun();
        assert_eq!(names(&begun), ["large"]);
        queue.push("after", 1, Demand);
        assert!(queue.try_take().is_none());
        queue.give_back(begun.pop().unwrap().1);
        assert_eq!(names(&queue.begun()), ["after"]);
    }

    #[test]
    fn promotion_takes_a_waiting_item_past_others() {
        let (queue, holder) = full();
        queue.push("one", 2 * MIB, ReadAhead);
        let two = queue.push("two", 2 * MIB, ReadAhead);
        let three = queue.push("three", 2 * MIB, WarmUp);
        queue.promote(two, WarmUp);
        queue.promote(two, Demand);
        queue.promote(three, ReadAhead);
        queue.give_back(holder);
        let mut begun = queue.begun();
        assert_eq!(names(&begun), ["two"]);
        queue.promote(two, Demand);
        assert_eq!(queue.holders(), 1);
        queue.give_back(begun.pop().unwrap().1);
        assert_eq!(names(&queue.begun()), ["one"]);
    }

    #[test]
    fn promotion_alone_can_let_an_item_begin() {
        let queue = Queue::new(4 * MIB, 64);
        queue.push("holder", 3 * MIB, Demand);
        let low = queue.push("low", MIB, WarmUp);
        let _held = queue.begun();
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| queue.take().unwrap());
            queue.promote(low, Demand);
            assert_eq!(taker.join().unwrap(), ("low", Grant { bytes: MIB }));
        });
    }

    #[test]
    fn a_tiny_request_is_not_free() {
        let queue = Queue::new(0, 64);
        queue.push("tiny", 1, Demand);
        assert_eq!(queue.take().unwrap().1, Grant { bytes: LEAST_BYTES });
        assert_eq!((queue.used_bytes(), queue.total_bytes()), (LEAST_BYTES, 1));
    }

    #[test]
    fn closing_ends_those_that_wait_and_returns_what_waited() {
        let (queue, holder) = full();
        std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4).map(|_| scope.spawn(|| queue.take())).collect();
            queue.push("warm", MIB, WarmUp);
            queue.push("demand", MIB, Demand);
            assert_eq!(queue.close(), ["demand", "warm"]);
            assert!(takers.into_iter().all(|taker| taker.join().unwrap().is_none()));
        });
        queue.push("late", MIB, Demand);
        assert!(queue.take().is_none());
        queue.give_back(holder);
        assert_eq!((queue.waiting(), queue.holders(), queue.used_bytes()), (0, 0, 0));
    }

    #[test]
    fn threads_lose_nothing_and_keep_to_the_budget() {
        const ITEMS: u64 = 3000;
        let queue = Queue::new(8 * MIB, 6);
        let (ended, sum) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while let Some((item, grant)) = queue.take() {
                        assert!(queue.used_bytes() <= 8 * MIB);
                        sum.fetch_add(item, Ordering::Relaxed);
                        if item % 7 == 0 {
                            std::thread::yield_now();
                        }
                        queue.give_back(grant);
                        if ended.fetch_add(1, Ordering::Relaxed) + 1 == ITEMS {
                            assert!(queue.close().is_empty());
                        }
                    }
                });
            }
            for item in 0..ITEMS {
                let priority = [Demand, ReadAhead, WarmUp][usize::try_from(item % 3).unwrap()];
                let id = queue.push(item, (item % 5) * MIB, priority);
                if item % 4 == 0 {
                    queue.promote(id, Demand);
                }
            }
        });
        assert_eq!(sum.into_inner(), ITEMS * (ITEMS - 1) / 2);
        assert_eq!((queue.waiting(), queue.holders(), queue.used_bytes()), (0, 0, 0));
    }

    #[test]
    fn the_account_is_right_after_any_sequence() {
        let mut random = 1u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let queue = Queue::new(8 * MIB, 64);
        let (mut ids, mut held): (Vec<Id>, Vec<Grant>) = Default::default();
        for _ in 0..5000 {
            let n = next(13);
            match next(3) {
                0 => {
                    let priority = [Demand, ReadAhead, WarmUp][usize::try_from(n % 3).unwrap()];
                    ids.push(queue.push((), (n + 1) * MIB, priority));
                }
                1 if !held.is_empty() => {
                    let which = usize::try_from(n).unwrap() % held.len();
                    queue.give_back(held.swap_remove(which));
                }
                _ if !ids.is_empty() => {
                    let which = usize::try_from(next(1 << 20)).unwrap() % ids.len();
                    queue.promote(ids[which], Demand);
                }
                _ => {}
            }
            held.extend(queue.begun().into_iter().map(|((), grant)| grant));
            let bytes: u64 = held.iter().map(|grant| grant.bytes).sum();
            assert_eq!((queue.used_bytes(), queue.holders()), (bytes, held.len() as u64));
            assert!(bytes <= 8 * MIB || held.len() == 1);
            // Somebody is always served.
            assert!(!held.is_empty() || queue.waiting() == 0);
            let state = queue.lock();
            assert_eq!(state.places.len(), state.waiting.len());
        }
    }
}
