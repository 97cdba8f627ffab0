//! Blocks that came from the lake and are not kept on disk, in memory until they were read, the
//! least recently used out.
//!
//! What is fetched ahead of a reader is of use only if it is here still when the reader comes to it.
//! So those who read objects in order that pass by here share the memory (`Hot::window`), and what
//! they have read goes first (`Hot::spend`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::buffers::Buffer;

/// At most so many bytes of blocks.
pub struct Hot {
    capacity: u64,
    passing: Arc<AtomicU64>,
    state: Mutex<State>,
}

/// An object of several blocks that are not kept on disk, for as long as that is so.
pub struct Passing(Arc<AtomicU64>);

impl Drop for Passing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct State {
    blocks: HashMap<(u64, u32), Block>,
    bytes: u64,
    clock: u64,
}

#[derive(Clone)]
struct Block {
    buffer: Arc<Buffer>,
    at: usize,
    length: usize,
    used: u64,
}

/// A block in memory.
pub struct HotBlock(Block);

impl HotBlock {
    pub fn bytes(&self) -> &[u8] {
        &self.0.buffer[self.0.at..self.0.at + self.0.length]
    }
}

impl Hot {
    pub fn new(capacity: u64) -> Self {
        Self { capacity, passing: Arc::default(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn capacity_bytes(&self) -> u64 {
        self.capacity
    }

    pub fn used_bytes(&self) -> u64 {
        self.state().bytes
    }

    /// One more object passes by here.
    pub fn pass(&self) -> Passing {
        self.passing.fetch_add(1, Ordering::Relaxed);
        Passing(self.passing.clone())
    }

    /// How far ahead of a reader of such an object may be fetched. What is not read yet fills a third:
    /// beside it come reads at random, and other files.
    pub fn window(&self) -> u64 {
        self.capacity / (3 * self.passing.load(Ordering::Relaxed).max(1))
    }

    /// The whole block, or `None`.
    pub fn get(&self, ino: u64, number: u32) -> Option<HotBlock> {
        let mut state = self.state();
        if state.blocks.is_empty() {
            return None;
        }
        state.clock += 1;
        let clock = state.clock;
        let block = state.blocks.get_mut(&(ino, number))?;
        block.used = clock;
        Some(HotBlock(block.clone()))
    }

    /// Keep `length` bytes at `at` of `buffer`, which are block `number` of `ino`.
    pub fn put(&self, ino: u64, number: u32, buffer: &Arc<Buffer>, at: usize, length: usize) {
        if length as u64 > self.capacity {
            return;
        }
        // A small part would keep all of a large buffer.
        let (buffer, at) = if buffer.len() > 2 * length {
            let mut own = buffer.another(length);
            own.bytes_mut().copy_from_slice(&buffer[at..at + length]);
            (Arc::new(own), 0)
        } else {
            (buffer.clone(), at)
        };
        let mut state = self.state();
        state.clock += 1;
        let block = Block { buffer, at, length, used: state.clock };
        if let Some(old) = state.blocks.insert((ino, number), block) {
            state.bytes -= old.length as u64;
        }
        state.bytes += length as u64;
        while state.bytes > self.capacity {
            let oldest = state.blocks.iter().min_by_key(|(_, block)| block.used);
            let Some((&key, _)) = oldest else { break };
            state.remove(key);
        }
    }

    /// A reader has had the end of a block: it goes before all that nobody has read yet.
    pub fn spend(&self, ino: u64, number: u32) {
        if let Some(block) = self.state().blocks.get_mut(&(ino, number)) {
            block.used = 0;
        }
    }

    pub fn remove(&self, ino: u64, number: u32) {
        self.state().remove((ino, number));
    }

    /// Forget every block of `ino`.
    pub fn forget(&self, ino: u64) {
        let mut state = self.state();
        let keys: Vec<_> = state.blocks.keys().filter(|key| key.0 == ino).copied().collect();
        for key in keys {
            state.remove(key);
        }
    }
}

impl State {
    fn remove(&mut self, key: (u64, u32)) {
        if let Some(block) = self.blocks.remove(&key) {
            self.bytes -= block.length as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::buffers::Buffers;

    #[test]
    fn the_least_recently_used_goes() {
        let buffers = Buffers::new(1 << 20);
        let mut buffer = buffers.take(40);
        buffer.bytes_mut()[10..20].fill(7);
        let buffer = Arc::new(buffer);
        let hot = Hot::new(25);
        hot.put(1, 0, &buffer, 0, 10);
        hot.put(1, 1, &buffer, 10, 10);
        assert_eq!(hot.get(1, 1).unwrap().bytes(), [7; 10]);
        assert!(hot.get(1, 0).is_some());
        hot.put(2, 0, &buffer, 20, 10);
        assert!(hot.get(1, 1).is_none());
        hot.put(2, 1, &buffer, 0, 26);
        assert_eq!(hot.used_bytes(), 20);
        hot.forget(1);
        assert!(hot.get(1, 0).is_none() && hot.get(2, 0).is_some());
        hot.remove(2, 0);
        assert_eq!(hot.used_bytes(), 0);
    }

    #[test]
    fn what_was_read_goes_first() {
        let buffer = Arc::new(Buffers::new(0).take(1));
        let hot = Hot::new(2);
        hot.put(1, 0, &buffer, 0, 1);
        hot.put(1, 1, &buffer, 0, 1);
        assert!(hot.get(1, 1).is_some());
        hot.spend(1, 1);
        hot.spend(1, 7);
        hot.put(1, 2, &buffer, 0, 1);
        assert!(hot.get(1, 0).is_some() && hot.get(1, 1).is_none());
        assert_eq!(hot.used_bytes(), 2);
    }

    #[test]
    fn those_that_pass_by_share_the_memory() {
        let hot = Hot::new(1200);
        assert_eq!(hot.window(), 400);
        let first = hot.pass();
        assert_eq!(hot.window(), 400);
        let second = hot.pass();
        assert_eq!(hot.window(), 200);
        drop((first, second));
        assert_eq!(hot.window(), 400);
    }

    #[test]
    fn what_is_fetched_within_the_window_is_here_when_its_reader_comes() {
        let hot = Hot::new(96);
        let passing: Vec<Passing> = (0..3).map(|_| hot.pass()).collect();
        let buffer = Arc::new(Buffers::new(0).take(1));
        let window = u32::try_from(hot.window()).unwrap();
        for number in 0..1000 {
            for ino in 0..passing.len() as u64 {
                hot.put(ino, number + window, &buffer, 0, 1);
                assert!(number < window || hot.get(ino, number).is_some());
            }
        }
    }
}
