//! Room on the cache disk: a hard limit, and a share of the disk that stays free. As
//! `tierfs/cache/space.py`, for threads.
//!
//! Bytes are reserved before they are fetched (C5). A reservation turns into used bytes block by
//! block (`Capacity::spend`), and what is left of it is given back (`Capacity::release`). Each
//! cached file is counted with `FILE_BYTES` more than its blocks, for the rounding of its last
//! block and its inode, so that the limit holds for `du` too.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::file::{self, Space};

/// What a file costs beyond its blocks: at most one file system block of rounding.
pub const FILE_BYTES: u64 = 4096;
/// How old the disk's own account may be. Others write to that disk too.
const STATVFS_INTERVAL: Duration = Duration::from_secs(2);
/// After an eviction that found no room, the next attempt waits this long: everything is in use.
const RETRY: Duration = Duration::from_secs(1);
/// Room that was made is for whoever comes first; so often is it made anew.
const TRIES: u32 = 3;
/// Evicting a little more than asked for spares a commit for each small file.
const EVICT_AT_LEAST_BYTES: u64 = 8 << 20;

/// What tells the time; a test's own.
pub type Clock = Box<dyn Fn() -> Instant + Send + Sync>;

/// Bytes that a fetch may write.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is not released is missing from the cache for ever"]
pub struct Reservation {
    bytes: u64,
}

impl Reservation {
    /// What is not spent yet.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The account.
///
/// Whoever needs room brings the means to evict: a function that frees about so many bytes of what
/// is not in use, calls `freed` as it goes, and says how many it freed. It must not reserve. One
/// eviction runs at a time, and others that need room wait for it.
pub struct Capacity {
    min_free: f64,
    disk: Box<dyn Fn() -> Space + Send + Sync>,
    clock: Clock,
    account: Mutex<Account>,
    /// Taken before `account`, never while that is held.
    evicting: Mutex<()>,
}

struct Account {
    limit_bytes: Option<u64>,
    used_bytes: u64,
    reserved_bytes: u64,
    space: Space,
    /// When `space` was asked for; `None`: it is to be asked for again.
    space_read: Option<Instant>,
    hopeless_until: Option<Instant>,
}

impl Capacity {
    /// The account of the cache at `path`, which may have `limit_bytes` of its disk, of which a
    /// share of `min_free` stays free, and has `used_bytes`.
    pub fn new(path: PathBuf, limit_bytes: Option<u64>, min_free: f64, used_bytes: u64) -> Self {
        // A disk that cannot be asked has no room.
        let disk = Box::new(move || file::space(&path).unwrap_or_default());
        Self::with(limit_bytes, min_free, used_bytes, disk, Box::new(Instant::now))
    }

    pub fn with(
        limit_bytes: Option<u64>,
        min_free: f64,
        used_bytes: u64,
        disk: Box<dyn Fn() -> Space + Send + Sync>,
        clock: Clock,
    ) -> Self {
        let account = Account {
            limit_bytes,
            used_bytes,
            reserved_bytes: 0,
            space: Space::default(),
            space_read: None,
            hopeless_until: None,
        };
        let (account, evicting) = (Mutex::new(account), Mutex::new(()));
        Self { min_free, disk, clock, account, evicting }
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn used_bytes(&self) -> u64 {
        self.lock().used_bytes
    }

    pub fn reserved_bytes(&self) -> u64 {
        self.lock().reserved_bytes
    }

    pub fn limit_bytes(&self) -> Option<u64> {
        self.lock().limit_bytes
    }

    /// Reserve without evicting anything, or `None`.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let mut account = self.lock();
        if self.missing(&mut account, bytes) > 0 {
            return None;
        }
        account.reserved_bytes += bytes;
        Some(Reservation { bytes })
    }

    /// Reserve, evicting if need be. `None`: what is cached is in use.
    pub fn reserve(&self, bytes: u64, mut evict: impl FnMut(u64) -> u64) -> Option<Reservation> {
        if let Some(reservation) = self.try_reserve(bytes) {
            return Some(reservation);
        }
        if self.is_hopeless(bytes) {
            return None;
        }
        let _evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        // Others may have made room meanwhile, or found that there is none.
        if let Some(reservation) = self.try_reserve(bytes) {
            return Some(reservation);
        }
        if self.is_hopeless(bytes) {
            return None;
        }
        for _ in 0..TRIES {
            let wanted = {
                let mut account = self.lock();
                self.missing(&mut account, bytes).max(account.batch_bytes())
            };
            let freed = evict(wanted);
            self.disk_changed();
            if let Some(reservation) = self.try_reserve(bytes) {
                return Some(reservation);
            }
            if freed == 0 {
                break;
            }
            // Others were faster to take it.
        }
        self.lock().hopeless_until = Some((self.clock)() + RETRY);
        None
    }

    /// `bytes` of the reservation were written and recorded.
    pub fn spend(&self, reservation: &mut Reservation, bytes: u64) {
        let mut account = self.lock();
        let reserved = bytes.min(reservation.bytes);
        reservation.bytes -= reserved;
        account.reserved_bytes -= reserved;
        account.used_bytes += bytes;
        // Until statvfs is asked again, what was written is missing from the disk.
        account.space.free_bytes = account.space.free_bytes.saturating_sub(bytes);
    }

    /// Give back what was not spent.
    #[allow(clippy::needless_pass_by_value)] // Who gives it back has it no more.
    pub fn release(&self, reservation: Reservation) {
        self.lock().reserved_bytes -= reservation.bytes;
    }

    /// `bytes` that were used are no longer.
    pub fn freed(&self, bytes: u64) {
        let mut account = self.lock();
        account.used_bytes = account.used_bytes.saturating_sub(bytes);
        account.hopeless_until = None;
    }

    /// Where `counted` bytes were used there are `used` in truth.
    pub fn adjust(&self, counted: u64, used: u64) {
        let mut account = self.lock();
        account.used_bytes = (account.used_bytes + used).saturating_sub(counted);
    }

    /// Set the limit, and evict down to it as far as what is in use allows.
    pub fn resize(&self, limit_bytes: Option<u64>, evict: impl FnOnce(u64) -> u64) {
        self.lock().limit_bytes = limit_bytes;
        let _evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = self.missing(&mut self.lock(), 0);
        if missing > 0 {
            evict(missing);
            self.disk_changed();
        }
    }

    /// Ask the file system again at the next occasion.
    pub fn disk_changed(&self) {
        self.lock().space_read = None;
    }

    /// How much has to go before `bytes` more fit; 0 if they fit now.
    fn missing(&self, account: &mut Account, bytes: u64) -> u64 {
        let now = (self.clock)();
        if account.space_read.is_none_or(|read| now - read >= STATVFS_INTERVAL) {
            account.space = (self.disk)();
            account.space_read = Some(now);
        }
        let needed = account.reserved_bytes.saturating_add(bytes);
        let kept = share(account.space.total_bytes, self.min_free);
        let on_disk = kept.saturating_add(needed).saturating_sub(account.space.free_bytes);
        let in_limit = account
            .limit_bytes
            .map_or(0, |limit| account.used_bytes.saturating_add(needed).saturating_sub(limit));
        on_disk.max(in_limit)
    }

    /// Whether there is no point in evicting for `bytes` now.
    fn is_hopeless(&self, bytes: u64) -> bool {
        let account = self.lock();
        account.hopeless_until.is_some_and(|until| until > (self.clock)())
            || account.limit_bytes.is_some_and(|limit| bytes > limit)
    }
}

impl Account {
    fn batch_bytes(&self) -> u64 {
        self.limit_bytes.map_or(EVICT_AT_LEAST_BYTES, |limit| EVICT_AT_LEAST_BYTES.min(limit / 64))
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn share(bytes: u64, part: f64) -> u64 {
    (bytes as f64 * part) as u64
}

#[cfg(test)]
mod tests {
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
        fn evict(&self, capacity: &Capacity, bytes: u64) -> u64 {
            self.asked.lock().unwrap().push(bytes);
            let freed = bytes.min(self.evictable.load(Ordering::Relaxed));
            self.evictable.fetch_sub(freed, Ordering::Relaxed);
            self.free_bytes.fetch_add(freed, Ordering::Relaxed);
            capacity.freed(freed);
            freed
        }

        fn reserve(&self, capacity: &Capacity, bytes: u64) -> Option<Reservation> {
            capacity.reserve(bytes, |bytes| self.evict(capacity, bytes))
        }

        fn asked(&self) -> Vec<u64> {
            self.asked.lock().unwrap().clone()
        }
    }

    #[test]
    fn used_and_reserved_stay_under_the_limit() {
        let world = World::new(0);
        let capacity = world.capacity(Some(10 * MIB), 0);
        let mut first = world.reserve(&capacity, 6 * MIB).unwrap();
        assert_eq!(capacity.try_reserve(5 * MIB), None);
        capacity.spend(&mut first, 2 * MIB);
        assert_eq!((first.bytes(), capacity.reserved_bytes()), (4 * MIB, 4 * MIB));
        capacity.release(first);
        assert_eq!((capacity.used_bytes(), capacity.reserved_bytes()), (2 * MIB, 0));
        assert!(capacity.try_reserve(8 * MIB).is_some());
    }

    #[test]
    fn reserving_evicts_what_is_missing() {
        let world = World::new(5 * MIB);
        let capacity = world.capacity(Some(10 * MIB), 9 * MIB);
        assert!(world.reserve(&capacity, 4 * MIB).is_some());
        assert_eq!(world.asked(), [3 * MIB]);
        assert_eq!(capacity.used_bytes() + capacity.reserved_bytes(), 10 * MIB);
    }

    #[test]
    fn a_little_more_is_evicted_than_a_small_file_needs() {
        let world = World::new(5 * GIB);
        let capacity = world.capacity(Some(GIB), GIB);
        assert!(world.reserve(&capacity, FILE_BYTES).is_some());
        assert_eq!(world.asked(), [EVICT_AT_LEAST_BYTES]);
    }

    #[test]
    fn nothing_to_evict_is_said_at_once_and_not_tried_all_the_time() {
        let world = World::new(0);
        let capacity = world.capacity(Some(10 * MIB), 10 * MIB);
        for _ in 0..3 {
            assert_eq!(world.reserve(&capacity, MIB), None);
        }
        assert_eq!(world.asked().len(), 1);
        world.pass(RETRY);
        assert_eq!(world.reserve(&capacity, MIB), None);
        assert_eq!(world.asked().len(), 2);
        // Something was freed: there is hope again.
        capacity.freed(MIB / 2);
        assert_eq!(world.reserve(&capacity, MIB), None);
        assert_eq!(world.asked().len(), 3);
    }

    #[test]
    fn more_than_the_limit_never_fits_and_evicts_nothing() {
        let world = World::new(10 * MIB);
        let capacity = world.capacity(Some(10 * MIB), 10 * MIB);
        assert_eq!(world.reserve(&capacity, 11 * MIB), None);
        assert!(world.asked().is_empty());
    }

    #[test]
    fn a_share_of_the_disk_stays_free_for_others() {
        let world = World::new(0);
        world.free_bytes.store(10 * GIB + 3 * MIB, Ordering::Relaxed);
        let capacity = world.capacity(None, 0);
        let mut held = world.reserve(&capacity, 2 * MIB).unwrap();
        assert_eq!(world.reserve(&capacity, 2 * MIB), None);
        // What was written counts before the disk says so.
        capacity.spend(&mut held, 2 * MIB);
        assert_eq!(capacity.try_reserve(2 * MIB), None);
        world.free_bytes.store(50 * GIB, Ordering::Relaxed);
        assert!(capacity.try_reserve(2 * MIB).is_none());
        world.pass(STATVFS_INTERVAL);
        assert!(world.reserve(&capacity, 2 * MIB).is_some());
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
                    assert!(world.reserve(&capacity, MIB).is_some());
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
                    let evict = |bytes| {
                        world.asked.lock().unwrap().push(bytes);
                        0
                    };
                    assert_eq!(capacity.reserve(MIB, evict), None);
                });
            }
        });
        assert_eq!(world.asked(), [MIB]);
    }

    #[test]
    fn a_smaller_limit_evicts_down_to_it() {
        let world = World::new(8 * MIB);
        let capacity = world.capacity(Some(10 * MIB), 8 * MIB);
        capacity.resize(Some(3 * MIB), |bytes| world.evict(&capacity, bytes));
        assert_eq!((capacity.used_bytes(), capacity.limit_bytes()), (3 * MIB, Some(3 * MIB)));
        capacity.resize(None, |bytes| world.evict(&capacity, bytes));
        assert_eq!(world.asked(), [5 * MIB]);
    }

    #[test]
    fn a_real_disk_has_room_and_one_that_is_not_there_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let capacity = Capacity::new(directory.path().to_owned(), None, 0.0, 0);
        assert!(capacity.try_reserve(1).is_some());
        let capacity = Capacity::new(directory.path().join("none"), None, 0.0, 0);
        assert_eq!(capacity.try_reserve(1), None);
    }
}
