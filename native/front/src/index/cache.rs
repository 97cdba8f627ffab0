//! What `cache/` says: which files are whole and verified, and the checksums of their blocks.
//!
//! This front is the only writer. `I7` to `I9` of `tierfs/index/cache.py` hold after every commit:
//!
//! - I7. `present_bytes` of a file is the sum of the lengths of its block records: the index keeps
//!   it, and a caller's value is not used. So two fills of one file need not know of each other.
//! - I8. The totals are the number of file records and the sums of their `present_bytes` and their
//!   `overhead_bytes`.
//! - I9. A block record exists only under a file record: blocks that arrive after the file was
//!   dropped are not recorded, so that an eviction is never undone by a late fill.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::lmdb::{Database, Environment, Error, Reader, WriteTransaction};
use super::records::{Block, CachedFile, Totals, block_key, block_number, ino_key};

/// The environment, to be shared by threads.
#[derive(Clone)]
pub struct CacheIndex {
    env: Arc<Environment>,
    tables: Tables,
}

#[derive(Clone, Copy)]
struct Tables {
    files: Database,
    blocks: Database,
    totals: Database,
}

/// One step of a commit; the number is an inode's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Record a file; its blocks, and `present_bytes`, stay what they are (I7).
    PutFile(u64, CachedFile),
    /// Record blocks, by number, of a file that was put before; of another nothing happens (I9).
    PutBlocks(u64, Vec<(u32, Block)>),
    /// Forget blocks, by number; those that are not there stay so.
    DropBlocks(u64, Vec<u32>),
    /// Forget a file and all its blocks.
    DropFile(u64),
    /// It was used at this second; an earlier one than is recorded changes nothing.
    Touch(u64, u64),
}

impl CacheIndex {
    /// Open `cache/`, which the control plane has made, to read and write it. On a disk that takes
    /// no writes it is read only, and each commit fails.
    pub fn open(lake_directory: &Path) -> Result<Self, Error> {
        let path = lake_directory.join("cache");
        let env = match Environment::open_writable(&path) {
            Err(error) if matches!(error.code, libc::EROFS | libc::EACCES | libc::EPERM) => {
                Environment::open(&path)?
            }
            opened => opened?,
        };
        let [files, blocks, totals] = env.databases(["files", "blocks", "totals"])?;
        Ok(Self { env: Arc::new(env), tables: Tables { files, blocks, totals } })
    }

    pub fn reader(&self) -> CacheReader {
        CacheReader { reader: Reader::new(self.env.clone()), tables: self.tables }
    }

    /// What writes here: one, for one thread, which commits what all others bring it.
    pub fn writer(&self) -> CacheWriter {
        CacheWriter { env: self.env.clone(), tables: self.tables }
    }

    pub fn errors(&self) -> u64 {
        self.env.errors()
    }
}

/// One thread's reader of `cache/`. What cannot be read is as if it were not there.
pub struct CacheReader {
    reader: Reader,
    tables: Tables,
}

impl CacheReader {
    /// Whether anything can be read: then what is not there is not there.
    pub fn is_readable(&mut self) -> bool {
        self.reader.snapshot().is_ok()
    }

    pub fn file(&mut self, ino: u64) -> Option<CachedFile> {
        CachedFile::parse(self.reader.snapshot().ok()?.get(self.tables.files, &ino_key(ino))?)
    }

    pub fn block(&mut self, ino: u64, number: u32) -> Option<Block> {
        let snapshot = self.reader.snapshot().ok()?;
        Block::parse(snapshot.get(self.tables.blocks, &block_key(ino, number))?)
    }

    /// What is in the cache, together (I8); `None` if that cannot be read.
    pub fn totals(&mut self) -> Option<Totals> {
        let snapshot = self.reader.snapshot().ok()?;
        match snapshot.get(self.tables.totals, Totals::KEY) {
            Some(value) => Totals::parse(value),
            None => (snapshot.entries(self.tables.files) == 0).then(Totals::default),
        }
    }

    /// Numbers and lengths of the blocks that are present among `numbers`, ascending.
    pub fn lengths(&mut self, ino: u64, numbers: Range<u32>) -> Vec<(u32, u32)> {
        let mut found = Vec::new();
        self.each_block(ino, numbers.start, |number, value| {
            let inside = number < numbers.end;
            if inside && let Some(block) = Block::parse(value) {
                found.push((number, block.length));
            }
            inside
        });
        found
    }

    /// The numbers of all blocks that are present, ascending.
    pub fn numbers(&mut self, ino: u64) -> Vec<u32> {
        let mut found = Vec::new();
        self.each_block(ino, 0, |number, _| {
            found.push(number);
            true
        });
        found
    }

    /// The longest run around `number`, which has no record, of numbers under `end` without one.
    /// O(log blocks).
    pub fn gap(&mut self, ino: u64, number: u32, end: u32) -> Range<u32> {
        let around = self.reader.snapshot().ok().and_then(|snapshot| {
            let around = snapshot.around(self.tables.blocks, &block_key(ino, number))?;
            Some(around.map(|key| key.and_then(|key| block_number(ino, key))))
        });
        // Nothing is known: the one block is not there to the caller, no more is said.
        let Some([before, after]) = around else { return number..number.saturating_add(1) };
        before.map_or(0, |before| before + 1)..after.map_or(end, |after| after.min(end))
    }

    /// Call `take` with the blocks of a file from `first` on, in order, for as long as it says true.
    fn each_block(&mut self, ino: u64, first: u32, mut take: impl FnMut(u32, &[u8]) -> bool) {
        let Ok(snapshot) = self.reader.snapshot() else { return };
        let entries = snapshot.from(self.tables.blocks, &block_key(ino, first));
        for (key, value) in entries.into_iter().flatten() {
            let Some(number) = block_number(ino, key) else { return };
            if !take(number, value) {
                return;
            }
        }
    }
}

/// The way to change `cache/`.
pub struct CacheWriter {
    env: Arc<Environment>,
    tables: Tables,
}

impl CacheWriter {
    /// Apply `changes` in their order, in one transaction; waits until it is synced. After an
    /// error nothing of them was applied.
    pub fn commit(&mut self, changes: &[Change]) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut update = Update::begin(self.env.write()?, self.tables)?;
        for change in changes {
            update.apply(change)?;
        }
        update.commit()
    }
}

/// A commit on its way.
struct Update<'e> {
    txn: WriteTransaction<'e>,
    tables: Tables,
    before: Totals,
    totals: Totals,
}

impl<'e> Update<'e> {
    fn begin(txn: WriteTransaction<'e>, tables: Tables) -> Result<Self, Error> {
        let value = txn.get(tables.totals, Totals::KEY)?;
        let before = value.map(|value| parsed(Totals::parse(value))).transpose()?;
        let before = before.unwrap_or_default();
        Ok(Self { txn, tables, before, totals: before })
    }

    fn commit(mut self) -> Result<(), Error> {
        if self.totals != self.before {
            self.txn.put(self.tables.totals, Totals::KEY, &self.totals.encode())?;
        }
        self.txn.commit()
    }

    fn apply(&mut self, change: &Change) -> Result<(), Error> {
        let (Change::PutFile(ino, _)
        | Change::PutBlocks(ino, _)
        | Change::DropBlocks(ino, _)
        | Change::DropFile(ino)
        | Change::Touch(ino, _)) = *change;
        let known = self.file(ino)?;
        if let Change::PutFile(_, file) = change {
            let present_bytes = known.map_or(0, |known| known.present_bytes); // I7
            self.totals.files += u64::from(known.is_none());
            let counted = known.map_or(0, |known| known.overhead_bytes());
            let overhead_bytes = self.totals.overhead_bytes.checked_sub(counted);
            self.totals.overhead_bytes = parsed(overhead_bytes)? + file.overhead_bytes();
            return self.put_file(ino, &CachedFile { present_bytes, ..*file });
        }
        let Some(known) = known else { return Ok(()) }; // I9
        match change {
            Change::PutBlocks(_, blocks) => {
                let mut grown = 0;
                for (number, block) in blocks {
                    let key = block_key(ino, *number);
                    grown += i64::from(block.length) - self.length(&key)?.unwrap_or(0);
                    self.txn.put(self.tables.blocks, &key, &block.encode())?;
                }
                self.grow(ino, known, grown)
            }
            Change::DropBlocks(_, numbers) => {
                let mut grown = 0;
                for number in numbers {
                    let key = block_key(ino, *number);
                    if let Some(length) = self.length(&key)? {
                        grown -= length;
                        self.txn.delete(self.tables.blocks, &key)?;
                    }
                }
                self.grow(ino, known, grown)
            }
            Change::DropFile(_) => self.drop_file(ino, known),
            Change::Touch(_, last_used_s) if *last_used_s > known.last_used_s => {
                self.put_file(ino, &CachedFile { last_used_s: *last_used_s, ..known })
            }
            Change::PutFile(..) | Change::Touch(..) => Ok(()),
        }
    }

    fn file(&self, ino: u64) -> Result<Option<CachedFile>, Error> {
        let value = self.txn.get(self.tables.files, &ino_key(ino))?;
        value.map(|value| parsed(CachedFile::parse(value))).transpose()
    }

    fn put_file(&mut self, ino: u64, file: &CachedFile) -> Result<(), Error> {
        self.txn.put(self.tables.files, &ino_key(ino), &file.encode())
    }

    /// The length of the block with this key, if it is there.
    fn length(&self, key: &[u8]) -> Result<Option<i64>, Error> {
        let value = self.txn.get(self.tables.blocks, key)?;
        value.map(|value| Ok(parsed(Block::parse(value))?.length.into())).transpose()
    }

    /// The file has `bytes` more than before, or fewer.
    fn grow(&mut self, ino: u64, known: CachedFile, bytes: i64) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        let present_bytes = parsed(known.present_bytes.checked_add_signed(bytes))?;
        self.totals.present_bytes = parsed(self.totals.present_bytes.checked_add_signed(bytes))?;
        self.put_file(ino, &CachedFile { present_bytes, ..known })
    }

    fn drop_file(&mut self, ino: u64, known: CachedFile) -> Result<(), Error> {
        let owner = ino_key(ino);
        let keys: Vec<Vec<u8>> = self
            .txn
            .prefixed(self.tables.blocks, &owner)?
            .map(|entry| Ok(entry?.0.to_vec()))
            .collect::<Result<_, Error>>()?;
        for key in keys {
            self.txn.delete(self.tables.blocks, &key)?;
        }
        self.txn.delete(self.tables.files, &owner)?;
        let Totals { files, present_bytes, overhead_bytes } = self.totals;
        self.totals = Totals {
            files: parsed(files.checked_sub(1))?,
            present_bytes: parsed(present_bytes.checked_sub(known.present_bytes))?,
            overhead_bytes: parsed(overhead_bytes.checked_sub(known.overhead_bytes()))?,
        };
        Ok(())
    }
}

/// What a record says; one that says nothing, or what cannot be, is damage.
fn parsed<T>(record: Option<T>) -> Result<T, Error> {
    record.ok_or_else(|| Error::record("read a record of the cache"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::lmdb::tests::create;
    use crate::index::records::{BLOCK_SIZE, Stamp};

    const FULL: u32 = 1 << 20;
    const BLOCK: Block = Block { length: FULL, xxh3: 1, crc64nvme: 2 };
    const SHORT: Block = Block { length: 10, ..BLOCK };
    const HELD: u64 = BLOCK_SIZE + 10;
    const NOTHING: Totals = Totals { files: 0, present_bytes: 0, overhead_bytes: 0 };

    fn totals(files: u64, present_bytes: u64) -> Totals {
        Totals { files, present_bytes, overhead_bytes: files * FILE.overhead_bytes() }
    }

    const FILE: CachedFile = CachedFile {
        identity: *b"iiiiiiiiiiiiiiii",
        size: 3 * BLOCK_SIZE,
        present_bytes: 0,
        verified: Stamp::NEVER,
        last_used_s: 5,
        complete: false,
        checksum_ok: false,
    };

    struct World {
        index: CacheIndex,
        reader: CacheReader,
        writer: CacheWriter,
        _directory: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            create(&directory.path().join("cache"), &["meta", "files", "blocks", "totals"]);
            let index = CacheIndex::open(directory.path()).unwrap();
            let (reader, writer) = (index.reader(), index.writer());
            Self { index, reader, writer, _directory: directory }
        }

        fn commit(&mut self, changes: &[Change]) {
            self.writer.commit(changes).unwrap();
            self.check();
        }

        fn fill(&mut self, inos: &[u64]) {
            for &ino in inos {
                let blocks = vec![(0, BLOCK), (2, SHORT)];
                self.commit(&[Change::PutFile(ino, FILE), Change::PutBlocks(ino, blocks)]);
            }
        }

        fn sparse(&mut self, ino: u64, numbers: &[u32]) {
            let blocks = numbers.iter().map(|&number| (number, BLOCK)).collect();
            self.commit(&[Change::PutFile(ino, FILE), Change::PutBlocks(ino, blocks)]);
        }

        /// I7, I8 and I9.
        fn check(&mut self) {
            let tables = self.index.tables;
            let snapshot = self.reader.reader.snapshot().unwrap();
            let mut held = std::collections::BTreeMap::<Vec<u8>, u64>::new();
            for (key, value) in snapshot.from(tables.blocks, b"").unwrap() {
                let length = Block::parse(value).unwrap().length;
                *held.entry(key[..8].to_vec()).or_default() += u64::from(length);
            }
            let mut totals = Totals::default();
            for (key, value) in snapshot.from(tables.files, b"").unwrap() {
                let file = CachedFile::parse(value).unwrap();
                assert_eq!(file.present_bytes, held.remove(key).unwrap_or(0), "I7");
                totals.files += 1;
                totals.present_bytes += file.present_bytes;
                totals.overhead_bytes += file.overhead_bytes();
            }
            let value = snapshot.get(tables.totals, Totals::KEY);
            assert_eq!(value.and_then(Totals::parse).unwrap_or_default(), totals, "I8");
            assert!(held.is_empty(), "I9");
            assert_eq!(self.index.errors(), 0);
        }
    }

    #[test]
    fn a_file_and_its_blocks() {
        let mut world = World::new();
        assert_eq!(world.reader.file(20), None);
        assert_eq!(world.reader.block(20, 0), None);
        assert_eq!(world.reader.totals(), Some(NOTHING));
        world.commit(&[]);
        world.fill(&[20, 21]);
        let expected = CachedFile { present_bytes: HELD, ..FILE };
        assert_eq!(world.reader.file(20), Some(expected));
        assert_eq!(world.reader.block(20, 2), Some(SHORT));
        assert_eq!(world.reader.block(20, 1), None);
        assert_eq!(world.reader.block(20, 0), Some(BLOCK));
        assert_eq!(world.reader.block(20, 3), None);
        assert_eq!(world.reader.numbers(20), [0, 2]);
        assert!(world.reader.numbers(22).is_empty());
        assert_eq!(world.reader.totals(), Some(totals(2, 2 * HELD)));
    }

    #[test]
    fn present_bytes_are_the_indexs_own() {
        let mut world = World::new();
        world.fill(&[20]);
        let file = CachedFile { present_bytes: 12345, complete: true, ..FILE };
        let blocks = vec![(0, BLOCK), (1, BLOCK), (1, BLOCK)];
        world.commit(&[Change::PutFile(20, file), Change::PutBlocks(20, blocks)]);
        let expected = CachedFile { present_bytes: 2 * BLOCK_SIZE + 10, ..file };
        assert_eq!(world.reader.file(20), Some(expected));
        world.commit(&[Change::PutBlocks(20, vec![(0, SHORT)])]);
        assert_eq!(world.reader.totals(), Some(totals(1, BLOCK_SIZE + 20)));
    }

    #[test]
    fn dropping() {
        let mut world = World::new();
        world.fill(&[20, 21, 22]);
        world.commit(&[
            Change::DropBlocks(20, vec![0, 0, 1, 7]),
            Change::DropFile(21),
            Change::DropFile(99),
        ]);
        assert_eq!(world.reader.numbers(20), [2]);
        assert_eq!(world.reader.file(21), None);
        assert!(world.reader.numbers(21).is_empty());
        assert_eq!(world.reader.totals(), Some(totals(2, BLOCK_SIZE + 20)));
    }

    #[test]
    fn late_blocks_do_not_undo_a_drop() {
        let mut world = World::new();
        world.fill(&[20]);
        world.commit(&[
            Change::DropFile(20),
            Change::PutBlocks(20, vec![(1, BLOCK)]),
            Change::DropBlocks(20, vec![0]),
            Change::Touch(20, 99),
        ]);
        assert!(world.reader.numbers(20).is_empty());
        assert_eq!(world.reader.totals(), Some(NOTHING));
        world.commit(&[Change::PutFile(20, CachedFile { present_bytes: 7, ..FILE })]);
        assert_eq!(world.reader.totals(), Some(totals(1, 0)));
    }

    #[test]
    fn touch_only_moves_forward() {
        let mut world = World::new();
        world.fill(&[20]);
        for (last_used_s, expected) in [(3, 5), (9, 9), (8, 9)] {
            world.commit(&[Change::Touch(20, last_used_s)]);
            assert_eq!(world.reader.file(20).unwrap().last_used_s, expected);
        }
    }

    #[test]
    fn lengths_of_some_blocks() {
        let mut world = World::new();
        world.fill(&[19, 20, 21]);
        assert_eq!(world.reader.lengths(20, 0..3), [(0, FULL), (2, 10)]);
        assert_eq!(world.reader.lengths(20, 1..3), [(2, 10)]);
        assert_eq!(world.reader.lengths(20, 0..2), [(0, FULL)]);
        assert_eq!(world.reader.lengths(20, 3..9), []);
        assert_eq!(world.reader.lengths(22, 0..9), []);
    }

    #[test]
    fn the_gap_around_a_block() {
        let mut world = World::new();
        assert_eq!(world.reader.gap(20, 5, 40), 0..40);
        for ino in [19, 20, 21] {
            world.sparse(ino, &[3, 4, 9]);
        }
        for ino in [19, 20, 21] {
            for (number, end, expected) in [
                (0, 40, 0..3),
                (2, 40, 0..3),
                (7, 40, 5..9),
                (10, 40, 10..40),
                (39, 40, 10..40),
                (8, 9, 5..9),
                (5, 7, 5..7),
            ] {
                assert_eq!(world.reader.gap(ino, number, end), expected);
            }
        }
        assert_eq!(world.reader.gap(18, 5, 40), 0..40);
        assert_eq!(world.reader.gap(22, 5, 40), 0..40);
    }

    #[test]
    fn a_damaged_record_stops_a_commit_as_a_whole() {
        let mut world = World::new();
        world.fill(&[20]);
        let mut txn = world.index.env.write().unwrap();
        txn.put(world.index.tables.files, &ino_key(21), b"short").unwrap();
        txn.commit().unwrap();
        let changes = [Change::DropFile(20), Change::Touch(21, 9)];
        assert!(world.writer.commit(&changes).unwrap_err().is_damage());
        assert_eq!(world.reader.numbers(20), [0, 2]);
        assert_eq!(world.reader.totals(), Some(totals(1, HELD)));
    }

    #[test]
    fn any_sequence_of_changes_leaves_the_accounts_right() {
        let mut world = World::new();
        let mut random = 1u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for _ in 0..60 {
            let mut changes = Vec::new();
            for _ in 0..=next(6) {
                let ino = 20 + next(4);
                let numbers: Vec<u32> =
                    (0..next(5)).map(|_| u32::try_from(next(6)).unwrap()).collect();
                let block = Block { length: u32::try_from(1 + next(99)).unwrap(), ..BLOCK };
                let blocks = numbers.iter().map(|&number| (number, block)).collect();
                changes.push(match next(6) {
                    0 => Change::DropFile(ino),
                    1 => Change::DropBlocks(ino, numbers),
                    2 | 3 => Change::PutBlocks(ino, blocks),
                    4 => Change::Touch(ino, next(10)),
                    _ => Change::PutFile(ino, FILE),
                });
            }
            world.commit(&changes);
        }
    }
}
