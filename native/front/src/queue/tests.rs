use std::sync::atomic::{AtomicU64, Ordering};

use super::Priority::{Demand, Fill, ReadAhead, WarmUp};
use super::Taker::{Background, Foreground};
use super::*;

const MIB: u64 = 1 << 20;

impl<T> Queue<T> {
    /// As `take`, without waiting.
    fn try_take(&self) -> Option<(T, Grant)> {
        let mut state = self.lock();
        let taker = self.ready(&state)?;
        self.begin(&mut state, taker)
    }

    /// How many requests are under way.
    fn requests(&self) -> u64 {
        self.lock().requests
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
    let (_, grant) = queue.take(Foreground).unwrap();
    (queue, grant)
}

#[test]
fn demand_goes_first_then_read_ahead_then_warm_up_then_fill() {
    let (queue, holder) = full();
    queue.push("fill", MIB, Fill);
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
    let ahead = queue.begun();
    assert_eq!(names(&ahead), ["ahead", "warm"]);
    for (_, grant) in ahead {
        queue.give_back(grant);
    }
    assert_eq!(names(&queue.begun()), ["fill"]);
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
    assert_eq!((queue.waiting(), queue.requests(), queue.used_bytes()), (1, 1, 4 * MIB));
}

#[test]
fn low_priorities_leave_room_for_demand() {
    for (priority, most) in [(ReadAhead, 12), (WarmUp, 8), (Fill, 6)] {
        let queue = Queue::new(16 * MIB, 64);
        for _ in 0..16 {
            queue.push("low", MIB, priority);
        }
        assert_eq!(queue.begun().len(), most);
        for _ in 0..16 {
            queue.push("demand", MIB, Demand);
        }
        assert_eq!(queue.begun().len(), 16 - most);
    }
}

#[test]
fn what_is_held_for_others_counts_for_fill() {
    let queue = Queue::new(16 * MIB, 64);
    queue.push("warm", 6 * MIB, WarmUp);
    queue.push("fill", MIB, Fill);
    let begun = queue.begun();
    assert_eq!(names(&begun), ["warm"]);
}

#[test]
fn a_fill_that_a_reader_waits_for_is_no_fill_any_more() {
    let (queue, holder) = full();
    let fill = queue.push("fill", 4 * MIB, Fill);
    queue.push("warm", MIB, WarmUp);
    queue.promote(fill, Demand);
    queue.give_back(holder);
    assert_eq!(names(&queue.begun()), ["fill"]);
}

#[test]
fn low_priorities_leave_connections_for_demand() {
    for (priority, most) in [(Fill, 4), (WarmUp, 6), (ReadAhead, 7)] {
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
    assert_eq!(queue.requests(), 1);
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
        let taker = scope.spawn(|| queue.take(Foreground).unwrap());
        queue.promote(low, Demand);
        assert_eq!(taker.join().unwrap(), ("low", Grant { bytes: MIB, under_way: true }));
    });
}

#[test]
fn a_tiny_request_is_not_free() {
    let queue = Queue::new(0, 64);
    queue.push("tiny", 1, Demand);
    assert_eq!(queue.take(Foreground).unwrap().1, Grant { bytes: LEAST_BYTES, under_way: true });
    assert_eq!((queue.used_bytes(), queue.total_bytes()), (LEAST_BYTES, 1));
}

#[test]
fn what_has_arrived_is_no_request_and_still_takes_memory() {
    let queue = Queue::new(16 * MIB, 1);
    queue.push("fill", MIB, Fill);
    queue.push("next", MIB, Fill);
    let mut begun = queue.begun();
    assert_eq!(names(&begun), ["fill"]);
    let mut grant = begun.pop().unwrap().1;
    queue.arrived(&mut grant);
    queue.arrived(&mut grant); // Once is enough.
    assert_eq!((queue.requests(), queue.used_bytes()), (0, MIB));
    let next = queue.begun();
    assert_eq!(names(&next), ["next"]);
    assert_eq!((queue.requests(), queue.used_bytes()), (1, 2 * MIB));
    queue.give_back(grant);
    assert_eq!((queue.requests(), queue.used_bytes()), (1, MIB));
}

#[test]
fn fill_is_taken_by_those_for_whom_nobody_waits() {
    let queue = Queue::new(4 * MIB, 64);
    std::thread::scope(|scope| {
        let background = scope.spawn(|| queue.take(Background).unwrap());
        let fill = queue.push("fill", MIB, Fill);
        let (item, grant) = background.join().unwrap();
        assert_eq!(item, "fill");
        queue.promote(fill, Demand); // It has begun.
        queue.give_back(grant);
        let foreground = scope.spawn(|| queue.take(Foreground).unwrap().0);
        let fill = queue.push("joined", MIB, Fill);
        assert!(queue.begin(&mut queue.lock(), Foreground).is_none());
        queue.promote(fill, Demand);
        assert_eq!(foreground.join().unwrap(), "joined");
    });
}

#[test]
fn closing_ends_those_that_wait_and_returns_what_waited() {
    let (queue, holder) = full();
    std::thread::scope(|scope| {
        let takers: Vec<_> = (0..4).map(|_| scope.spawn(|| queue.take(Foreground))).collect();
        queue.push("warm", MIB, WarmUp);
        queue.push("demand", MIB, Demand);
        assert_eq!(queue.close(), ["demand", "warm"]);
        assert!(takers.into_iter().all(|taker| taker.join().unwrap().is_none()));
    });
    queue.push("late", MIB, Demand);
    assert!(queue.take(Foreground).is_none());
    queue.give_back(holder);
    assert_eq!((queue.waiting(), queue.requests(), queue.used_bytes()), (0, 0, 0));
}

#[test]
fn threads_lose_nothing_and_keep_to_the_budget() {
    const ITEMS: u64 = 3000;
    let queue = Queue::new(8 * MIB, 6);
    let (ended, sum) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for n in 0..8 {
            let taker = if n % 2 == 0 { Foreground } else { Background };
            let (queue, ended, sum) = (&queue, &ended, &sum);
            scope.spawn(move || {
                while let Some((item, mut grant)) = queue.take(taker) {
                    assert!(queue.used_bytes() <= 8 * MIB);
                    sum.fetch_add(item, Ordering::Relaxed);
                    if item % 7 == 0 {
                        queue.arrived(&mut grant);
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
            let priority = [Demand, ReadAhead, WarmUp, Fill][usize::try_from(item % 4).unwrap()];
            let id = queue.push(item, (item % 5) * MIB, priority);
            if item % 5 == 0 {
                queue.promote(id, Demand);
            }
        }
    });
    assert_eq!(sum.into_inner(), ITEMS * (ITEMS - 1) / 2);
    assert_eq!((queue.waiting(), queue.requests(), queue.used_bytes()), (0, 0, 0));
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
                let priority = [Demand, ReadAhead, WarmUp, Fill][usize::try_from(n % 4).unwrap()];
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
        assert_eq!((queue.used_bytes(), queue.requests()), (bytes, held.len() as u64));
        assert!(bytes <= 8 * MIB || held.len() == 1);
        // Somebody is always served.
        assert!(!held.is_empty() || queue.waiting() == 0);
        let state = queue.lock();
        assert_eq!(state.places.len(), state.waiting.len());
    }
}
