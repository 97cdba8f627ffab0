//! Cache files: opened, looked at and read as `tierfs/cache/store.py` leaves them.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::result;

/// Where the cache file of `ino` is, or would be.
pub fn path(lake_directory: &Path, ino: u64) -> PathBuf {
    let (third, second) = (ino >> 16 & 0xFF, ino >> 8 & 0xFF);
    lake_directory.join(format!("objects/{third:02x}/{second:02x}/{ino:016x}"))
}

/// Where the staging file of `ino` is, or would be.
pub fn staging(lake_directory: &Path, ino: u64) -> PathBuf {
    lake_directory.join(format!("staging/{ino:016x}"))
}

/// Where the records of its blocks are, or would be.
pub fn sealed(lake_directory: &Path, ino: u64) -> PathBuf {
    lake_directory.join(format!("staging/{ino:016x}.blocks"))
}

pub fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// The same, to be written, too.
pub fn open_to_write(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// A new file; there must be none yet.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true).mode(0o640);
    options.custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Make a directory, and those above it.
pub fn make_directories(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(path)
}

/// Write all of `bytes` at `offset`.
pub fn write(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Free the bytes `[lo, hi)`: they read as zeros from now on, and the file keeps its size.
pub fn punch(file: &File, lo: u64, hi: u64) -> io::Result<()> {
    allocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, lo, hi - lo)
}

/// fallocate(2).
pub fn allocate(file: &File, mode: i32, offset: u64, length: u64) -> io::Result<()> {
    let (Ok(start), Ok(length)) = (libc::off_t::try_from(offset), libc::off_t::try_from(length))
    else {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    };
    loop {
        // SAFETY: numbers and a descriptor that is open.
        let code = unsafe { libc::fallocate(file.as_raw_fd(), mode, start, length) };
        let error = io::Error::last_os_error();
        match code {
            0 => return Ok(()),
            _ if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}

/// lseek(2) in a descriptor that nobody else has.
pub fn seek(file: &File, offset: u64, whence: i32) -> io::Result<u64> {
    let Ok(offset) = libc::off_t::try_from(offset) else {
        return Err(io::Error::from_raw_os_error(libc::ENXIO));
    };
    // SAFETY: numbers and a descriptor that is open.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    u64::try_from(found).map_err(|_| io::Error::last_os_error())
}

/// Fill `buffer` from `offset` as far as the file goes; how far.
pub fn read_some(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(length) => got += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// Have the kernel read nothing of `file` but what it is asked for.
pub fn no_read_ahead(file: &File) {
    // SAFETY: numbers and a descriptor that is open.
    unsafe {
        libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM);
    }
}

/// Have the kernel read a range of a file soon; a hint.
pub fn will_need(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (libc::off_t::try_from(offset), libc::off_t::try_from(length))
    else {
        return;
    };
    // SAFETY: numbers and a descriptor that is open.
    unsafe {
        libc::posix_fadvise(file.as_raw_fd(), offset, length, libc::POSIX_FADV_WILLNEED);
    }
}

/// Size and ctime, by which a change since the last verification shows.
pub fn size_and_ctime(file: &File) -> io::Result<(u64, i64)> {
    let status = file.metadata()?;
    Ok((status.size(), status.ctime() * 1_000_000_000 + status.ctime_nsec()))
}

/// The number of the file at `path`, or `None` if there is none.
pub fn inode(path: &Path) -> Option<u64> {
    Some(std::fs::metadata(path).ok()?.ino())
}

/// Fill `buffer` from `offset` with what is in the page cache; false if that is not all of it.
pub fn read_resident(file: &File, buffer: &mut [u8], offset: u64) -> bool {
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let Ok(offset) = libc::off_t::try_from(offset) else { return false };
    // SAFETY: one iovec over a buffer that is ours to write.
    let read =
        unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, offset, libc::RWF_NOWAIT) };
    // File systems without RWF_NOWAIT (tmpfs) refuse it.
    matches!(result(read), Ok(length) if length == buffer.len())
}

/// Fill `buffer` from `offset`, waiting for the disk. A shorter file is an error.
pub fn read(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(buffer, offset)
}

/// How large a file system is, and how much of it we may still use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    pub free_bytes: u64,
}

/// The space of the file system that `path` is on.
pub fn space(path: &Path) -> io::Result<Space> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut status = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: a C string, and room for one such struct, which is all integers.
    let status = unsafe {
        if libc::statvfs(path.as_ptr(), status.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        status.assume_init()
    };
    Ok(Space {
        total_bytes: status.f_blocks.saturating_mul(status.f_frsize),
        free_bytes: status.f_bavail.saturating_mul(status.f_frsize),
    })
}

/// The first eight bytes of this boot's random id.
pub fn boot_id() -> io::Result<[u8; 8]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    let id = u64::from_str_radix(&digits, 16).map_err(io::Error::other)?;
    Ok(id.to_be_bytes())
}
