//! Memory that several processes map, and that outlives each of them: a memfd of the keeper's.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;

/// The whole of a memfd, mapped.
///
/// References into it are handed out as atomics, or as bytes of which the caller knows that
/// nobody else has them (`bytes`, `bytes_mut`).
pub struct Memory {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping may be used from any thread; what races there are is the callers' contract.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Map `fd`, which is made `length` bytes long if it has no length yet.
    pub fn map(fd: OwnedFd, length: usize) -> io::Result<Self> {
        let file = File::from(fd);
        let has = file.metadata()?.len();
        if has == 0 {
            file.set_len(length as u64)?;
        } else if has != length as u64 {
            return Err(io::Error::other(format!("shared memory of {has} bytes, not {length}")));
        }
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let fd = file.as_raw_fd();
        // SAFETY: a new mapping, wherever the kernel puts it.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { start, length })
    }

    /// Write to each page of a range, without changing it, so that none faults later.
    pub fn touch(&self, at: usize, length: usize) {
        for offset in (at..at + length).step_by(4096) {
            let byte: &std::sync::atomic::AtomicU8 = self.atomic(offset);
            byte.fetch_or(0, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// The atomics at `at`: `T` is made of nothing else, and any bytes are a valid one.
    pub fn atomic<T: Atomics>(&self, at: usize) -> &T {
        assert!(at + size_of::<T>() <= self.length && at.is_multiple_of(align_of::<T>()));
        // SAFETY: inside the mapping, aligned, and of a type that other processes may change.
        unsafe { self.start.add(at).cast::<T>().as_ref() }
    }

    /// Bytes that nobody else changes while they are borrowed: the caller's contract.
    pub fn bytes(&self, at: usize, length: usize) -> &[u8] {
        assert!(at + length <= self.length);
        // SAFETY: inside the mapping; not changed meanwhile, which is the caller's contract.
        unsafe { std::slice::from_raw_parts(self.start.add(at).as_ptr(), length) }
    }

    /// Bytes that are the caller's alone while they are borrowed: the caller's contract.
    #[allow(clippy::mut_from_ref)] // Which part is whose is not for the borrow checker to know.
    pub fn bytes_mut(&self, at: usize, length: usize) -> &mut [u8] {
        assert!(at + length <= self.length);
        // SAFETY: inside the mapping; nobody else's meanwhile, which is the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at).as_ptr(), length) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, from which nothing is borrowed any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Types made of atomics alone.
///
/// # Safety
///
/// Each byte of the type belongs to an atomic integer, so that any bytes are valid, and changes by
/// others are no data races.
pub unsafe trait Atomics {}

// SAFETY: an atomic integer itself.
unsafe impl Atomics for std::sync::atomic::AtomicU8 {}
// SAFETY: as above.
unsafe impl Atomics for std::sync::atomic::AtomicU32 {}
// SAFETY: as above.
unsafe impl Atomics for std::sync::atomic::AtomicU64 {}
