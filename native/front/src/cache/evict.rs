//! Eviction: files that are not in use leave whole, incomplete ones by extents if so asked.
//!
//! What is in the index is what is there; so records go first, and bytes after them (C10):
//!
//! ```text
//! evict() -+- whole: the blocks dropped --> the file unlinked --> its record dropped
//!          |               ^
//!          |               | where holes cannot be punched, and where nothing would stay
//!          |               |
//!          +- extents: their blocks dropped --> holes punched --> the rest stays, and is served
//! ```
//!
//! A kill between any two arrows leaves neither records of bytes that are gone nor a file without a
//! record (C3). It may leave bytes without records, which nobody counts and nobody reads: at most
//! what one call was told to evict by extents. They are overwritten when their blocks are fetched
//! again, and leave with the file or with the next extent evicted beside them: the whole gap in the
//! records around an extent is punched.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::Cache;
use super::objects::{block_count, whole_blocks};
use super::table::Leaving;
use crate::index::cache::{CacheReader, Change};
use crate::index::records::{BLOCK_SIZE, CachedFile};

/// What is evicted at once of an incomplete file.
pub const EXTENT_SIZE: u64 = 8 << 20;

/// What to evict: a whole file, or those blocks of an incomplete one that lie within `extents`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    pub ino: u64,
    /// Empty: all of it.
    pub extents: Vec<(u64, u64)>,
}

/// What room is to be made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newcomer {
    pub ino: u64,
    pub wanted: Wanted,
}

/// By whom a newcomer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Reader,
    /// Nobody waits for it, but somebody has asked for it.
    WarmUp,
    /// Nobody has.
    Ahead,
}

/// What an eviction freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    pub files: u64,
    pub bytes: u64,
}

/// A file on its way out, and its blocks that are to go: number and length; all of them where
/// `blocks` is empty.
struct Going {
    leaving: Leaving,
    file: CachedFile,
    blocks: Vec<(u32, u32)>,
}

impl Going {
    fn bytes(&self) -> u64 {
        self.blocks.iter().map(|&(_, length)| u64::from(length)).sum()
    }

    fn ino(&self) -> u64 {
        self.leaving.ino
    }
}

impl Cache {
    /// Evict those of `victims`, distinct files, that are not in use. With `doom` one that is, and is
    /// to go as a whole, goes when its last user leaves. `is_open` says of an inode, and whether it is
    /// doomed, if it is open to the kernel; it is its to see that it goes later.
    ///
    /// A whole file is never punched: extents of one stay.
    pub fn evict(
        &self,
        index: &mut CacheReader,
        victims: &[Victim],
        doom: bool,
        is_open: impl Fn(u64, bool) -> bool,
    ) -> Freed {
        let mut whole = Vec::new();
        let mut parts = Vec::new();
        for victim in victims {
            let doom = doom && victim.extents.is_empty();
            if !is_open(victim.ino, doom) {
                self.sort(index, victim, doom, &mut whole, &mut parts);
            }
        }
        let mut freed = self.evict_parts(index, parts, &mut whole);
        let gone = self.evict_whole(&whole);
        freed.files += gone.files;
        freed.bytes += gone.bytes;
        freed
    }

    fn sort(
        &self,
        index: &mut CacheReader,
        victim: &Victim,
        doom: bool,
        whole: &mut Vec<Going>,
        parts: &mut Vec<Going>,
    ) {
        let Some(leaving) = self.table.leave(victim.ino) else {
            if doom && let Some(object) = self.table.get(victim.ino) {
                object.doomed.store(true, Ordering::Release);
            }
            return;
        };
        let Some(file) = index.file(victim.ino) else { return };
        if victim.extents.is_empty() {
            whole.push(Going { leaving, file, blocks: Vec::new() });
            return;
        }
        if file.present_bytes == file.size {
            return; // It became whole since the victim was chosen.
        }
        let mut blocks = Vec::new();
        for &(lo, hi) in &victim.extents {
            blocks.extend(index.lengths(victim.ino, whole_blocks(lo, hi, file.size)));
        }
        let going = Going { leaving, file, blocks };
        if going.bytes() == going.file.present_bytes || !self.files.punches() {
            whole.push(going);
        } else if !going.blocks.is_empty() {
            parts.push(going);
        }
    }

    /// Punch `parts`; those that cannot be punched join `whole`.
    fn evict_parts(
        &self,
        index: &mut CacheReader,
        parts: Vec<Going>,
        whole: &mut Vec<Going>,
    ) -> Freed {
        let mut freed = Freed::default();
        if parts.is_empty() {
            return freed;
        }
        let dropped = |going: &Going| {
            let numbers = going.blocks.iter().map(|&(number, _)| number).collect();
            Change::DropBlocks(going.ino(), numbers)
        };
        if let Err(error) = self.recorder.commit(parts.iter().map(dropped).collect()) {
            self.index_failed("evict", &error);
            return freed;
        }
        for mut going in parts {
            let (ino, bytes) = (going.ino(), going.bytes());
            self.linger(ino, bytes);
            let gaps = gaps(index, &going);
            match self.files.punch(ino, &gaps) {
                Ok(()) => {
                    let extents =
                        |&(number, _): &(u32, u32)| u64::from(number) * BLOCK_SIZE / EXTENT_SIZE;
                    let mut punched: Vec<u64> = going.blocks.iter().map(extents).collect();
                    punched.dedup();
                    self.stats.evicted_extents.fetch_add(punched.len() as u64, Ordering::Relaxed);
                    freed.bytes += self.gone(ino, bytes);
                }
                Err(error) => {
                    if self.files.punches() {
                        self.health.failed("free a part of a cache file", &error);
                    }
                    going.file.present_bytes -= bytes;
                    going.blocks.clear();
                    whole.push(going);
                }
            }
        }
        freed
    }

    /// A file that cannot be unlinked stays recorded, and counted.
    fn evict_whole(&self, files: &[Going]) -> Freed {
        let mut freed = Freed::default();
        if files.is_empty() {
            return freed;
        }
        let emptied = files.iter().flat_map(|going| {
            let file = CachedFile { present_bytes: 0, complete: false, ..going.file };
            [Change::DropFile(going.ino()), Change::PutFile(going.ino(), file)]
        });
        if let Err(error) = self.recorder.commit(emptied.collect()) {
            self.index_failed("evict", &error);
            return freed;
        }
        let mut gone = Vec::new();
        let mut overhead = 0;
        for going in files {
            let ino = going.ino();
            self.linger(ino, going.file.present_bytes);
            match self.files.unlink(ino) {
                Ok(()) => {
                    self.hot.forget(ino);
                    freed.files += 1;
                    let lingering = self.lingering(ino);
                    freed.bytes += self.gone(ino, lingering);
                    overhead += going.file.overhead_bytes();
                    gone.push(Change::DropFile(ino));
                }
                Err(error) => self.health.failed("evict", &error),
            }
        }
        freed.bytes += overhead;
        self.stats.evicted_files.fetch_add(freed.files, Ordering::Relaxed);
        match self.recorder.commit(gone) {
            Ok(()) => self.capacity.freed(overhead),
            Err(error) => self.index_failed("evict", &error),
        }
        freed
    }

    fn lingering_bytes(&self) -> std::sync::MutexGuard<'_, HashMap<u64, u64>> {
        self.lingering.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// `bytes` of a file have lost their records and are, for all we know, still on the disk, so
    /// still counted.
    fn linger(&self, ino: u64, bytes: u64) {
        *self.lingering_bytes().entry(ino).or_default() += bytes;
    }

    fn lingering(&self, ino: u64) -> u64 {
        self.lingering_bytes().get(&ino).copied().unwrap_or(0)
    }

    /// `bytes` without records have left the disk.
    fn gone(&self, ino: u64, bytes: u64) -> u64 {
        let mut lingering = self.lingering_bytes();
        let left = lingering.remove(&ino).unwrap_or(0).saturating_sub(bytes);
        if left > 0 {
            lingering.insert(ino, left);
        }
        drop(lingering);
        self.stats.evicted_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.capacity.freed(bytes);
        bytes
    }
}

/// The gaps around the blocks that were dropped, as byte ranges, each once.
fn gaps(index: &mut CacheReader, going: &Going) -> Vec<(u64, u64)> {
    let mut gaps = Vec::new();
    let mut end = 0;
    for &(number, _) in &going.blocks {
        if number >= end {
            let gap = index.gap(going.ino(), number, block_count(going.file.size));
            gaps.push((u64::from(gap.start) * BLOCK_SIZE, u64::from(gap.end) * BLOCK_SIZE));
            end = gap.end;
        }
    }
    gaps
}
