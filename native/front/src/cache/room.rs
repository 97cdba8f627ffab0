//! Room on the cache disk for what a flight brings. Without it the bytes are streamed (C8).
//!
//! Whether a file is worth what would have to go for it the control plane decides, and who wants the
//! flight decides what it is asked:
//!
//! ```text
//! warm-up              room is made of all but what warm-ups brought and nobody has read
//! demand, read-ahead   room is made of what is worth less than the file
//! fill alone           of what is worth much less; without room there is no GET
//! ```
//!
//! For a fill alone room is made before its GET; for the others after it, when whoever waits has the
//! bytes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Cache;
use super::evict::{Newcomer, Wanted};
use super::fetch::unregister;
use super::flight::Flight;
use super::objects::State;
use crate::front::Front;
use crate::queue::Priority;
use crate::serve::Worker;
use crate::space::{NoRoom, Reservation};
use crate::stats::Stats;

/// Room for the blocks of the flight if nothing has to go for it, or that there is none. `None`:
/// something has to go.
pub fn at_hand(cache: &Cache, flight: &Flight) -> Option<Result<Reservation, NoRoom>> {
    if flight.blocks.is_empty() {
        return Some(Err(NoRoom::Full)); // It brings parts of blocks, which are never kept.
    }
    let found = if flight.object.state().bypass || cache.health.streaming() {
        Some(Err(NoRoom::Full))
    } else {
        cache.capacity.at_hand(flight.room_bytes())
    };
    if let Some(found) = &found {
        note_passing(cache, &mut flight.object.state(), found.is_err());
    }
    found
}

/// Room for the blocks of the flight, made if need be.
pub fn reserve(
    front: &Arc<Front>,
    worker: &mut Worker,
    flight: &Flight,
) -> Result<Reservation, NoRoom> {
    let cache = &front.cache;
    if let Some(found) = at_hand(cache, flight) {
        flight.declined.store(false, Ordering::Release);
        return found;
    }
    let bytes = flight.block_bytes();
    let newcomer = newcomer(flight);
    let found = cache.capacity.reserve(flight.room_bytes(), |need| {
        let newcomer = (!need.over).then_some(newcomer);
        front.make_room(worker.cache_reader(), need.bytes, newcomer)
    });
    // A warm-up is declined only for the sake of what warm-ups brought.
    let declined = found == Err(NoRoom::Declined) && newcomer.wanted != Wanted::WarmUp;
    if !flight.declined.swap(declined, Ordering::AcqRel) && declined {
        Stats::count(&cache.stats.declined);
        cache.stats.declined_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
    let mut state = flight.object.state();
    state.is_kept = found.is_ok();
    note_passing(cache, &mut state, found.is_err());
    found
}

/// Whether what is read of the object passes through memory alone.
fn note_passing(cache: &Cache, state: &mut State, passes: bool) {
    let passes = passes && state.streams.is_some();
    if passes != state.passing.is_some() {
        state.passing = passes.then(|| cache.hot.pass());
    }
}

/// What room is wanted for.
fn newcomer(flight: &Flight) -> Newcomer {
    let wanted = if flight.is_wanted_by(Priority::WarmUp) {
        Wanted::WarmUp
    } else if flight.is_fill_alone() {
        Wanted::Ahead
    } else {
        Wanted::Reader
    };
    Newcomer { ino: flight.object.ino, wanted }
}

/// Take a flight for which there is no room out of the sight of readers, if nobody but fill wants
/// it: it is to end here.
pub fn call_off(flight: &Arc<Flight>) -> bool {
    let mut state = flight.object.state();
    // Whoever joins a flight says so under this lock.
    let alone = flight.is_fill_alone();
    if alone {
        unregister(&mut state, flight);
    }
    alone
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::cache::objects::Object;
    use crate::cache::table::Table;
    use crate::index::records::BLOCK_SIZE;

    /// A flight for all of an object of two blocks, registered as `Cache::start` does.
    fn flight(priority: Priority) -> Arc<Flight> {
        let (left, _) = channel();
        let size = BLOCK_SIZE + 10;
        let load = || Object::new(16, size, [0; 16], Box::default(), 0);
        let object = Table::new(left).acquire(16, load);
        let flight = Arc::new(Flight::new(object.clone(), 0, size, vec![0, 1], 0, priority));
        let mut state = object.state();
        for &number in &flight.blocks {
            state.flights.insert(number, flight.clone());
        }
        state.partial_flights.insert((0, size), flight.clone());
        drop(state);
        flight
    }

    #[test]
    fn what_room_is_asked_for() {
        for (priority, expected) in [
            (Priority::Demand, Wanted::Reader),
            (Priority::ReadAhead, Wanted::Reader),
            (Priority::WarmUp, Wanted::WarmUp),
            (Priority::Fill, Wanted::Ahead),
        ] {
            assert_eq!(newcomer(&flight(priority)), Newcomer { ino: 16, wanted: expected });
        }
        assert_eq!(flight(Priority::Fill).block_bytes(), BLOCK_SIZE + 10);
    }

    #[test]
    fn who_joins_a_flight_has_a_say() {
        let joined = flight(Priority::Fill);
        joined.want(Priority::ReadAhead);
        assert_eq!(newcomer(&joined).wanted, Wanted::Reader);
        // What was ordered stays so, however urgent it is to others.
        joined.want(Priority::WarmUp);
        joined.want(Priority::Demand);
        assert_eq!(newcomer(&joined).wanted, Wanted::WarmUp);
    }

    #[test]
    fn a_fill_that_is_called_off_is_found_by_no_reader() {
        let alone = flight(Priority::Fill);
        assert!(call_off(&alone));
        let state = alone.object.state();
        assert!(state.flights.is_empty() && state.partial_flights.is_empty());
    }

    #[test]
    fn a_flight_that_a_reader_waits_for_is_not_called_off() {
        let joined = flight(Priority::Fill);
        joined.want(Priority::Demand);
        for flown in [joined, flight(Priority::Demand), flight(Priority::WarmUp)] {
            assert!(!call_off(&flown));
            assert_eq!(flown.object.state().flights.len(), 2);
            unregister(&mut flown.object.state(), &flown);
        }
    }
}
