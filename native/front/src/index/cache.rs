//! What `cache/` says: which files are whole and verified, and the checksums of their blocks.

use std::path::Path;
use std::sync::Arc;

use super::lmdb::{Database, Environment, Error, Reader};
use super::records::{Block, CachedFile, block_key, ino_key};

/// The environment, to be shared by threads.
#[derive(Clone)]
pub struct CacheIndex {
    env: Arc<Environment>,
    files: Database,
    blocks: Database,
}

impl CacheIndex {
    pub fn open(lake_directory: &Path) -> Result<Self, Error> {
        let env = Environment::open(&lake_directory.join("cache"))?;
        let [files, blocks] = env.databases(["files", "blocks"])?;
        Ok(Self { env: Arc::new(env), files, blocks })
    }

    pub fn reader(&self) -> CacheReader {
        CacheReader {
            reader: Reader::new(self.env.clone()),
            files: self.files,
            blocks: self.blocks,
        }
    }

    pub fn errors(&self) -> u64 {
        self.env.errors()
    }
}

/// One thread's reader of `cache/`.
pub struct CacheReader {
    reader: Reader,
    files: Database,
    blocks: Database,
}

impl CacheReader {
    pub fn file(&mut self, ino: u64) -> Option<CachedFile> {
        CachedFile::parse(self.reader.snapshot().ok()?.get(self.files, &ino_key(ino))?)
    }

    pub fn block(&mut self, ino: u64, number: u32) -> Option<Block> {
        Block::parse(self.reader.snapshot().ok()?.get(self.blocks, &block_key(ino, number))?)
    }

    /// The records of the blocks from 0 to `count`; `None` unless all are there.
    pub fn blocks(&mut self, ino: u64, count: u32) -> Option<Vec<Block>> {
        let snapshot = self.reader.snapshot().ok()?;
        (0..count)
            .map(|number| Block::parse(snapshot.get(self.blocks, &block_key(ino, number))?))
            .collect()
    }
}
