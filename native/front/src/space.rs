//! Room on the cache disk: a hard limit, and a share of the disk that stays free. As
//! `tierfs/cache/space.py`, for threads.
//!
//! Bytes are reserved before they are written (C5). A reservation turns into used bytes block by
//! block (`Capacity::spend`), and what is left of it is given back (`Capacity::release`). Each
//! cached file is counted with its `overhead_bytes` more than its blocks, so that the limit holds for
//! `du` too.
//!
//! Whom to evict, others decide, and may decline: what is to come is not worth what would have to
//! go. That says nothing about the next one who needs room, who asks again; that nothing can go,
//! because all is in use, is remembered for a while (`RETRY`). What is over the bounds already has to
//! go, whatever it is that needs room.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::file::{self, Space};

/// How old the disk's own account may be. Others write to that disk too.
const STATVFS_INTERVAL: Duration = Duration::from_secs(2);
/// After an eviction that found no room, the next attempt waits this long: everything is in use.
const RETRY: Duration = Duration::from_secs(1);

/// What an eviction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// So many bytes have left; 0: what is cached is in use.
    Freed(u64),
    /// What would have to go is worth more than what is to come. Something may have left before that
    /// was found.
    Declined,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// What is cached is in use, or cannot leave the disk.
    Full,
    /// What would have to go is worth more.
    Declined,
}

/// What is to be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// About so much.
    pub bytes: u64,
    /// It is over the bounds already: nobody may decline.
    pub over: bool,
}

/// What tells the time; a test's own.
pub type Clock = Box<dyn Fn() -> Instant + Send + Sync>;

/// Bytes that a fetch may write.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is not released is missing from the cache for ever"]
pub struct Reservation {
    bytes: u64,
    /// What it is for is on the disk already.
    written: bool,
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
/// is not in use, calls `freed` as it goes, and says what came of it. It must not reserve. One
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
    /// The part of that which is on the disk already.
    written_bytes: u64,
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
            written_bytes: 0,
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

    fn take(&self, bytes: u64, written: bool) -> Option<Reservation> {
        let mut account = self.lock();
        if self.missing(&mut account, bytes, written) > 0 {
            return None;
        }
        account.reserved_bytes += bytes;
        account.written_bytes += if written { bytes } else { 0 };
        Some(Reservation { bytes, written })
    }

    /// Whether there is room for `bytes` without an eviction.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.missing(&mut self.lock(), bytes, false) == 0
    }

    /// Room that is there, or that there is no point in evicting for any; `None`: something may have
    /// to go.
    pub fn at_hand(&self, bytes: u64) -> Option<Result<Reservation, NoRoom>> {
        self.found(bytes, false)
    }

    fn found(&self, bytes: u64, written: bool) -> Option<Result<Reservation, NoRoom>> {
        if let Some(reservation) = self.take(bytes, written) {
            return Some(Ok(reservation));
        }
        self.is_hopeless(bytes).then_some(Err(NoRoom::Full))
    }

    /// Reserve, evicting if need be.
    pub fn reserve(
        &self,
        bytes: u64,
        evict: impl FnMut(Need) -> Evicted,
    ) -> Result<Reservation, NoRoom> {
        self.reserve_for(bytes, false, evict)
    }

    /// The same for what is on the disk already.
    pub fn reserve_written(
        &self,
        bytes: u64,
        evict: impl FnMut(Need) -> Evicted,
    ) -> Result<Reservation, NoRoom> {
        self.reserve_for(bytes, true, evict)
    }

    fn reserve_for(
        &self,
        bytes: u64,
        written: bool,
        mut evict: impl FnMut(Need) -> Evicted,
    ) -> Result<Reservation, NoRoom> {
        if let Some(found) = self.found(bytes, written) {
            return found;
        }
        let _evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        // Others may have made room meanwhile, or found that there is none.
        if let Some(found) = self.found(bytes, written) {
            return found;
        }
        loop {
            let evicted = evict(self.need(bytes, written));
            self.disk_changed();
            if let Some(reservation) = self.take(bytes, written) {
                return Ok(reservation);
            }
            match evicted {
                Evicted::Freed(0) => break,
                // Others were faster to take it, as often as that may be, or more is needed.
                Evicted::Freed(_) => {}
                Evicted::Declined => return Err(NoRoom::Declined),
            }
        }
        self.lock().hopeless_until = Some((self.clock)() + RETRY);
        Err(NoRoom::Full)
    }

    /// What has to go for `bytes` more.
    fn need(&self, bytes: u64, written: bool) -> Need {
        let mut account = self.lock();
        let over = self.missing(&mut account, 0, false);
        if over > 0 {
            return Need { bytes: over, over: true };
        }
        Need { bytes: self.missing(&mut account, bytes, written), over: false }
    }

    /// `bytes` of the reservation were written and recorded.
    pub fn spend(&self, reservation: &mut Reservation, bytes: u64) {
        let mut account = self.lock();
        let reserved = bytes.min(reservation.bytes);
        account.unreserve(reservation, reserved);
        account.used_bytes += bytes;
        if !reservation.written {
            // Until statvfs is asked again, what was written is missing from the disk.
            account.space.free_bytes = account.space.free_bytes.saturating_sub(bytes);
        }
    }

    /// Give back what was not spent.
    #[allow(clippy::needless_pass_by_value)] // Who gives it back has it no more.
    pub fn release(&self, mut reservation: Reservation) {
        let left = reservation.bytes;
        self.lock().unreserve(&mut reservation, left);
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
    pub fn resize(&self, limit_bytes: Option<u64>, evict: impl FnOnce(Need) -> Evicted) {
        self.lock().limit_bytes = limit_bytes;
        let _evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = self.missing(&mut self.lock(), 0, false);
        if missing > 0 {
            evict(Need { bytes: missing, over: true });
            self.disk_changed();
        }
    }

    /// Ask the file system again at the next occasion.
    pub fn disk_changed(&self) {
        self.lock().space_read = None;
    }

    /// How much has to go before `bytes` more, which may be `written` already, fit; 0 if they fit
    /// now.
    fn missing(&self, account: &mut Account, bytes: u64, written: bool) -> u64 {
        let now = (self.clock)();
        if account.space_read.is_none_or(|read| now - read >= STATVFS_INTERVAL) {
            account.space = (self.disk)();
            account.space_read = Some(now);
        }
        let needed = account.reserved_bytes.saturating_add(bytes);
        let kept = share(account.space.total_bytes, self.min_free);
        let on_disk = if written {
            0
        } else {
            let coming = needed.saturating_sub(account.written_bytes);
            kept.saturating_add(coming).saturating_sub(account.space.free_bytes)
        };
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
    fn unreserve(&mut self, reservation: &mut Reservation, bytes: u64) {
        reservation.bytes -= bytes;
        self.reserved_bytes -= bytes;
        self.written_bytes -= if reservation.written { bytes } else { 0 };
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn share(bytes: u64, part: f64) -> u64 {
    (bytes as f64 * part) as u64
}

#[cfg(test)]
mod tests;
