//! Trouble with the cache: with its disk, or with its index. As `Health` of
//! `tierfs/cache/space.py`, for threads.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::log;
use crate::space::Clock;

/// Until a full disk is tried again: it may have room soon.
const FULL: Duration = Duration::from_secs(5);
/// Until a failing one is, which rarely heals.
const FAILING: Duration = Duration::from_secs(30);

/// Whether the cache takes blocks. While it does not, reads stream from the lake (C8).
pub struct Health {
    clock: Clock,
    state: Mutex<State>,
}

/// What fails: one of them that works says nothing about the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Disk,
    Index,
}

#[derive(Default)]
struct State {
    errors: u64,
    /// Of the disk, and of the index.
    troubles: [Trouble; 2],
}

#[derive(Default)]
struct Trouble {
    /// Empty while all is well.
    reason: String,
    until: Option<Instant>,
}

impl Default for Health {
    fn default() -> Self {
        Self::with_clock(Box::new(Instant::now))
    }
}

impl Health {
    pub fn with_clock(clock: Clock) -> Self {
        Self { clock, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True while blocks are not to be written.
    pub fn streaming(&self) -> bool {
        let state = self.lock();
        if state.troubles.iter().all(|trouble| trouble.reason.is_empty()) {
            return false;
        }
        let now = (self.clock)();
        state.troubles.iter().any(|trouble| !trouble.reason.is_empty() && trouble.until > Some(now))
    }

    /// What went wrong last, or nothing since it works again.
    pub fn reason(&self) -> String {
        let state = self.lock();
        let troubles = state.troubles.iter().filter(|trouble| !trouble.reason.is_empty());
        let latest = troubles.max_by_key(|trouble| trouble.until);
        latest.map_or_else(String::new, |trouble| trouble.reason.clone())
    }

    /// How often something went wrong.
    pub fn errors(&self) -> u64 {
        self.lock().errors
    }

    /// `op` on the cache disk failed: stream for a while.
    pub fn failed(&self, op: &str, error: &io::Error) {
        self.part_failed(Part::Disk, op, error);
    }

    /// `op` on `part` failed: stream for a while.
    pub fn part_failed(&self, part: Part, op: &str, error: &io::Error) {
        let full =
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let until = (self.clock)() + if full { FULL } else { FAILING };
        let reason = format!("{op}: {error}");
        let mut state = self.lock();
        state.errors += 1;
        let trouble = &mut state.troubles[part as usize];
        let was = std::mem::replace(&mut trouble.reason, reason.clone());
        trouble.until = Some(until);
        drop(state);
        if was.is_empty() {
            log::warning(&format!(
                "the cache takes no new blocks, reads stream from the lake: {reason}"
            ));
        }
    }

    /// A block was written, or a group of records committed: the trouble with that part, if there
    /// was any, is over.
    pub fn worked(&self, part: Part) {
        let mut state = self.lock();
        let trouble = &mut state.troubles[part as usize];
        if trouble.reason.is_empty() {
            return;
        }
        trouble.reason.clear();
        drop(state);
        log::warning("the cache takes blocks again");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A time that stands still but for `pass`.
    struct World(Arc<AtomicU64>);

    impl World {
        fn new() -> Self {
            Self(Arc::default())
        }

        fn clock(&self) -> Clock {
            let (start, passed_ms) = (Instant::now(), self.0.clone());
            Box::new(move || start + Duration::from_millis(passed_ms.load(Ordering::Relaxed)))
        }

        fn pass(&self, time: Duration) {
            self.0.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
        }
    }

    fn errno(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn a_full_disk_is_tried_again_sooner_than_a_failing_one() {
        let world = World::new();
        let health = Health::with_clock(world.clock());
        assert!(!health.streaming());
        for code in [libc::ENOSPC, libc::EDQUOT] {
            health.failed("write", &errno(code));
            assert!(health.streaming());
            world.pass(FULL);
            assert!(!health.streaming());
        }
        health.failed("write", &errno(libc::EIO));
        world.pass(FULL);
        assert!(health.streaming());
        world.pass(FAILING);
        assert!(!health.streaming());
        assert!(health.reason().starts_with("write: "));
        health.worked(Part::Disk);
        assert_eq!((health.reason(), health.errors()), (String::new(), 3));
        health.failed("write", &errno(libc::EIO));
        health.worked(Part::Disk);
        assert!(!health.streaming());
    }

    #[test]
    fn a_disk_that_works_says_nothing_of_the_index() {
        let world = World::new();
        let health = Health::with_clock(world.clock());
        health.failed("write", &errno(libc::EIO));
        world.pass(FULL);
        health.part_failed(Part::Index, "record", &errno(libc::ENOSPC));
        assert!(health.reason().starts_with("write: "));
        health.worked(Part::Disk);
        assert!(health.streaming() && health.reason().starts_with("record: "));
        world.pass(FULL);
        assert!(!health.streaming());
        health.worked(Part::Index);
        assert_eq!(health.reason(), "");
    }
}
