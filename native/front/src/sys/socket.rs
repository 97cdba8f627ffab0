//! A socket of whole messages (`SOCK_SEQPACKET`), used without waiting.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::result;

pub struct Socket(OwnedFd);

impl Socket {
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Send one message; false if there is no room for it now.
    pub fn send(&self, message: &[u8]) -> io::Result<bool> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: bytes of that length, read only.
        let sent = unsafe {
            libc::send(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), flags)
        };
        match result(sent) {
            Ok(_) => Ok(true),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// The next message, into `buffer`; `None` if there is none now.
    pub fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
        // SAFETY: a buffer of that length, which is ours to write.
        let read = unsafe {
            let start = buffer.as_mut_ptr().cast();
            libc::recv(self.0.as_raw_fd(), start, buffer.len(), libc::MSG_DONTWAIT)
        };
        match result(read) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => Ok(Some(&buffer[..length])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
