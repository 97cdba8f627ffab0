//! `/dev/fuse`: requests in, answers and notices out, backing files.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use zerocopy::IntoBytes;

use super::result;
use crate::fuse::abi::{BackingMap, NotifyInvalEntry, NotifyInvalInode, OutHeader, notify};

/// `_IOW(229, 1, struct fuse_backing_map)` and `_IOW(229, 2, uint32_t)` of `<linux/fuse.h>`.
const BACKING_OPEN: libc::c_ulong = 0x4010_E501;
const BACKING_CLOSE: libc::c_ulong = 0x4004_E502;

/// What a read of the device came to.
pub enum Received {
    /// So many bytes of a request.
    Request(usize),
    /// Nothing: a signal, or a request that was taken back.
    Nothing,
    /// The connection has ended: unmounted, or aborted.
    End,
}

/// The connection to the kernel.
pub struct Device(OwnedFd);

impl Device {
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Wait for a request and read it into `buffer`.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        // SAFETY: a buffer of that length, which is ours to write.
        let read =
            unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        match result(read) {
            Ok(length) => Ok(Received::Request(length)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::ENOENT) => Ok(Received::Nothing),
                Some(libc::ENODEV) => Ok(Received::End),
                _ => Err(error),
            },
        }
    }

    /// Answer the request `unique` with `parts`, one after the other.
    ///
    /// A request that is not waited for any more (its process was killed, or it was answered
    /// before a crash) is no error.
    pub fn answer(&self, unique: u64, parts: &[&[u8]]) -> io::Result<()> {
        self.send(OutHeader { len: 0, error: 0, unique }, parts)
    }

    /// Answer with the errno `code`.
    pub fn refuse(&self, unique: u64, code: i32) -> io::Result<()> {
        self.send(OutHeader { len: 0, error: -code, unique }, &[])
    }

    /// Whether the kernel still waits for the answer to `unique`. Asked by an interrupt's answer,
    /// which is dropped if so; the slots prototype says why it does no harm.
    pub fn waits_for(&self, unique: u64) -> bool {
        let header = OutHeader { len: 16, error: 0, unique: unique | 1 };
        match self.write(&[header.as_bytes()]) {
            Err(error) => error.raw_os_error() != Some(libc::ENOENT),
            Ok(()) => true,
        }
    }

    /// Let the kernel forget what it keeps of the content of `ino`. May wait for its readers.
    pub fn forget_content(&self, ino: u64) -> io::Result<()> {
        let notice = NotifyInvalInode { ino, off: 0, len: 0 };
        let header = OutHeader { len: 0, error: notify::INVAL_INODE, unique: 0 };
        self.send(header, &[notice.as_bytes()])
    }

    /// Let the kernel forget the entry `name` of `parent`. May wait for requests in that directory.
    pub fn forget_entry(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        let namelen = u32::try_from(name.len()).unwrap_or(0);
        let notice = NotifyInvalEntry { parent, namelen, flags: 0 };
        let header = OutHeader { len: 0, error: notify::INVAL_ENTRY, unique: 0 };
        self.send(header, &[notice.as_bytes(), name, &[0]])
    }

    /// Make `file` a backing file; its id, which lives until `close_backing`.
    pub fn open_backing(&self, file: &std::fs::File) -> io::Result<i32> {
        let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
        // SAFETY: the ioctl reads one such struct.
        let id = unsafe { libc::ioctl(self.0.as_raw_fd(), BACKING_OPEN, &raw const map) };
        if id > 0 { Ok(id) } else { Err(io::Error::last_os_error()) }
    }

    /// Give a backing id up; false if there was none of this number.
    pub fn close_backing(&self, id: i32) -> bool {
        let id = id.cast_unsigned();
        // SAFETY: the ioctl reads one such integer.
        unsafe { libc::ioctl(self.0.as_raw_fd(), BACKING_CLOSE, &raw const id) == 0 }
    }

    fn send(&self, mut header: OutHeader, parts: &[&[u8]]) -> io::Result<()> {
        let length = size_of::<OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
        header.len = u32::try_from(length).map_err(io::Error::other)?;
        let mut all = [&[][..]; 4];
        all[0] = header.as_bytes();
        all[1..=parts.len()].copy_from_slice(parts);
        match self.write(&all[..=parts.len()]) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            // After an unmount nobody waits for anything.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            done => done,
        }
    }

    fn write(&self, parts: &[&[u8]]) -> io::Result<()> {
        let slices: Vec<_> = parts.iter().map(|part| io::IoSlice::new(part)).collect();
        let count = libc::c_int::try_from(slices.len()).map_err(io::Error::other)?;
        // SAFETY: an IoSlice has the layout of an iovec, and the slices live through the call.
        result(unsafe { libc::writev(self.0.as_raw_fd(), slices.as_ptr().cast(), count) })
            .map(|_| ())
    }
}
