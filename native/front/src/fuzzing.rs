//! What is done to the decoders by fuzzers: any bytes, and nothing may panic or read past the end.
//! `native/fuzz` runs these under libFuzzer; the tests below run each for a moment.

use crate::fuse::request::Request;
use crate::index::records::{Block, CachedFile, Dentry, Inode, Listing, ObjectRef};
use crate::lake::{Source, answer};
use crate::upcall::wire::{self, Incoming, What};

/// A message of the kernel's.
pub fn request(data: &[u8]) {
    if let Some(request) = Request::parse(data) {
        assert!(request.header.len as usize <= data.len());
        let _ = format!("{:?}", request.operation);
    }
}

/// Records of the index.
pub fn record(data: &[u8]) {
    let _ = (Inode::parse(data), Dentry::parse(data), Listing::parse(data));
    let _ = (CachedFile::parse(data), Block::parse(data));
    if let Some(object) = ObjectRef::parse(data) {
        assert!(object.key.ends_with(object.name()));
        let _ = object.identity();
    }
}

/// An answer of the lake's.
pub fn answer(data: &[u8]) {
    answer::fuzz(data);
}

/// A message of the control plane's, and entries that it leaves in the arena.
pub fn upcall(data: &[u8]) {
    if let Some(incoming) = Incoming::parse(data)
        && let What::Answer(answer) = incoming.what
    {
        let _ = (wire::attributes(answer.tail), wire::checksum(answer.tail));
        let _ = wire::victims(answer.tail);
    }
    let _ = Source::parse(data);
    let mut rest = data;
    while let Some((_, name, after)) = wire::entry(rest) {
        assert!(name.len() + after.len() < rest.len());
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Xorshift: enough to make bytes that nobody thought of.
    struct Bytes(u64);

    impl Bytes {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        /// Up to 300 bytes, many of them small, as lengths and kinds are.
        fn make(&mut self) -> Vec<u8> {
            let length = usize::try_from(self.next() % 300).unwrap();
            (0..length)
                .map(|_| {
                    let [byte, which, ..] = self.next().to_le_bytes();
                    if which < 64 { byte } else { byte % 5 }
                })
                .collect()
        }
    }

    fn hammer(target: fn(&[u8])) {
        let mut bytes = Bytes(0x9E37_79B9_7F4A_7C15);
        for _ in 0..50_000 {
            let mut data = bytes.make();
            // A length that is right opens the way to what is behind it.
            if data.len() >= 8 && bytes.next().is_multiple_of(2) {
                let length = u32::try_from(data.len()).unwrap().to_le_bytes();
                let at = if bytes.next().is_multiple_of(2) { 0 } else { 4 };
                data[at..at + 4].copy_from_slice(&length);
            }
            target(&data);
        }
    }

    #[test]
    fn requests() {
        hammer(request);
    }

    #[test]
    fn records() {
        hammer(record);
    }

    #[test]
    fn upcalls() {
        hammer(upcall);
    }

    #[test]
    fn answers() {
        hammer(answer);
        hammer(|data| {
            let head = b"HTTP/1.1 206 x\r\netag: \"1\"\r\ncontent-range: bytes 5-9/";
            answer(&[head, data, b"\r\ncontent-length: ", data, b"\r\n\r\n"].concat());
        });
    }
}
