//! The threads that bring files from the lake and take them to the cache disk, and what becomes of
//! that where the disk hangs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::cache::{Cache, landing};
use crate::front::Front;
use crate::queue::Taker;

/// Threads that take what has come from the lake to the cache disk. Where room is made for it, each
/// waits for a choice and for a commit.
const LANDERS: usize = 16;
/// A disk that does not answer for this long is treated as failing. Worst cases of healthy disks
/// under writeback are well under a second, of spinning ones a few.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often fetching goes on with other threads, because the disk holds up all there are.
const REPLACEMENTS: u32 = 4;

/// Start threads that fetch, of each kind one for each request that may be under way, and those that
/// keep what comes.
pub fn start(front: &Arc<Front>) -> io::Result<()> {
    let queue = &front.cache.queue;
    for (name, taker) in [("fetch", Taker::Foreground), ("fill", Taker::Background)] {
        for _ in 0..queue.most_requests(taker) {
            let front = front.clone();
            let fly = move || Cache::fly_all(&front, taker);
            thread::Builder::new().name(name.into()).spawn(fly)?;
        }
    }
    for _ in 0..LANDERS {
        let front = front.clone();
        thread::Builder::new().name("land".into()).spawn(move || landing::run(&front))?;
    }
    Ok(())
}

/// Watches what is to go to the cache disk. If none of it comes to an end, the disk hangs: reads
/// stream until it does (C8), and others take the place of the threads that wait for it.
pub struct HeldUp {
    landed: u64,
    since: Instant,
    /// What was left behind.
    lost: u64,
    replaced: u32,
}

impl HeldUp {
    pub fn begin() -> Self {
        Self { landed: 0, since: Instant::now(), lost: 0, replaced: 0 }
    }

    /// To be called now and then.
    pub fn look(&mut self, front: &Arc<Front>) -> io::Result<()> {
        let cache = &front.cache;
        let landed = cache.landed.load(Ordering::Acquire);
        let landing = cache.landing.load(Ordering::Acquire);
        if landed != self.landed || landing == 0 {
            *self = Self { landed, since: Instant::now(), lost: 0, ..*self };
            return Ok(());
        }
        if self.since.elapsed() < PATIENCE {
            return Ok(());
        }
        self.since = Instant::now();
        cache.health.failed("write a cache file", &io::ErrorKind::TimedOut.into());
        if landing <= self.lost {
            return Ok(());
        }
        self.lost = landing;
        cache.queue.write_off();
        if self.replaced == REPLACEMENTS {
            return Ok(());
        }
        self.replaced += 1;
        start(front)
    }
}
