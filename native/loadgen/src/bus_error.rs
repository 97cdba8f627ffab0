//! SIGBUS: what a mapping raises when the file system cannot bring its bytes, or the file shrank.

#![allow(unsafe_code)]

use std::io;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// What the handler writes; leaked, so that it is there whenever the signal comes.
static MESSAGE: AtomicPtr<String> = AtomicPtr::new(ptr::null_mut());

/// From now on a SIGBUS ends the process with exit code 4 and a message that names `path`: the
/// file that is about to be read, by one thread at a time.
pub fn names(path: &Path) -> io::Result<()> {
    let message =
        format!("loadgen: {}: bus error: the mapping has no bytes there\n", path.display());
    MESSAGE.store(Box::leak(Box::new(message)), Ordering::Release);
    // SAFETY: a zeroed sigaction is a valid one (no flags, empty mask), and the handler keeps to
    // calls that signal-safety(7) allows.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_bus_error as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_bus_error(_signal: libc::c_int) {
    // SAFETY: the pointer is null or a leaked string that nobody changes; write(2) and _exit(2)
    // are signal-safe.
    unsafe {
        if let Some(message) = MESSAGE.load(Ordering::Acquire).as_ref() {
            libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
        }
        libc::_exit(4);
    }
}
