//! The objects in use: what the cache holds of each, agreed between its readers, fetches and
//! records.
//!
//! While an object is in the table, its `State` is the truth about it and the index follows
//! (`record`); when its last user leaves, the index alone knows. A user is an open inode, a flight,
//! a comparison with the lake's checksum, or changes that are not committed yet.
//!
//! ```text
//! acquire() --> in use --the last `Held` is dropped--> settled: file closed, out of the table
//!                 |                                      |
//!                 | doomed (stale, told to go)           | evict(): file unlinked, record dropped;
//!                 `--the last `Held` is dropped----------'            or extents of it leave
//! ```

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::copy::Copy;
use super::flight::Flight;
use super::hot::Passing;
use crate::index::records::{BLOCK_SIZE, Block, CachedFile, ObjectRef, Stamp};
use crate::streams::StreamDetector;

/// One object version in use.
pub struct Object {
    pub ino: u64,
    pub size: u64,
    /// What its copy is a copy of.
    pub identity: [u8; 16],
    /// Its record of `names/objects`; empty of one that has lost its name, of which nothing more
    /// can be fetched.
    pub record: Box<[u8]>,
    /// The lake has another version now (C4).
    pub stale: AtomicBool,
    /// Evict when the last user leaves.
    pub doomed: AtomicBool,
    /// A commit failed: the index may hold less of it than this says, or more.
    pub unrecorded: AtomicBool,
    /// The present bytes, for whoever settles it.
    pub present_bytes: AtomicU64,
    state: Mutex<State>,
    /// Held while the cache file is made.
    pub making: Mutex<()>,
}

/// Which blocks are in the cache file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    Nothing,
    /// By number.
    Some(Vec<bool>),
    Whole,
}

/// What changes of an object.
#[allow(clippy::struct_excessive_bools)] // Facts that do not exclude each other.
pub struct State {
    pub presence: Presence,
    /// The cache file, once there is one.
    pub copy: Option<Arc<Copy>>,
    /// All is present, and was compared with the lake's checksum as far as there is one (C9).
    pub complete: bool,
    pub checksum_ok: bool,
    /// A comparison is under way.
    pub completing: bool,
    /// The file at its last verification as a whole.
    pub verified: Stamp,
    pub last_used_s: u64,
    /// A record of the file is committed, so the file may exist (C3).
    pub announced: bool,
    /// The file itself is counted in the capacity.
    pub accounted: bool,
    /// The cache file could not be opened: leave it alone and stream.
    pub bypass: bool,
    /// Blocks come from an earlier use of the cache.
    pub restored: bool,
    /// Records that are not handed to the index yet; `None`: to be dropped there.
    pub fresh: HashMap<u32, Option<Block>>,
    /// Records that are being committed now.
    pub recording: HashMap<u32, Option<Block>>,
    /// What the index has of the old life is to be dropped before anything else is written.
    pub purge: bool,
    /// How often the copy was thrown away; a flight of an older life adds nothing.
    pub life: u32,
    /// Full-object checksums that did not match, and the errno once there is no hope.
    pub mismatches: u32,
    pub failure: Option<i32>,
    pub told_of_damage: bool,
    /// Flights that bring whole blocks, by block; and those that bring less, by range.
    pub flights: HashMap<u32, Arc<Flight>>,
    pub partial_flights: HashMap<(u64, u64), Arc<Flight>>,
    /// Bytes asked of a block in parts, to see when the file densifies. Bounded.
    pub asked: HashMap<u32, u64>,
    /// Blocks fetched during this use, and how far (in the object) they were read: what is read
    /// for the first time is a miss, whoever sent for it.
    pub unread: HashMap<u32, u64>,
    /// Of an object of more than a block.
    pub streams: Option<StreamDetector>,
    /// What was fetched of it last is not kept.
    pub passing: Option<Passing>,
    /// For the last of it that needed that, room was made.
    pub is_kept: bool,
}

impl Object {
    /// An object of which nothing is cached.
    pub fn new(ino: u64, size: u64, identity: [u8; 16], record: Box<[u8]>, window: u64) -> Self {
        let streams = (size > BLOCK_SIZE).then(|| StreamDetector::new(size, window));
        Self {
            ino,
            size,
            identity,
            record,
            stale: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
            unrecorded: AtomicBool::new(false),
            present_bytes: AtomicU64::new(0),
            state: Mutex::new(State::new(streams)),
            making: Mutex::new(()),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }

    /// Which object it is in the lake.
    pub fn reference(&self) -> Option<ObjectRef<'_>> {
        ObjectRef::parse(&self.record)
    }

    /// Its key, for a line of the log.
    pub fn name(&self) -> String {
        self.reference().map_or_else(
            || format!("inode {}", self.ino),
            |reference| String::from_utf8_lossy(reference.key).into_owned(),
        )
    }

    pub fn block_count(&self) -> u32 {
        block_count(self.size)
    }

    /// The bytes `[lo, hi)` of block `number`.
    pub fn extent(&self, number: u32) -> (u64, u64) {
        let lo = u64::from(number) * BLOCK_SIZE;
        (lo, (lo + BLOCK_SIZE).min(self.size))
    }

    /// The blocks that `[lo, hi)` covers from their first byte to their last.
    pub fn whole_blocks(&self, lo: u64, hi: u64) -> std::ops::Range<u32> {
        whole_blocks(lo, hi, self.size)
    }

    /// Blocks were written to the file (C2). Returns how many of their bytes are new.
    pub fn add(&self, state: &mut State, records: &[(u32, Block)]) -> u64 {
        let mut added = 0;
        for &(number, record) in records {
            if !state.has(number) {
                state.set(number, self.block_count());
                added += u64::from(record.length);
            }
            state.fresh.insert(number, Some(record));
        }
        let present = self.present_bytes.fetch_add(added, Ordering::AcqRel) + added;
        if present == self.size {
            state.presence = Presence::Whole;
        }
        added
    }

    /// Block `number` is wrong: forget it. Returns its length, 0 if it was not there.
    pub fn remove(&self, state: &mut State, number: u32) -> u64 {
        if !state.has(number) {
            return 0;
        }
        if state.presence == Presence::Whole {
            state.presence = Presence::Some(vec![true; self.block_count() as usize]);
        }
        if let Presence::Some(present) = &mut state.presence {
            present[number as usize] = false;
        }
        state.fresh.insert(number, None);
        state.complete = false;
        state.checksum_ok = false;
        state.verified = Stamp::NEVER;
        let (lo, hi) = self.extent(number);
        self.present_bytes.fetch_sub(hi - lo, Ordering::AcqRel);
        hi - lo
    }

    /// Throw the whole copy away; a new life begins. Returns how many bytes it had.
    pub fn remove_all(&self, state: &mut State) -> u64 {
        let had = self.present_bytes.swap(0, Ordering::AcqRel);
        state.presence = Presence::Nothing;
        state.copy = None;
        state.complete = false;
        state.checksum_ok = false;
        state.verified = Stamp::NEVER;
        state.fresh.clear();
        state.purge = true;
        state.announced = false;
        state.restored = false;
        state.life += 1;
        had
    }

    /// Know nothing of the copy, which stays as it is.
    pub fn forget(&self, state: &mut State) {
        state.presence = Presence::Nothing;
        state.complete = false;
        self.present_bytes.store(0, Ordering::Release);
    }

    /// What the index should hold of the file.
    pub fn file_record(&self, state: &State) -> CachedFile {
        CachedFile {
            identity: self.identity,
            size: self.size,
            present_bytes: self.present_bytes.load(Ordering::Acquire),
            verified: state.verified,
            complete: state.complete,
            checksum_ok: state.checksum_ok,
            last_used_s: state.last_used_s,
        }
    }

    /// Take over what the index says of an earlier use; `numbers` are the blocks that are there,
    /// where not all are.
    pub fn restore(&self, state: &mut State, file: &CachedFile, numbers: Option<Vec<u32>>) {
        state.announced = true;
        state.accounted = true;
        state.restored = file.present_bytes > 0;
        state.checksum_ok = file.checksum_ok;
        state.verified = file.verified;
        state.last_used_s = file.last_used_s;
        let mut present_bytes = file.present_bytes;
        if let Some(numbers) = numbers {
            let mut present = vec![false; self.block_count() as usize];
            present_bytes = 0;
            for number in numbers.into_iter().filter(|&number| number < self.block_count()) {
                present[number as usize] = true;
                let (lo, hi) = self.extent(number);
                present_bytes += hi - lo;
            }
            state.presence = Presence::Some(present);
        }
        if present_bytes == self.size {
            state.presence = Presence::Whole;
        }
        self.present_bytes.store(present_bytes, Ordering::Release);
        state.complete = file.complete && state.presence == Presence::Whole;
    }
}

impl State {
    fn new(streams: Option<StreamDetector>) -> Self {
        Self {
            presence: Presence::Nothing,
            copy: None,
            complete: false,
            checksum_ok: false,
            completing: false,
            verified: Stamp::NEVER,
            last_used_s: 0,
            announced: false,
            accounted: false,
            bypass: false,
            restored: false,
            fresh: HashMap::new(),
            recording: HashMap::new(),
            purge: false,
            life: 0,
            mismatches: 0,
            failure: None,
            told_of_damage: false,
            flights: HashMap::new(),
            partial_flights: HashMap::new(),
            asked: HashMap::new(),
            unread: HashMap::new(),
            streams,
            passing: None,
            is_kept: false,
        }
    }

    pub fn whole(&self) -> bool {
        self.presence == Presence::Whole
    }

    /// Whether block `number` is in the cache file.
    pub fn has(&self, number: u32) -> bool {
        match &self.presence {
            Presence::Nothing => false,
            Presence::Some(present) => present.get(number as usize) == Some(&true),
            Presence::Whole => true,
        }
    }

    fn set(&mut self, number: u32, count: u32) {
        if self.presence == Presence::Nothing {
            self.presence = Presence::Some(vec![false; count as usize]);
        }
        if let Presence::Some(present) = &mut self.presence {
            present[number as usize] = true;
        }
    }

    /// What is known of block `number` here and not in the index yet; `None`: the index knows.
    pub fn newer(&self, number: u32) -> Option<Option<Block>> {
        self.fresh.get(&number).or_else(|| self.recording.get(&number)).copied()
    }
}

/// How many blocks an object of `size` bytes has.
pub fn block_count(size: u64) -> u32 {
    u32::try_from(size.div_ceil(BLOCK_SIZE)).unwrap_or(u32::MAX)
}

/// The blocks of an object of `size` bytes that `[lo, hi)` covers from their first byte to their
/// last.
pub fn whole_blocks(lo: u64, hi: u64, size: u64) -> std::ops::Range<u32> {
    let first = block_of(lo.div_ceil(BLOCK_SIZE) * BLOCK_SIZE);
    let last = if hi >= size { block_count(size) } else { block_of(hi) };
    first..last.max(first)
}

/// The block that the byte at `offset` is in.
pub fn block_of(offset: u64) -> u32 {
    u32::try_from(offset / BLOCK_SIZE).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 2 * BLOCK_SIZE + 10;

    fn object() -> Object {
        Object::new(16, SIZE, [7; 16], Box::default(), 1 << 20)
    }

    fn record(length: u32) -> Block {
        Block { length, xxh3: 1, crc64nvme: 2 }
    }

    #[test]
    fn blocks_that_a_range_covers() {
        let object = object();
        assert_eq!(object.block_count(), 3);
        assert_eq!(object.whole_blocks(0, SIZE), 0..3);
        assert_eq!(object.whole_blocks(1, SIZE), 1..3);
        assert_eq!(object.whole_blocks(0, BLOCK_SIZE - 1), 0..0);
        assert_eq!(object.whole_blocks(5, 9), 1..1);
        assert_eq!(object.extent(2), (2 * BLOCK_SIZE, SIZE));
    }

    #[test]
    fn an_object_is_whole_when_its_last_block_comes() {
        let object = object();
        let mut state = object.state();
        let mib = u32::try_from(BLOCK_SIZE).unwrap();
        assert_eq!(object.add(&mut state, &[(0, record(mib)), (2, record(10))]), BLOCK_SIZE + 10);
        assert!(state.has(0) && !state.has(1) && state.has(2) && !state.whole());
        assert_eq!(object.add(&mut state, &[(2, record(10))]), 0);
        assert_eq!(object.add(&mut state, &[(1, record(mib))]), BLOCK_SIZE);
        assert!(state.whole());
        assert_eq!(object.remove(&mut state, 2), 10);
        assert!(!state.has(2) && state.has(1) && !state.whole());
        assert_eq!(object.remove(&mut state, 2), 0);
        assert_eq!(state.newer(2), Some(None));
        assert_eq!(object.remove_all(&mut state), 2 * BLOCK_SIZE);
        assert_eq!((state.life, state.newer(2)), (1, None));
    }

    #[test]
    fn what_the_index_says_is_taken_over() {
        let object = object();
        let mut state = object.state();
        let stamp = Stamp { boot: [1; 8], size: SIZE, ctime_ns: 5 };
        let file = CachedFile {
            identity: [7; 16],
            size: SIZE,
            present_bytes: SIZE,
            verified: stamp,
            complete: true,
            checksum_ok: true,
            last_used_s: 9,
        };
        object.restore(&mut state, &file, None);
        assert!(state.whole() && state.complete && state.restored);
        assert_eq!(object.file_record(&state), file);
        let part = CachedFile { present_bytes: 10, complete: false, ..file };
        object.restore(&mut state, &part, Some(vec![2, 77]));
        assert!(state.has(2) && !state.has(0) && !state.complete);
        assert_eq!(object.file_record(&state).present_bytes, 10);
    }
}
