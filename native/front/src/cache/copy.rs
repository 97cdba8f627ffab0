//! A cache file that is open: verified, read, written.
//!
//! C1: of a copy that does not pass through to the kernel each block is compared with its checksum
//! when this process brings it from the disk. A block that was, or that was written by this process,
//! and that is in the page cache still, is served as it is.

use std::fs::File;
use std::sync::atomic::{AtomicU8, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use crate::checksum;
use crate::index::records::{BLOCK_SIZE, Block};
use crate::sys::file;

/// Where the records of one object's blocks are found.
pub trait Records {
    fn block(&mut self, number: u32) -> Option<Block>;
}

/// An open cache file.
#[derive(Debug)]
pub struct Copy {
    pub file: File,
    size: u64,
    /// A bit for each block: compared with its checksum by this process.
    verified: Vec<AtomicU8>,
}

/// Why bytes of a copy cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub enum Bad {
    /// Block `number` has `record`, and is not what that says.
    Block { number: u32, record: Block, why: &'static str },
    /// There is no record of this block.
    Unknown(u32),
    /// The disk, or this process, cannot read it just now: an errno.
    Disk { number: u32, code: i32 },
}

/// What keeps a block from being read and says nothing about it.
const NOT_THE_BLOCKS: [i32; 4] = [libc::ETIMEDOUT, libc::EMFILE, libc::ENFILE, libc::ENOMEM];

impl Copy {
    pub fn new(file: File, size: u64) -> Self {
        let blocks = usize::try_from(size.div_ceil(BLOCK_SIZE)).unwrap_or(0);
        let verified = std::iter::repeat_with(AtomicU8::default).take(blocks.div_ceil(8)).collect();
        Self { file, size, verified }
    }

    /// Compare every block with its record, reading through `scratch`.
    pub fn verify(&self, records: &mut dyn Records, scratch: &mut Vec<u8>) -> Result<(), Bad> {
        let count = u32::try_from(self.size.div_ceil(BLOCK_SIZE)).unwrap_or(u32::MAX);
        for number in 0..count {
            self.read_block(records, number, scratch)?;
        }
        Ok(())
    }

    /// Bytes from `offset` on, as many as `buffer` takes (they are inside the object), each block
    /// verified.
    pub fn read(
        &self,
        records: &mut dyn Records,
        offset: u64,
        buffer: &mut [u8],
        scratch: &mut Vec<u8>,
    ) -> Result<(), Bad> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let number = u32::try_from(at / BLOCK_SIZE).unwrap_or(u32::MAX);
            let inside = usize::try_from(at % BLOCK_SIZE).unwrap_or(0);
            let (length, _) = self.extent(number);
            let take = length.saturating_sub(inside).min(buffer.len() - done);
            if take == 0 {
                return Err(Bad::Unknown(number)); // Beyond the object.
            }
            self.read_part(records, number, inside, &mut buffer[done..done + take], scratch)?;
            done += take;
        }
        Ok(())
    }

    fn read_part(
        &self,
        records: &mut dyn Records,
        number: u32,
        inside: usize,
        part: &mut [u8],
        scratch: &mut Vec<u8>,
    ) -> Result<(), Bad> {
        let (length, start) = self.extent(number);
        if self.is_verified(number) && file::read_resident(&self.file, part, start + inside as u64)
        {
            return Ok(());
        }
        if part.len() == length {
            // All of the block is wanted: it is verified where it is.
            let record = records.block(number).ok_or(Bad::Unknown(number))?;
            self.fill(number, &record, part, start)?;
            return self.check(number, record, part);
        }
        let block = self.read_block(records, number, scratch)?;
        part.copy_from_slice(&block[inside..inside + part.len()]);
        Ok(())
    }

    /// A whole block, verified, in `scratch`.
    fn read_block<'s>(
        &self,
        records: &mut dyn Records,
        number: u32,
        scratch: &'s mut Vec<u8>,
    ) -> Result<&'s [u8], Bad> {
        let (length, start) = self.extent(number);
        let record = records.block(number).ok_or(Bad::Unknown(number))?;
        scratch.resize(length, 0);
        self.fill(number, &record, scratch, start)?;
        self.check(number, record, scratch)?;
        Ok(scratch)
    }

    fn fill(&self, number: u32, record: &Block, part: &mut [u8], start: u64) -> Result<(), Bad> {
        file::read(&self.file, part, start).map_err(|error| match error.raw_os_error() {
            Some(code) if NOT_THE_BLOCKS.contains(&code) => Bad::Disk { number, code },
            _ => Bad::Block { number, record: *record, why: "it cannot be read" },
        })
    }

    fn check(&self, number: u32, record: Block, bytes: &[u8]) -> Result<(), Bad> {
        if record.length as usize != bytes.len() || record.xxh3 != xxh3_64(bytes) {
            return Err(Bad::Block { number, record, why: "it does not match its checksum" });
        }
        self.set_verified(number);
        Ok(())
    }

    /// Write whole block `number`, which is `bytes`, and give its record. The bytes are in the page
    /// cache when this returns (C2), not necessarily on the disk.
    pub fn write(&self, number: u32, bytes: &[u8]) -> std::io::Result<Block> {
        // Sealed from memory, before the disk has had a chance to change anything.
        let record = checksum::seal(bytes);
        let (_, start) = self.extent(number);
        file::write(&self.file, bytes, start)?;
        self.set_verified(number);
        Ok(record)
    }

    fn set_verified(&self, number: u32) {
        self.verified[number as usize / 8].fetch_or(1 << (number % 8), Ordering::Relaxed);
    }

    /// Have the kernel read a block soon. It comes from the disk then, perhaps, so it is compared
    /// again.
    pub fn will_need(&self, number: u32) {
        self.forget(number);
        let (length, start) = self.extent(number);
        file::will_need(&self.file, start, length as u64);
    }

    /// Whoever drops a block compares it again, however it comes back.
    pub fn forget(&self, number: u32) {
        self.verified[number as usize / 8].fetch_and(!(1 << (number % 8)), Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    impl Records for Vec<Block> {
        fn block(&mut self, number: u32) -> Option<Block> {
            self.get(number as usize).copied()
        }
    }

    const SIZE: usize = (2 << 20) + 100;

    fn copy() -> (Copy, Vec<Block>, Vec<u8>) {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..SIZE).map(|at| (at % 251).to_le_bytes()[0]).collect();
        let copy = Copy::new(file, SIZE as u64);
        let blocks = bytes.chunks(1 << 20).zip(0..);
        let records = blocks.map(|(block, number)| copy.write(number, block).unwrap()).collect();
        // As a process that did not write it sees it.
        (Copy::new(copy.file, SIZE as u64), records, bytes)
    }

    #[test]
    fn reads_are_of_any_bytes() {
        let (copy, mut records, bytes) = copy();
        let mut scratch = Vec::new();
        for (lo, hi) in [(0, SIZE), (5, 9), (1_048_570, 1_048_580), (2 << 20, SIZE), (7, 2_000_000)]
        {
            let mut buffer = vec![0; hi - lo];
            copy.read(&mut records, lo as u64, &mut buffer, &mut scratch).unwrap();
            assert_eq!(buffer, bytes[lo..hi]);
        }
        assert_eq!(copy.verify(&mut records, &mut scratch), Ok(()));
    }

    #[test]
    fn a_flipped_bit_is_found_whichever_way_the_block_is_read() {
        for (lo, length) in [(1 << 20, 1 << 20), ((1 << 20) + 9, 4)] {
            let (copy, mut records, bytes) = copy();
            let mut scratch = Vec::new();
            file::write(&copy.file, &[bytes[1_500_000] ^ 4], 1_500_000).unwrap();
            let mut buffer = vec![0; length];
            let found = copy.read(&mut records, lo, &mut buffer, &mut scratch).unwrap_err();
            assert!(matches!(found, Bad::Block { number: 1, .. }));
            assert!(copy.verify(&mut records, &mut scratch).is_err());
            // It is the record that protects: with one that agrees, the bit reaches the reader.
            let mut block = vec![0; 1 << 20];
            file::read(&copy.file, &mut block, 1 << 20).unwrap();
            records[1] = checksum::seal(&block);
            copy.read(&mut records, lo, &mut buffer, &mut scratch).unwrap();
        }
    }

    #[test]
    fn what_is_cut_off_or_not_recorded_is_not_served() {
        let (copy, mut records, _) = copy();
        let (mut buffer, mut scratch) = (vec![0; 50], Vec::new());
        copy.file.set_len(2 << 20).unwrap();
        let found = copy.read(&mut records, 2 << 20, &mut buffer, &mut scratch);
        assert!(matches!(found, Err(Bad::Block { number: 2, .. })));
        records.truncate(1);
        let found = copy.read(&mut records, 1 << 20, &mut buffer, &mut scratch);
        assert_eq!(found, Err(Bad::Unknown(1)));
        let found = copy.read(&mut records, SIZE as u64, &mut buffer, &mut scratch);
        assert!(found.is_err());
    }
}
