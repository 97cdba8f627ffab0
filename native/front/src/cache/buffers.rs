//! Memory for what comes from the lake, used again and again: a fresh page costs more than the
//! bytes that go into it.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

/// Shorter ones are not worth keeping.
const SHORTEST: usize = 64 << 10;

/// Buffers that nobody uses.
pub struct Buffers {
    /// Bytes kept for the next flights, at most; what is more is freed.
    most: usize,
    spare: Mutex<Spare>,
}

#[derive(Default)]
struct Spare {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// The bytes of one GET; when the last holder drops it, its memory goes back.
pub struct Buffer {
    bytes: Vec<u8>,
    home: Arc<Buffers>,
}

impl Buffers {
    pub fn new(most: u64) -> Arc<Self> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Arc::new(Self { most, spare: Mutex::default() })
    }

    /// A buffer of `length` bytes, whatever is in them.
    pub fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let mut bytes = self.smallest_of(length).unwrap_or_default();
        bytes.resize(length, 0);
        Buffer { bytes, home: self.clone() }
    }

    fn smallest_of(&self, length: usize) -> Option<Vec<u8>> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &&(usize, usize)| buffer.1 >= length && buffer.1 / 4 <= length;
        let sizes: Vec<_> = spare.buffers.iter().map(Vec::capacity).enumerate().collect();
        let &(at, capacity) = sizes.iter().filter(fits).min_by_key(|(_, capacity)| *capacity)?;
        spare.bytes -= capacity;
        Some(spare.buffers.swap_remove(at))
    }

    fn give_back(&self, bytes: Vec<u8>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.capacity() >= SHORTEST && spare.bytes + bytes.capacity() <= self.most {
            spare.bytes += bytes.capacity();
            spare.buffers.push(bytes);
        }
    }

    /// Free what nobody uses.
    pub fn trim(&self) {
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Spare::default();
    }
}

impl Buffer {
    /// Another one, from the same place.
    #[must_use]
    pub fn another(&self, length: usize) -> Self {
        self.home.take(length)
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_where_it_fits() {
        let buffers = Buffers::new(32 << 20);
        let first = buffers.take(1 << 20);
        let address = first.as_ptr();
        drop(first);
        let small = buffers.take(1000); // Far too large for that.
        let second = buffers.take(900 << 10);
        assert_eq!((second.as_ptr(), second.len()), (address, 900 << 10));
        assert_eq!(small.len(), 1000);
        drop(second);
        buffers.trim();
        assert!(buffers.smallest_of(900 << 10).is_none());
    }

    #[test]
    fn no_more_is_kept_than_is_of_use() {
        let buffers = Buffers::new(32 << 20);
        let many: Vec<_> = (0..10).map(|_| buffers.take(8 << 20)).collect();
        drop(many);
        assert_eq!(buffers.spare.lock().unwrap().buffers.len(), 4);
    }
}
