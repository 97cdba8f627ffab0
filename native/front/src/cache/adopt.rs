//! A staging file that is in the lake becomes the cached copy of its object, in place.
//!
//! Whoever uploaded it has sealed its blocks as they were sent, and the lake has compared them; their
//! records come in a file beside it. In this order, so that a process that dies anywhere in between
//! leaves no file without a record (C3) and no record of what is not there (C2): the file's record,
//! the file, the blocks' records.

use std::io;

use super::Cache;
use super::record::Committed;
use crate::attributes::now_s;
use crate::checksum;
use crate::index::cache::{CacheReader, Change};
use crate::index::records::{BLOCK_SIZE, Block, CachedFile, Stamp, overhead_bytes};
use crate::space::{Evicted, Need};
use crate::sys::file;

/// Block records in one commit.
const GROUP: usize = 4096;
const BLOCK_BYTES: usize = 24;

/// What is to be adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adoption {
    pub ino: u64,
    pub size: u64,
    pub identity: [u8; 16],
    /// Of the whole object.
    pub crc64nvme: u64,
}

/// An errno, and the reason.
pub type Refused = (i32, String);

impl Cache {
    /// Adopt a staging file that nobody has open. `make_room` evicts.
    pub fn adopt(
        &self,
        index: &mut CacheReader,
        asked: &Adoption,
        make_room: impl FnMut(&mut CacheReader, Need) -> Evicted,
    ) -> Result<(), Refused> {
        let Adoption { ino, size, .. } = *asked;
        let Some(_leaving) = self.table.leave(ino) else {
            return Err((libc::EBUSY, "it is in use".into()));
        };
        if self.is_adopted(index, asked) {
            return Ok(()); // Asked again.
        }
        let blocks = self.sealed(asked)?;
        let mut make_room = make_room;
        let needed = size + overhead_bytes(size);
        let reserved = self.capacity.reserve_written(needed, |need| make_room(index, need));
        let Ok(mut reservation) = reserved else {
            return Err((libc::ENOSPC, "there is no room for it".into()));
        };
        let taken = self.take_in(index, asked, &blocks);
        if taken.is_ok() {
            self.capacity.spend(&mut reservation, needed);
        }
        self.capacity.release(reservation);
        taken
    }

    /// The object `old` is `new` now, with the same bytes: so is its cached copy, unless it is in
    /// use, and is fetched again when it no longer is.
    pub fn renamed(
        &self,
        index: &mut CacheReader,
        ino: u64,
        old: [u8; 16],
        new: [u8; 16],
    ) -> Result<(), Refused> {
        let Some(_leaving) = self.table.leave(ino) else { return Ok(()) };
        match index.file(ino) {
            Some(known) if known.identity == old => {
                let renamed = CachedFile { identity: new, ..known };
                recorded(self.recorder.commit(vec![Change::PutFile(ino, renamed)]))
            }
            _ => Ok(()),
        }
    }

    /// Whether a process that died had done it all.
    fn is_adopted(&self, index: &mut CacheReader, asked: &Adoption) -> bool {
        index
            .file(asked.ino)
            .is_some_and(|known| known.complete && known.identity == asked.identity)
            && !file::staging(self.files.directory(), asked.ino).exists()
    }

    /// The records of its blocks, which make up the whole that the lake has.
    fn sealed(&self, asked: &Adoption) -> Result<Vec<Block>, Refused> {
        let path = file::sealed(self.files.directory(), asked.ino);
        let bytes =
            std::fs::read(path).map_err(|error| disk("read its blocks' records", &error))?;
        let records = bytes.chunks(BLOCK_BYTES).map(Block::parse);
        let blocks = records.collect::<Option<Vec<_>>>().unwrap_or_default();
        let length = blocks.iter().map(|block| u64::from(block.length)).sum::<u64>();
        let whole = blocks.len() as u64 == asked.size.div_ceil(BLOCK_SIZE)
            && length == asked.size
            && checksum::combined(blocks.iter()) == asked.crc64nvme;
        if whole { Ok(blocks) } else { Err((libc::EINVAL, "its blocks are not the whole".into())) }
    }

    fn take_in(
        &self,
        index: &mut CacheReader,
        asked: &Adoption,
        blocks: &[Block],
    ) -> Result<(), Refused> {
        let Adoption { ino, size, identity, .. } = *asked;
        let known = index.file(ino);
        let incomplete = CachedFile {
            identity,
            size,
            present_bytes: 0,
            verified: Stamp::NEVER,
            last_used_s: now_s(),
            complete: false,
            checksum_ok: true,
        };
        recorded(
            self.recorder.commit(vec![Change::DropFile(ino), Change::PutFile(ino, incomplete)]),
        )?;
        if let Some(known) = known {
            self.capacity.freed(known.present_bytes + known.overhead_bytes());
        }
        self.hot.forget(ino);
        let taken = self.fill_in(ino, incomplete, blocks);
        if taken.is_err() {
            // The lake has the bytes; here they would be room on the disk that is in no account.
            let _ = self.files.unlink(ino);
            let _ = self.recorder.commit(vec![Change::DropFile(ino)]);
        }
        taken
    }

    /// The staging file of `ino`, which is recorded as `incomplete`, becomes its cache file, with
    /// all its blocks.
    fn fill_in(&self, ino: u64, incomplete: CachedFile, blocks: &[Block]) -> Result<(), Refused> {
        let staging = file::staging(self.files.directory(), ino);
        let verified = self
            .files
            .take_in(ino, incomplete.size, &staging)
            .map_err(|error| disk("make it a cache file", &error))?;
        let mut number = 0;
        for group in blocks.chunks(GROUP) {
            let records = group.iter().zip(number..).map(|(&block, number)| (number, block));
            recorded(self.recorder.commit(vec![Change::PutBlocks(ino, records.collect())]))?;
            number += u32::try_from(group.len()).unwrap_or(0);
        }
        let complete = CachedFile { complete: true, verified, ..incomplete };
        recorded(self.recorder.commit(vec![Change::PutFile(ino, complete)]))
    }
}

fn recorded(committed: Committed) -> Result<(), Refused> {
    committed.map_err(|error| (libc::EIO, format!("the cache index: {error}")))
}

fn disk(doing: &str, error: &io::Error) -> Refused {
    (error.raw_os_error().unwrap_or(libc::EIO), format!("{doing}: {error}"))
}
