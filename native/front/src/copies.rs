//! Cached copies: opened, verified, read.
//!
//! C1 of `tierfs/cache`: no byte is served before it was verified. A whole copy passes through to
//! the kernel only if it is, to size and ctime, the file that was verified since this boot. Of
//! others each block is compared with its checksum when this process brings it from the disk; a
//! block that was, and that is in the page cache still, is served as it is.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use crate::index::cache::CacheReader;
use crate::index::records::{BLOCK_SIZE, Block, Stamp};
use crate::sys::file;

/// The cache of one lake.
pub struct Copies {
    lake_directory: PathBuf,
    boot: [u8; 8],
}

/// An open cache file.
#[derive(Debug)]
pub struct Copy {
    pub file: File,
    size: u64,
    /// A bit for each block: compared with its checksum by this process.
    verified: Vec<AtomicU8>,
}

/// What there is of an object in the cache.
pub enum State {
    /// Whole, and verified since this boot.
    Verified(Copy),
    /// Whole, as far as its records say.
    Whole(Copy),
    /// Not, or not whole, or not of this version.
    Missing,
}

impl Copies {
    pub fn new(lake_directory: PathBuf, boot: [u8; 8]) -> Self {
        Self { lake_directory, boot }
    }

    /// Look for the copy of `ino`, whose version has `identity` and `size` bytes.
    pub fn find(&self, index: &mut CacheReader, ino: u64, identity: &[u8; 16], size: u64) -> State {
        let Some(known) = index.file(ino) else { return State::Missing };
        if known.identity != *identity || known.size != size || known.present_bytes != size {
            return State::Missing;
        }
        let Some(copy) = self.open(ino, size) else { return State::Missing };
        match self.stamp(&copy.file) {
            Some(stamp) if known.complete && stamp == known.verified => State::Verified(copy),
            Some(stamp) if known.complete && stamp.size == size => State::Whole(copy),
            _ => State::Missing,
        }
    }

    /// The cache file of `ino`, whatever is in it.
    pub fn open(&self, ino: u64, size: u64) -> Option<Copy> {
        let file = file::open(&file::path(&self.lake_directory, ino)).ok()?;
        let blocks = usize::try_from(size.div_ceil(BLOCK_SIZE)).ok()?;
        let verified = std::iter::repeat_with(AtomicU8::default).take(blocks.div_ceil(8)).collect();
        Some(Copy { file, size, verified })
    }

    /// What a verification now would be recorded as.
    pub fn stamp(&self, file: &File) -> Option<Stamp> {
        let (size, ctime_ns) = file::size_and_ctime(file).ok()?;
        Some(Stamp { boot: self.boot, size, ctime_ns })
    }
}

impl Copy {
    /// Compare every block with its checksum, reading through `scratch`; the stamp to be recorded,
    /// or `None` if something is wrong or missing.
    pub fn verify(
        &self,
        copies: &Copies,
        index: &mut CacheReader,
        ino: u64,
        scratch: &mut Vec<u8>,
    ) -> Option<Stamp> {
        let before = copies.stamp(&self.file)?;
        let count = u32::try_from(self.size.div_ceil(BLOCK_SIZE)).ok()?;
        let records = index.blocks(ino, count)?;
        for (number, record) in (0..count).zip(&records) {
            self.read_block(number, record, scratch)?;
        }
        // What changed meanwhile was not what was verified.
        (copies.stamp(&self.file)? == before).then_some(before)
    }

    /// Bytes from `offset` on, as many as `buffer` takes (they are inside the object), each block
    /// verified. False: they are not all here, or not right.
    pub fn read(
        &self,
        index: &mut CacheReader,
        ino: u64,
        offset: u64,
        buffer: &mut [u8],
        scratch: &mut Vec<u8>,
    ) -> bool {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let Ok(number) = u32::try_from(at / BLOCK_SIZE) else { return false };
            let inside = usize::try_from(at % BLOCK_SIZE).unwrap_or(0);
            let (length, whole) = self.extent(number);
            let take = (length - inside).min(buffer.len() - done);
            let part = &mut buffer[done..done + take];
            if !self.read_part(index, ino, number, inside, part, whole, scratch) {
                return false;
            }
            done += take;
        }
        true
    }

    #[allow(clippy::too_many_arguments)] // One block of `read`, taken out for its length.
    fn read_part(
        &self,
        index: &mut CacheReader,
        ino: u64,
        number: u32,
        inside: usize,
        part: &mut [u8],
        start: u64,
        scratch: &mut Vec<u8>,
    ) -> bool {
        let Some(record) = index.block(ino, number) else { return false };
        let known = self.is_verified(number);
        if known && file::read_resident(&self.file, part, start + inside as u64) {
            return true;
        }
        let (length, _) = self.extent(number);
        if part.len() == length {
            // All of the block is wanted: it is verified where it is.
            return file::read(&self.file, part, start).is_ok()
                && self.agrees(number, &record, part);
        }
        let Some(block) = self.read_block(number, &record, scratch) else { return false };
        part.copy_from_slice(&block[inside..inside + part.len()]);
        true
    }

    /// A whole block, verified, in `scratch`.
    fn read_block<'s>(
        &self,
        number: u32,
        record: &Block,
        scratch: &'s mut Vec<u8>,
    ) -> Option<&'s [u8]> {
        let (length, start) = self.extent(number);
        scratch.resize(length, 0);
        file::read(&self.file, scratch, start).ok()?;
        self.agrees(number, record, scratch).then_some(&scratch[..])
    }

    fn agrees(&self, number: u32, record: &Block, bytes: &[u8]) -> bool {
        let right = record.length as usize == bytes.len() && record.xxh3 == xxh3_64(bytes);
        if right {
            self.verified[number as usize / 8].fetch_or(1 << (number % 8), Ordering::Relaxed);
        }
        right
    }

    fn is_verified(&self, number: u32) -> bool {
        self.verified[number as usize / 8].load(Ordering::Relaxed) >> (number % 8) & 1 != 0
    }

    /// The length of a block, and where it begins.
    fn extent(&self, number: u32) -> (usize, u64) {
        let start = u64::from(number) * BLOCK_SIZE;
        let length = self.size.saturating_sub(start).min(BLOCK_SIZE);
        (usize::try_from(length).unwrap_or(0), start)
    }
}
