//! How many requests may be in flight: additive increase, multiplicative decrease.
//!
//! `tierfs/lake/limiter.py` for threads, with its reasons and its invariants: a store that answers
//! 503 or 429 wants fewer requests, so the limit is halved, once per burst, and each success raises
//! it by one part in the limit.
//!
//! A1. `in_flight` is the number of slots held. It exceeds the limit only after a cut, and then no
//!     slot is given until it is below.
//! A2. Slots are given in the order in which they were asked for.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After a cut, further complaints are put down to the same burst for this long.
const BURST: Duration = Duration::from_secs(1);

/// A semaphore whose size follows what the store can take.
pub(super) struct Limiter {
    maximum: f64,
    state: Mutex<State>,
}

struct State {
    limit: f64,
    in_flight: u32,
    last_cut: Option<Instant>,
    /// Who waits, each on a condition of its own, so that nobody is woken in vain.
    waiting: VecDeque<Arc<Condvar>>,
    /// Who was admitted, and has not noticed yet.
    admitted: Vec<Arc<Condvar>>,
}

/// A request's place among those in flight.
pub(super) struct LimiterSlot<'a>(&'a Limiter);

impl Limiter {
    pub(super) fn new(maximum: usize) -> Self {
        let maximum = f64::from(u32::try_from(maximum.max(1)).unwrap_or(u32::MAX));
        let state = State {
            limit: maximum,
            in_flight: 0,
            last_cut: None,
            waiting: VecDeque::new(),
            admitted: Vec::new(),
        };
        Self { maximum, state: Mutex::new(state) }
    }

    /// Wait for a slot and hold it.
    pub(super) fn slot(&self) -> LimiterSlot<'_> {
        let mut state = self.lock();
        if state.waiting.is_empty() && state.has_room() {
            state.in_flight += 1;
            return LimiterSlot(self);
        }
        // `admit` counts the slot for whom it wakes, so nobody can overtake (A2).
        let turn = Arc::new(Condvar::new());
        state.waiting.push_back(turn.clone());
        loop {
            state = turn.wait(state).unwrap_or_else(PoisonError::into_inner);
            let found = state.admitted.iter().position(|admitted| Arc::ptr_eq(admitted, &turn));
            if let Some(at) = found {
                state.admitted.swap_remove(at);
                return LimiterSlot(self);
            }
        }
    }

    /// A request was answered as it should be.
    pub(super) fn succeeded(&self) {
        let mut state = self.lock();
        if state.limit < self.maximum {
            state.limit = self.maximum.min(state.limit + 1.0 / state.limit);
            state.admit();
        }
    }

    /// The store asked for fewer requests.
    pub(super) fn slow_down(&self) {
        let mut state = self.lock();
        let now = Instant::now();
        if state.last_cut.is_some_and(|cut| now - cut < BURST) {
            return;
        }
        state.last_cut = Some(now);
        // Half of what was really in flight: a limit far above the demand would not cut anything.
        let used = f64::from(state.in_flight.max(1));
        state.limit = (state.limit.min(used) / 2.0).max(1.0);
    }

    #[cfg(test)]
    pub(super) fn limit(&self) -> f64 {
        self.lock().limit
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&self) -> bool {
        f64::from(self.in_flight) < self.limit.floor()
    }

    fn admit(&mut self) {
        while self.has_room()
            && let Some(turn) = self.waiting.pop_front()
        {
            self.in_flight += 1;
            turn.notify_one();
            self.admitted.push(turn);
        }
    }
}

impl Drop for LimiterSlot<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.in_flight -= 1;
        state.admit();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_cut_halves_what_is_in_flight_once_per_burst_and_successes_raise_it_again() {
        let limiter = Limiter::new(64);
        let slots: Vec<_> = (0..8).map(|_| limiter.slot()).collect();
        limiter.slow_down();
        limiter.slow_down();
        assert!((limiter.limit() - 4.0).abs() < 1e-9);
        drop(slots);
        limiter.succeeded();
        assert!((limiter.limit() - 4.25).abs() < 1e-9);
        for _ in 0..10_000 {
            limiter.succeeded();
        }
        assert!((limiter.limit() - 64.0).abs() < 1e-9);
        limiter.lock().last_cut = None;
        limiter.slow_down();
        assert!((limiter.limit() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn slots_are_given_in_order_and_never_more_than_the_limit() {
        let limiter = Limiter::new(1);
        let held = limiter.slot();
        let (order, given) = channel();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (limiter, order) = (&limiter, order.clone());
                scope.spawn(move || {
                    let slot = limiter.slot();
                    order.send(number).unwrap();
                    assert_eq!(limiter.lock().in_flight, 1);
                    drop(slot);
                });
                while limiter.lock().waiting.len() <= number {
                    std::thread::yield_now();
                }
            }
            drop(held);
        });
        assert_eq!(given.try_iter().collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
        assert_eq!(limiter.lock().in_flight, 0);
    }
}
