use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A time that stands still but for `pass`, and a disk with bytes that can be evicted.
#[derive(Clone)]
struct World {
    passed_ms: Arc<AtomicU64>,
    free_bytes: Arc<AtomicU64>,
    evictable: Arc<AtomicU64>,
    asked: Arc<Mutex<Vec<u64>>>,
}

impl World {
    fn new(evictable: u64) -> Self {
        Self {
            passed_ms: Arc::default(),
            free_bytes: Arc::new(AtomicU64::new(90 * GIB)),
            evictable: Arc::new(AtomicU64::new(evictable)),
            asked: Arc::default(),
        }
    }

    fn clock(&self) -> Clock {
        let (start, passed_ms) = (Instant::now(), self.passed_ms.clone());
        Box::new(move || start + Duration::from_millis(passed_ms.load(Ordering::Relaxed)))
    }

    fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.passed_ms.fetch_add(ms, Ordering::Relaxed);
    }

    fn capacity(&self, limit: Option<u64>, used: u64) -> Capacity {
        let free = self.free_bytes.clone();
        let disk =
            move || Space { total_bytes: 100 * GIB, free_bytes: free.load(Ordering::Relaxed) };
        Capacity::with(limit, 0.1, used, Box::new(disk), self.clock())
    }

    /// What `capacity` is given to evict with.
    fn evict(&self, capacity: &Capacity, need: Need) -> Evicted {
        self.asked.lock().unwrap().push(need.bytes);
        let freed = need.bytes.min(self.evictable.load(Ordering::Relaxed));
        self.evictable.fetch_sub(freed, Ordering::Relaxed);
        self.free_bytes.fetch_add(freed, Ordering::Relaxed);
        capacity.freed(freed);
        Evicted::Freed(freed)
    }

    fn reserve(&self, capacity: &Capacity, bytes: u64) -> Result<Reservation, NoRoom> {
        capacity.reserve(bytes, |need| self.evict(capacity, need))
    }

    /// As `reserve`, of what is worth less than all that is cached.
    fn decline(&self, capacity: &Capacity, bytes: u64) -> Result<Reservation, NoRoom> {
        capacity.reserve(bytes, |need| {
            if need.over {
                return self.evict(capacity, need);
            }
            self.asked.lock().unwrap().push(need.bytes);
            Evicted::Declined
        })
    }

    fn asked(&self) -> Vec<u64> {
        self.asked.lock().unwrap().clone()
    }
}

/// Whether there is room for `bytes`, which are reserved then.
fn is_there(capacity: &Capacity, bytes: u64) -> bool {
    matches!(capacity.at_hand(bytes), Some(Ok(_)))
}

#[test]
fn used_and_reserved_stay_under_the_limit() {
    let world = World::new(0);
    let capacity = world.capacity(Some(10 * MIB), 0);
    let mut first = world.reserve(&capacity, 6 * MIB).unwrap();
    assert!(!is_there(&capacity, 5 * MIB));
    capacity.spend(&mut first, 2 * MIB);
    assert_eq!((first.bytes(), capacity.reserved_bytes()), (4 * MIB, 4 * MIB));
    capacity.release(first);
    assert_eq!((capacity.used_bytes(), capacity.reserved_bytes()), (2 * MIB, 0));
    assert!(is_there(&capacity, 8 * MIB));
}

#[test]
fn reserving_evicts_what_is_missing() {
    let world = World::new(5 * MIB);
    let capacity = world.capacity(Some(10 * MIB), 9 * MIB);
    assert!(world.reserve(&capacity, 4 * MIB).is_ok());
    assert_eq!(world.asked(), [3 * MIB]);
    assert_eq!(capacity.used_bytes() + capacity.reserved_bytes(), 10 * MIB);
}

#[test]
fn what_is_at_hand_is_said_while_somebody_makes_room() {
    let world = World::new(0);
    let capacity = world.capacity(Some(10 * MIB), 8 * MIB);
    let _evicting = capacity.evicting.lock().unwrap();
    assert!(is_there(&capacity, 2 * MIB));
    assert_eq!(capacity.at_hand(MIB), None);
}

#[test]
fn room_that_others_take_first_is_made_anew() {
    let (world, room) = (World::new(90 * MIB), 100 * MIB);
    let capacity = world.capacity(Some(room), room);
    let mut taken_bytes = 0;
    let found = capacity.reserve(MIB, |need| {
        let evicted = world.evict(&capacity, need);
        if taken_bytes < 80 * MIB {
            taken_bytes += need.bytes;
            assert!(is_there(&capacity, need.bytes));
        }
        evicted
    });
    assert!(found.is_ok());
    assert_eq!(world.asked().len(), 81);
}

#[test]
fn nothing_to_evict_is_said_at_once_and_not_tried_all_the_time() {
    let world = World::new(0);
    let capacity = world.capacity(Some(10 * MIB), 10 * MIB);
    for _ in 0..3 {
        assert_eq!(world.reserve(&capacity, MIB), Err(NoRoom::Full));
    }
    assert_eq!(world.asked().len(), 1);
    world.pass(RETRY);
    assert_eq!(world.reserve(&capacity, MIB), Err(NoRoom::Full));
    assert_eq!(world.asked().len(), 2);
    // Something was freed: there is hope again.
    capacity.freed(MIB / 2);
    assert_eq!(world.reserve(&capacity, MIB), Err(NoRoom::Full));
    assert_eq!(world.asked().len(), 3);
}

#[test]
fn what_is_declined_says_nothing_about_the_next() {
    let world = World::new(MIB);
    let capacity = world.capacity(Some(10 * MIB), 10 * MIB);
    for _ in 0..3 {
        assert_eq!(world.decline(&capacity, MIB), Err(NoRoom::Declined));
    }
    assert_eq!(world.asked().len(), 3);
    assert_eq!((capacity.used_bytes(), capacity.reserved_bytes()), (10 * MIB, 0));
    assert!(world.reserve(&capacity, MIB).is_ok());
    assert_eq!(world.asked().len(), 4);
}

#[test]
fn what_was_found_before_it_was_declined_is_enough_for_a_small_one() {
    let world = World::new(0);
    let capacity = world.capacity(Some(4 * GIB), 4 * GIB);
    let evict = |need: Need| {
        assert_eq!(need, Need { bytes: MIB, over: false });
        capacity.freed(2 * MIB);
        Evicted::Declined
    };
    assert!(capacity.reserve(MIB, evict).is_ok());
    assert_eq!(capacity.reserve(3 * MIB, |_| Evicted::Declined), Err(NoRoom::Declined));
}

#[test]
fn who_waits_for_an_eviction_goes_on_when_another_declines() {
    let world = World::new(MIB);
    let capacity = world.capacity(Some(10 * MIB), 10 * MIB);
    let deciding = Barrier::new(2);
    std::thread::scope(|scope| {
        let declined = scope.spawn(|| {
            capacity.reserve(MIB, |_| {
                deciding.wait();
                std::thread::yield_now(); // The other one waits for the end of this, or is about to.
                Evicted::Declined
            })
        });
        deciding.wait();
        assert!(world.reserve(&capacity, MIB).is_ok());
        assert_eq!(declined.join().unwrap(), Err(NoRoom::Declined));
    });
    assert_eq!(world.asked(), [MIB]);
}

#[test]
fn what_is_over_the_bounds_goes_whatever_is_to_come() {
    let world = World::new(4 * MIB);
    world.free_bytes.store(10 * GIB - 3 * MIB, Ordering::Relaxed);
    let capacity = world.capacity(None, 10 * MIB);
    assert_eq!(world.decline(&capacity, MIB), Err(NoRoom::Declined));
    // Others have filled the disk: the share that is theirs is given back first.
    assert_eq!(world.asked(), [3 * MIB, MIB]);
    assert_eq!(capacity.used_bytes(), 7 * MIB);
}

#[test]
fn more_than_the_limit_never_fits_and_evicts_nothing() {
    let world = World::new(10 * MIB);
    let capacity = world.capacity(Some(10 * MIB), 10 * MIB);
    assert_eq!(world.reserve(&capacity, 11 * MIB), Err(NoRoom::Full));
    assert!(world.asked().is_empty());
}

#[test]
fn a_share_of_the_disk_stays_free_for_others() {
    let world = World::new(0);
    world.free_bytes.store(10 * GIB + 3 * MIB, Ordering::Relaxed);
    let capacity = world.capacity(None, 0);
    let mut held = world.reserve(&capacity, 2 * MIB).unwrap();
    assert_eq!(world.reserve(&capacity, 2 * MIB), Err(NoRoom::Full));
    // What was written counts before the disk says so.
    capacity.spend(&mut held, 2 * MIB);
    assert!(!is_there(&capacity, 2 * MIB));
    world.free_bytes.store(50 * GIB, Ordering::Relaxed);
    assert!(!is_there(&capacity, 2 * MIB));
    world.pass(STATVFS_INTERVAL);
    assert!(world.reserve(&capacity, 2 * MIB).is_ok());
}

#[test]
fn several_that_wait_for_room_evict_once_each_at_most() {
    let world = World::new(64 * MIB);
    let capacity = world.capacity(Some(64 * MIB), 64 * MIB);
    let begin = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                begin.wait();
                assert!(world.reserve(&capacity, MIB).is_ok());
            });
        }
    });
    assert!(world.asked().len() <= 8);
    assert_eq!(capacity.reserved_bytes(), 8 * MIB);
    assert!(capacity.used_bytes() + capacity.reserved_bytes() <= 64 * MIB);
}

#[test]
fn several_that_find_no_room_try_once() {
    let world = World::new(0);
    let capacity = world.capacity(Some(64 * MIB), 64 * MIB);
    let begin = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                begin.wait();
                // As an eviction that frees nothing: no word of `freed`.
                let evict = |need: Need| {
                    world.asked.lock().unwrap().push(need.bytes);
                    Evicted::Freed(0)
                };
                assert_eq!(capacity.reserve(MIB, evict), Err(NoRoom::Full));
            });
        }
    });
    assert_eq!(world.asked(), [MIB]);
}

#[test]
fn a_smaller_limit_evicts_down_to_it() {
    let world = World::new(8 * MIB);
    let capacity = world.capacity(Some(10 * MIB), 8 * MIB);
    capacity.resize(Some(3 * MIB), |need| world.evict(&capacity, need));
    assert_eq!((capacity.used_bytes(), capacity.limit_bytes()), (3 * MIB, Some(3 * MIB)));
    capacity.resize(None, |need| world.evict(&capacity, need));
    assert_eq!(world.asked(), [5 * MIB]);
}

#[test]
fn a_real_disk_has_room_and_one_that_is_not_there_has_none() {
    let directory = tempfile::tempdir().unwrap();
    let capacity = Capacity::new(directory.path().to_owned(), None, 0.0, 0);
    assert!(is_there(&capacity, 1));
    let capacity = Capacity::new(directory.path().join("none"), None, 0.0, 0);
    assert!(!is_there(&capacity, 1));
}

#[test]
fn what_is_on_the_disk_already_takes_no_room_there() {
    let world = World::new(0);
    world.free_bytes.store(10 * GIB + 4 * MIB, Ordering::Relaxed);
    let capacity = world.capacity(Some(20 * MIB), 0);
    let nothing = |_| unreachable!("nothing has to go for it");
    let mut written = capacity.reserve_written(15 * MIB, nothing).unwrap();
    let mut fetched = capacity.reserve(3 * MIB, nothing).unwrap();
    // In the limit it counts.
    assert_eq!(capacity.reserve_written(3 * MIB, |_| Evicted::Freed(0)), Err(NoRoom::Full));
    capacity.spend(&mut written, 15 * MIB);
    assert!(is_there(&capacity, MIB));
    capacity.spend(&mut fetched, 3 * MIB);
    assert!(!is_there(&capacity, MIB));
    capacity.release(written);
    capacity.release(fetched);
    assert_eq!(capacity.used_bytes(), 18 * MIB);
}
