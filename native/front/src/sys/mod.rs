//! System calls, each behind a safe function. With `index/lmdb.rs` the only unsafe code here.
//!
//! - `device`: `/dev/fuse`
//! - `memory`: the memory that outlives this process
//! - `socket`: messages to and from the control plane
//! - `file`: cache files

pub mod device;
pub mod file;
pub mod memory;
pub mod socket;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// `returned` of a system call, or the errno.
fn result(returned: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

/// Take a descriptor that was inherited by its number; `None` if there is no such.
pub fn inherited(number: i32) -> Option<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: fcntl with F_SETFD looks at the number alone. The descriptor, if there is one, was
    // handed to this process on its command line, so it is nobody else's here.
    unsafe {
        let known = libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) == 0;
        known.then(|| OwnedFd::from_raw_fd(number))
    }
}

/// Wait until `fd` can be read, or written if `write`, at most `timeout_ms`. Says what it can.
pub fn wait(fd: BorrowedFd<'_>, write: bool, timeout_ms: i32) -> (bool, bool) {
    use std::os::fd::AsRawFd;
    let events = if write { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: one valid pollfd.
    let ready = unsafe { libc::poll(&raw mut poll, 1, timeout_ms) };
    if ready <= 0 {
        return (false, false);
    }
    (poll.revents & !libc::POLLOUT != 0, poll.revents & libc::POLLOUT != 0)
}

/// Let this thread have the processor after those that somebody waits for.
pub fn step_back() {
    const NICE: libc::c_int = 10;
    // SAFETY: numbers; 0 is this thread (setpriority(2), "C library/kernel differences").
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
    }
}

/// Let this process have as many files open as it may.
pub fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid rlimit, read and then written.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Let threads share two heaps, so that memory is bounded by what is in use; to be called before
/// the first thread.
pub fn keep_few_heaps() {
    // SAFETY: numbers.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        // Fixed, or it grows to the largest that was freed, and buffers leave holes in the heaps.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
    }
}
