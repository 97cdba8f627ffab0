//! Room on the cache disk for what a flight brings. Without it the bytes are streamed (C8).
//!
//! Whether a file is worth what would have to go for it the control plane decides, and who wants the
//! flight decides what it is asked:
//!
//! ```text
//! warm-up              room is made, whatever has to go: somebody has ordered it
//! demand, read-ahead   room is made of what is worth less than the file
//! fill alone           of what is worth much less; without room there is no GET
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::evict::Newcomer;
use super::fetch::unregister;
use super::flight::Flight;
use crate::front::Front;
use crate::queue::Priority;
use crate::serve::Worker;
use crate::space::{FILE_BYTES, NoRoom, Reservation};
use crate::stats::Stats;

/// Room for the blocks of the flight.
pub fn reserve(
    front: &Arc<Front>,
    worker: &mut Worker,
    flight: &Flight,
) -> Result<Reservation, NoRoom> {
    let cache = &front.cache;
    if flight.blocks.is_empty() {
        return Err(NoRoom::Full); // It brings parts of blocks, which are never kept.
    }
    let bytes = flight.block_bytes();
    let found = if flight.object.state().bypass || cache.health.streaming() {
        Err(NoRoom::Full)
    } else {
        let newcomer = newcomer(flight);
        cache.capacity.reserve(bytes + FILE_BYTES, |need| {
            let newcomer = newcomer.filter(|_| !need.over);
            front.make_room(worker.cache_reader(), need.bytes, newcomer)
        })
    };
    if found == Err(NoRoom::Declined) {
        flight.declined.store(true, Ordering::Release);
        Stats::count(&cache.stats.declined);
        cache.stats.declined_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
    let mut state = flight.object.state();
    let passes = found.is_err() && state.streams.is_some();
    if passes != state.passing.is_some() {
        state.passing = passes.then(|| cache.hot.pass());
    }
    drop(state);
    found
}

/// What room is wanted for; `None`: it is to be made in any case.
fn newcomer(flight: &Flight) -> Option<Newcomer> {
    let ordered = flight.is_wanted_by(Priority::WarmUp);
    let ino = flight.object.ino;
    (!ordered).then(|| Newcomer { ino, ahead: flight.is_fill_alone() })
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
        let asked = |ahead| Some(Newcomer { ino: 16, ahead });
        for (priority, expected) in [
            (Priority::Demand, asked(false)),
            (Priority::ReadAhead, asked(false)),
            (Priority::WarmUp, None),
            (Priority::Fill, asked(true)),
        ] {
            assert_eq!(newcomer(&flight(priority)), expected);
        }
        assert_eq!(flight(Priority::Fill).block_bytes(), BLOCK_SIZE + 10);
    }

    #[test]
    fn who_joins_a_flight_has_a_say() {
        let joined = flight(Priority::Fill);
        joined.want(Priority::ReadAhead);
        assert_eq!(newcomer(&joined), Some(Newcomer { ino: 16, ahead: false }));
        // What was ordered stays so, however urgent it is to others.
        joined.want(Priority::WarmUp);
        joined.want(Priority::Demand);
        assert_eq!(newcomer(&joined), None);
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
