//! What outlives this process: requests that are not answered yet, and files that are open.
//!
//! The keeper holds `/dev/fuse` and one memfd, and hands both to each front that it starts. So a
//! front that dies is a pause for whoever waits for its answers: its successor finds their requests
//! in the slots, and the modes of open inodes in the rows.
//!
//! ```text
//! 0         512  ledger: see `Ledger`
//! 512      3584  what the control plane said last in HELLO: its length (4 bytes), then the bytes
//! 4096     2 MiB rows, 32 bytes each: see `Row`
//!          8 MiB slots, 8192 bytes each: one request, as the kernel wrote it
//!         32 MiB arena: what control plane and front hand each other beside their messages
//! ```
//!
//! The life of a slot; busy means that the request's `unique`, at its eighth byte, is not 0:
//!
//! ```text
//! free --take()--> taken --Device::receive()--> busy --Device::answer()--> answered --release()--> free
//!                                                ^
//!        the successor's scan(): the kernel still waits for it
//! ```
//!
//! Invariants:
//!
//! S1. A request is read from the device straight into its slot and not changed there.
//! S2. `unique` becomes 0 after the answer was given, and only then is the slot free. A front that
//!     dies in between leaves an answered request, which its successor finds out by asking the
//!     kernel (`Device::waits_for`), or by its answer coming to nothing.
//! S3. What gets no answer (FORGET, INTERRUPT) is cleared before it is acted on.
//! S4. Every page of the slots is touched before the first read: one that faults in the middle of
//!     the kernel's copy loses the request (EIO to its caller).
//! S5. A row is filled before OPEN is answered and emptied after RELEASE is acted on; it names the
//!     `unique` of its OPEN, so that an OPEN that is processed again finds its own row.
//! S6. File handles are never used twice; a RELEASE of one that has no row does nothing.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::sys::memory::{Atomics, Memory};

/// A request is a header, a name of at most 4 KiB or so, and never the data of a WRITE.
pub const SLOT_BYTES: usize = 8192;
/// Requests in flight, those that wait for the lake among them.
pub const SLOTS: usize = 1024;
/// Files open at one time.
const ROWS: usize = 1 << 16;
pub const ARENA_BYTES: usize = 32 << 20;

const HELLO_AT: usize = 512;
const ROWS_AT: usize = 4096;
const LONGEST_HELLO: usize = ROWS_AT - HELLO_AT - 4;
const SLOTS_AT: usize = ROWS_AT + ROWS * size_of::<Row>();
pub const ARENA_AT: usize = SLOTS_AT + SLOTS * SLOT_BYTES;
const LENGTH: usize = ARENA_AT + ARENA_BYTES;

/// Says that the layout is the one above, and HELLO the one of `crate::upcall::wire`.
const LAYOUT: u64 = u64::from_le_bytes(*b"TFSHARE3");
/// The same with another HELLO, or with none yet: a front that follows one of that time goes on with
/// it, and waits to be told.
const OTHER_HELLO: [u64; 2] = [u64::from_le_bytes(*b"TFSHARE1"), u64::from_le_bytes(*b"TFSHARE2")];
const UNIQUE_AT: usize = 8;
const ROW_BITS: u32 = ROWS.trailing_zeros();

/// Numbers that go on over the fronts of one mount.
#[repr(C)]
struct Ledger {
    layout: AtomicU64,
    /// What INIT agreed on, plus `BEGUN` once it was answered.
    init: AtomicU64,
    /// How many file handles were ever given out.
    opened: AtomicU64,
    /// How many times a front and a control plane found each other.
    session: AtomicU64,
    /// The highest backing id seen.
    last_backing: AtomicI32,
    reserved: AtomicU32,
}

/// In `Ledger::init`: a bit that no INIT flag uses.
const BEGUN: u64 = 1 << 63;

// SAFETY: nothing but atomics, without padding.
unsafe impl Atomics for Ledger {}

/// One file handle. `fh` 0: free.
#[repr(C)]
struct Row {
    fh: AtomicU64,
    ino: AtomicU64,
    /// Of the OPEN that it was given to.
    unique: AtomicU64,
    /// The backing id that the inode passes through to; 0: reads come to us.
    backing: AtomicI32,
    /// See `row_flag`.
    flags: AtomicU32,
}

/// What is special about a handle.
pub mod row_flag {
    /// It is one of a staging file.
    pub const STAGED: u32 = 1;
    /// It may be written through.
    pub const WRITES: u32 = 2;
}

// SAFETY: nothing but atomics, without padding.
unsafe impl Atomics for Row {}

impl Row {
    fn opened(&self, fh: u64) -> Opened {
        Opened {
            fh,
            ino: self.ino.load(Ordering::Relaxed),
            unique: self.unique.load(Ordering::Relaxed),
            backing: self.backing.load(Ordering::Relaxed),
            flags: self.flags.load(Ordering::Relaxed),
        }
    }
}

/// A slot that somebody is answerable for. Dropping one without `Shared::release` leaves its
/// request to the next front.
#[derive(Debug)]
pub struct Slot(usize);

/// What the row of a handle says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    pub fh: u64,
    pub ino: u64,
    pub unique: u64,
    pub backing: i32,
    pub flags: u32,
}

#[derive(Default)]
struct FreeSlots {
    slots: Vec<usize>,
    /// Threads that wait for one: telling them costs a system call, even if there is none.
    waiting: usize,
}

pub struct Shared {
    memory: Memory,
    free_slots: Mutex<FreeSlots>,
    slot_freed: Condvar,
    free_rows: Mutex<Vec<usize>>,
}

impl Shared {
    /// Map what the keeper holds, made by this front or by its predecessor.
    pub fn map(fd: OwnedFd) -> std::io::Result<Self> {
        let memory = Memory::map(fd, LENGTH)?;
        let shared = Self {
            memory,
            free_slots: Mutex::default(),
            slot_freed: Condvar::new(),
            free_rows: Mutex::default(),
        };
        let layout = &shared.ledger().layout;
        let take =
            |from| layout.compare_exchange(from, LAYOUT, Ordering::AcqRel, Ordering::Acquire);
        if OTHER_HELLO.into_iter().any(|older| take(older).is_ok()) {
            shared.set_hello(&[]);
        } else if take(0).is_err() && layout.load(Ordering::Acquire) != LAYOUT {
            return Err(std::io::Error::other("shared memory of another layout"));
        }
        shared.memory.touch(SLOTS_AT, SLOTS * SLOT_BYTES); // S4
        Ok(shared)
    }

    fn ledger(&self) -> &Ledger {
        self.memory.atomic(0)
    }

    // Numbers.

    /// The flags that INIT agreed on, if it was answered.
    pub fn init_flags(&self) -> Option<u64> {
        let flags = self.ledger().init.load(Ordering::Acquire);
        (flags & BEGUN != 0).then_some(flags & !BEGUN)
    }

    pub fn set_init_flags(&self, flags: u64) {
        self.ledger().init.store(flags | BEGUN, Ordering::Release);
    }

    /// A number for a session, higher than all before.
    pub fn next_session(&self) -> u64 {
        self.ledger().session.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The highest backing id that any front was given, `id` among them.
    pub fn saw_backing(&self, id: i32) -> i32 {
        self.ledger().last_backing.fetch_max(id, Ordering::AcqRel).max(id)
    }

    /// What the control plane said last in HELLO: a front need not wait for it to go on.
    pub fn hello(&self) -> Option<Vec<u8>> {
        let length: &AtomicU32 = self.memory.atomic(HELLO_AT);
        let length = length.load(Ordering::Acquire) as usize;
        let known = (1..=LONGEST_HELLO).contains(&length);
        known.then(|| self.memory.bytes(HELLO_AT + 4, length).to_vec())
    }

    /// Remember what the control plane said. By one thread at a time.
    pub fn set_hello(&self, tail: &[u8]) {
        let length: &AtomicU32 = self.memory.atomic(HELLO_AT);
        length.store(0, Ordering::Release); // A front that dies now leaves nothing half said.
        if tail.len() <= LONGEST_HELLO {
            self.memory.bytes_mut(HELLO_AT + 4, tail.len()).copy_from_slice(tail);
            length.store(u32::try_from(tail.len()).unwrap_or(0), Ordering::Release);
        }
    }

    // Slots.

    fn unique(&self, slot: usize) -> &AtomicU64 {
        self.memory.atomic(SLOTS_AT + slot * SLOT_BYTES + UNIQUE_AT)
    }

    /// What the last front left: to be called once, before the first `take`. Gives the slots whose
    /// requests `waited_for` says are still to be answered; all others become free.
    pub fn scan(&self, waited_for: impl Fn(u64) -> bool) -> Vec<Slot> {
        let mut left = Vec::new();
        let mut free = Vec::with_capacity(SLOTS);
        for slot in (0..SLOTS).rev() {
            let unique = self.unique(slot).load(Ordering::Acquire);
            if unique != 0 && waited_for(unique) {
                left.push(Slot(slot));
            } else {
                self.unique(slot).store(0, Ordering::Release);
                free.push(slot);
            }
        }
        self.free_slots.lock().unwrap_or_else(PoisonError::into_inner).slots = free;
        left
    }

    /// A free slot; waits until there is one.
    pub fn take(&self) -> Slot {
        let mut free = self.free_slots.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(slot) = free.slots.pop() {
                return Slot(slot);
            }
            free.waiting += 1;
            free = self.slot_freed.wait(free).unwrap_or_else(PoisonError::into_inner);
            free.waiting -= 1;
        }
    }

    /// Where the device writes the request that `slot` is to hold.
    pub fn buffer(&self, slot: &mut Slot) -> &mut [u8] {
        self.memory.bytes_mut(SLOTS_AT + slot.0 * SLOT_BYTES, SLOT_BYTES)
    }

    /// The request in `slot` (and what an earlier one left behind it).
    pub fn message<'s>(&'s self, slot: &'s Slot) -> &'s [u8] {
        self.memory.bytes(SLOTS_AT + slot.0 * SLOT_BYTES, SLOT_BYTES)
    }

    /// The request in `slot` was answered, or gets no answer (S2, S3).
    #[allow(clippy::needless_pass_by_value)] // Who releases it has it no more.
    pub fn release(&self, slot: Slot) {
        self.unique(slot.0).store(0, Ordering::Release);
        let mut free = self.free_slots.lock().unwrap_or_else(PoisonError::into_inner);
        free.slots.push(slot.0);
        if free.waiting > 0 {
            self.slot_freed.notify_one();
        }
    }

    // Rows.

    fn row(&self, row: usize) -> &Row {
        self.memory.atomic(ROWS_AT + row * size_of::<Row>())
    }

    /// Every handle that is open: to be called once, before the first `open_row`. Those of an OPEN
    /// that `is_pending`, whose answer nobody has seen, are by the `unique` of that OPEN.
    pub fn rows(&self, is_pending: impl Fn(u64) -> bool) -> (Vec<Opened>, HashMap<u64, Opened>) {
        let (mut open, mut pending, mut free) = (Vec::new(), HashMap::new(), Vec::new());
        for number in (0..ROWS).rev() {
            let row = self.row(number);
            let fh = row.fh.load(Ordering::Acquire);
            if fh == 0 {
                free.push(number);
                continue;
            }
            let opened = row.opened(fh);
            if is_pending(opened.unique) {
                pending.insert(opened.unique, opened);
            }
            open.push(opened);
        }
        *self.free_rows.lock().unwrap_or_else(PoisonError::into_inner) = free;
        (open, pending)
    }

    /// The rows of all handles that are open now.
    pub fn open_rows(&self) -> Vec<Opened> {
        (0..ROWS)
            .filter_map(|number| {
                let row = self.row(number);
                let fh = row.fh.load(Ordering::Acquire);
                (fh != 0).then(|| row.opened(fh))
            })
            .collect()
    }

    /// The `unique` of each request that is not answered yet.
    pub fn under_way(&self) -> Vec<u64> {
        let uniques = (0..SLOTS).map(|slot| self.unique(slot).load(Ordering::Acquire));
        uniques.filter(|&unique| unique != 0).collect()
    }

    /// A new handle of `ino`, recorded (S5); `None` if too many are open.
    pub fn open_row(&self, ino: u64, unique: u64, backing: i32, flags: u32) -> Option<u64> {
        let number = self.free_rows.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        let count = self.ledger().opened.fetch_add(1, Ordering::AcqRel) + 1;
        let fh = count << ROW_BITS | number as u64; // S6
        let row = self.row(number);
        row.ino.store(ino, Ordering::Relaxed);
        row.unique.store(unique, Ordering::Relaxed);
        row.backing.store(backing, Ordering::Relaxed);
        row.flags.store(flags, Ordering::Relaxed);
        row.fh.store(fh, Ordering::Release);
        Some(fh)
    }

    /// Whether a handle is open.
    pub fn has_row(&self, fh: u64) -> bool {
        let number = usize::try_from(fh).unwrap_or(0) & (ROWS - 1);
        fh != 0 && self.row(number).fh.load(Ordering::Acquire) == fh
    }

    /// What the row of a handle says, if it is open.
    pub fn row_of(&self, fh: u64) -> Option<Opened> {
        let number = usize::try_from(fh).unwrap_or(0) & (ROWS - 1);
        self.has_row(fh).then(|| self.row(number).opened(fh))
    }

    /// Empty the row of a handle (S5); false if it has none (S6).
    pub fn close_row(&self, fh: u64) -> bool {
        let number = usize::try_from(fh).unwrap_or(0) & (ROWS - 1);
        if !self.has_row(fh) {
            return false;
        }
        self.row(number).fh.store(0, Ordering::Release);
        self.free_rows.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        true
    }

    // The arena.

    /// A part of the arena that the caller has from `crate::arena::Arena`.
    pub fn arena(&self, at: usize, length: usize) -> &[u8] {
        self.memory.bytes(ARENA_AT + at, length)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;

    use super::*;

    fn memfd() -> OwnedFd {
        // SAFETY: a name, and a new descriptor that is nobody else's.
        unsafe {
            let fd = libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0);
            OwnedFd::from_raw_fd(fd)
        }
    }

    fn write_request(shared: &Shared, slot: &mut Slot, unique: u64) {
        shared.buffer(slot)[8..16].copy_from_slice(&unique.to_ne_bytes());
    }

    #[test]
    fn what_was_not_answered_is_found_again() {
        let fd = memfd();
        let shared = Shared::map(fd.try_clone().unwrap()).unwrap();
        assert!(shared.scan(|_| true).is_empty());
        let (mut first, mut second) = (shared.take(), shared.take());
        let mut third = shared.take();
        write_request(&shared, &mut first, 2);
        write_request(&shared, &mut second, 4);
        write_request(&shared, &mut third, 6);
        shared.release(second);
        let successor = Shared::map(fd).unwrap();
        let left = successor.scan(|unique| unique != 6);
        assert_eq!(left.len(), 1);
        assert_eq!(successor.message(&left[0])[8..16], 2u64.to_ne_bytes());
        assert!(successor.scan(|_| true).len() == 1); // The third one was cleared.
    }

    #[test]
    fn handles_are_never_used_twice() {
        let fd = memfd();
        let shared = Shared::map(fd.try_clone().unwrap()).unwrap();
        shared.rows(|_| false);
        let first = shared.open_row(16, 2, 0, 0).unwrap();
        assert!(shared.close_row(first));
        assert!(!shared.close_row(first));
        let second = shared.open_row(17, 4, 9, row_flag::STAGED).unwrap();
        assert_ne!(first, second);
        assert!(!shared.close_row(first));
        let successor = Shared::map(fd).unwrap();
        let (open, pending) = successor.rows(|unique| unique == 4);
        let flags = row_flag::STAGED;
        let opened = Opened { fh: second, ino: 17, unique: 4, backing: 9, flags };
        assert_eq!(open, [opened]);
        assert_eq!(pending[&4], opened);
        assert_eq!(successor.row_of(second), Some(opened));
        assert!(successor.open_row(18, 6, 0, 0).unwrap() > second);
    }

    #[test]
    fn numbers_go_on() {
        let fd = memfd();
        let shared = Shared::map(fd.try_clone().unwrap()).unwrap();
        assert_eq!(shared.init_flags(), None);
        shared.set_init_flags(0);
        assert_eq!((shared.next_session(), shared.saw_backing(7)), (1, 7));
        let successor = Shared::map(fd).unwrap();
        assert_eq!(successor.init_flags(), Some(0));
        assert_eq!((successor.next_session(), successor.saw_backing(3)), (2, 7));
    }

    #[test]
    fn memory_of_another_layout_is_refused() {
        let fd = memfd();
        std::fs::File::from(fd.try_clone().unwrap()).set_len(4096).unwrap();
        assert!(Shared::map(fd).is_err());
    }
}
