//! A message from the kernel, taken apart. Whatever the bytes are, nothing panics: a message that
//! is shorter than its kind needs is `Malformed` and gets EINVAL.

use zerocopy::FromBytes;

use super::abi::{
    FallocateIn, FlushIn, FsyncIn, GetxattrIn, InHeader, InitIn, LseekIn, OpenIn, ReadIn,
    ReleaseIn, init_flag, opcode,
};

/// One request: who asks, and what.
#[derive(Debug)]
pub struct Request<'a> {
    pub header: InHeader,
    pub operation: Operation<'a>,
    /// What follows the header.
    pub body: &'a [u8],
}

/// What READDIR or READDIRPLUS asks for: entries behind `offset`, up to `size` bytes of them.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryRequest {
    pub offset: u64,
    pub size: u32,
    pub plus: bool,
}

/// What is asked of inode `header.nodeid`.
#[derive(Debug)]
pub enum Operation<'a> {
    Init {
        minor: u32,
        max_readahead: u32,
        flags: u64,
    },
    Lookup {
        name: &'a [u8],
    },
    Getattr,
    Readlink,
    Open {
        flags: u32,
    },
    Read(ReadIn),
    Release(ReleaseIn),
    Statfs,
    Getxattr {
        name: &'a [u8],
        size: u32,
    },
    Listxattr {
        size: u32,
    },
    Opendir,
    Readdir(DirectoryRequest),
    Lseek(LseekIn),
    /// FLUSH, FSYNC.
    Flush {
        fh: u64,
    },
    Fallocate(FallocateIn),
    /// Done when it is asked for.
    Nothing,
    /// No answer is expected, and nothing hangs on it: inode numbers are stable.
    Unanswered,
    /// Would change the lake.
    Change,
    Unknown,
    Malformed,
}

impl<'a> Request<'a> {
    /// `None` if there is not even a whole header.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let (header, rest) = InHeader::read_from_prefix(message).ok()?;
        let body = rest.get(..(header.len as usize).checked_sub(size_of::<InHeader>())?)?;
        let operation = Operation::parse(header.opcode, body).unwrap_or(Operation::Malformed);
        Some(Self { header, operation, body })
    }
}

impl<'a> Operation<'a> {
    fn parse(code: u32, body: &'a [u8]) -> Option<Self> {
        Some(match code {
            opcode::INIT => {
                let (init, rest) = InitIn::read_from_prefix(body).ok()?;
                let mut flags = u64::from(init.flags);
                if flags & init_flag::INIT_EXT != 0 {
                    let (more, _) = u32::read_from_prefix(rest).ok()?;
                    flags |= u64::from(more) << 32;
                }
                if init.major != super::abi::KERNEL_VERSION {
                    return None;
                }
                Self::Init { minor: init.minor, max_readahead: init.max_readahead, flags }
            }
            opcode::LOOKUP => Self::Lookup { name: name(body)? },
            opcode::GETATTR => Self::Getattr,
            opcode::READLINK => Self::Readlink,
            opcode::OPEN => Self::Open { flags: OpenIn::read_from_prefix(body).ok()?.0.flags },
            opcode::READ => Self::Read(ReadIn::read_from_prefix(body).ok()?.0),
            opcode::RELEASE => Self::Release(ReleaseIn::read_from_prefix(body).ok()?.0),
            opcode::STATFS => Self::Statfs,
            opcode::GETXATTR => {
                let (asked, rest) = GetxattrIn::read_from_prefix(body).ok()?;
                Self::Getxattr { name: name(rest)?, size: asked.size }
            }
            opcode::LISTXATTR => {
                Self::Listxattr { size: GetxattrIn::read_from_prefix(body).ok()?.0.size }
            }
            opcode::OPENDIR => Self::Opendir,
            opcode::READDIR | opcode::READDIRPLUS => {
                let (read, _) = ReadIn::read_from_prefix(body).ok()?;
                let plus = code == opcode::READDIRPLUS;
                Self::Readdir(DirectoryRequest { offset: read.offset, size: read.size, plus })
            }
            opcode::LSEEK => Self::Lseek(LseekIn::read_from_prefix(body).ok()?.0),
            opcode::FLUSH => Self::Flush { fh: FlushIn::read_from_prefix(body).ok()?.0.fh },
            opcode::FSYNC => Self::Flush { fh: FsyncIn::read_from_prefix(body).ok()?.0.fh },
            opcode::FALLOCATE => Self::Fallocate(FallocateIn::read_from_prefix(body).ok()?.0),
            opcode::FSYNCDIR
            | opcode::RELEASEDIR
            | opcode::ACCESS
            | opcode::SYNCFS
            | opcode::DESTROY => Self::Nothing,
            opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => Self::Unanswered,
            opcode::SETATTR
            | opcode::SYMLINK
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::RENAME
            | opcode::RENAME2
            | opcode::LINK
            | opcode::WRITE
            | opcode::SETXATTR
            | opcode::REMOVEXATTR
            | opcode::CREATE
            | opcode::COPY_FILE_RANGE
            | opcode::TMPFILE => Self::Change,
            _ => Self::Unknown,
        })
    }
}

/// The bytes in front of the first zero byte, which must be there.
fn name(body: &[u8]) -> Option<&[u8]> {
    let end = body.iter().position(|&byte| byte == 0)?;
    Some(&body[..end])
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn message(code: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(size_of::<InHeader>() + body.len()).unwrap();
        let header = InHeader { len, opcode: code, unique: 2, nodeid: 1, ..Default::default() };
        [header.as_bytes(), body].concat()
    }

    #[test]
    fn a_lookup_has_its_name() {
        let bytes = message(opcode::LOOKUP, b"a b\n\xff\0");
        let request = Request::parse(&bytes).unwrap();
        assert!(matches!(request.operation, Operation::Lookup { name: b"a b\n\xff" }));
    }

    #[test]
    fn a_name_without_an_end_is_malformed() {
        let bytes = message(opcode::LOOKUP, b"abc");
        assert!(matches!(Request::parse(&bytes).unwrap().operation, Operation::Malformed));
    }

    #[test]
    fn nothing_panics_however_short() {
        for code in 0..60 {
            for length in 0..48 {
                let bytes = message(code, &vec![0xFF; length]);
                assert!(Request::parse(&bytes).is_some());
                for cut in 0..bytes.len() {
                    assert!(Request::parse(&bytes[..cut]).is_none());
                }
            }
        }
    }

    #[test]
    fn a_header_that_claims_more_than_came() {
        let mut bytes = message(opcode::GETATTR, b"");
        bytes[0] = 200;
        assert!(Request::parse(&bytes).is_none());
        bytes[0] = 3;
        assert!(Request::parse(&bytes).is_none());
    }

    #[test]
    fn init_takes_the_second_half_of_its_flags() {
        let mut body = Vec::new();
        for word in [7u32, 38, 1 << 20, 1 << 30, 1 << 5] {
            body.extend(word.to_ne_bytes());
        }
        let bytes = message(opcode::INIT, &body);
        let Operation::Init { flags, .. } = Request::parse(&bytes).unwrap().operation else {
            panic!()
        };
        assert_eq!(flags, 1 << 30 | init_flag::PASSTHROUGH);
    }
}
