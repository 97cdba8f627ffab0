//! What a file of a data set contains: a function of seed, path and offset, so that any range of
//! any file can be written or checked without state, here and in other languages.
//!
//! With `mix` the finisher of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
//! generators", 2014, with Stafford's constants) and all arithmetic modulo 2^64:
//!
//! ```text
//! file_seed = xxh3_64(path, seed = S)                   path: bytes, relative to the root
//! word(i)   = mix(file_seed + i * 0x9E3779B97F4A7C15)   i = 0, 1, ...: bytes 8i .. 8i + 8, little endian
//! mix(z)    : z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9
//!             z = (z ^ z >> 27) * 0x94D049BB133111EB
//!             z ^ z >> 31
//! ```
//!
//! The last word is cut at the file's end. A path that ends in `.safetensors` begins with a header
//! instead (see `safetensors.rs`); beyond it the words are those of the same file offsets.

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64, xxh3_64_with_seed};

use crate::failure::Failure;
use crate::safetensors;

/// The step of splitmix64: 2^64 divided by the golden ratio.
pub const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Content is made in pieces that stay in the first-level cache.
const PIECE: usize = 4096;

/// The finisher of splitmix64.
#[inline]
#[must_use]
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What the words of the file at `path` are made from.
#[must_use]
pub fn file_seed(path: &[u8], seed: u64) -> u64 {
    xxh3_64_with_seed(path, seed)
}

/// The bytes that one file should have.
#[derive(Clone, Debug)]
pub struct Content {
    file_seed: u64,
    header: Vec<u8>,
}

impl Content {
    /// The content of a file of `size` bytes. A size that no safetensors file can have is a usage
    /// error.
    pub fn of(seed: u64, path: &[u8], size: u64) -> Result<Self, Failure> {
        let file_seed = file_seed(path, seed);
        let header = if safetensors::is_name(path) {
            safetensors::Layout::of(file_seed, size)
                .ok_or_else(|| {
                    let name = String::from_utf8_lossy(path);
                    Failure::Usage(format!("{name}: no safetensors file has {size} bytes"))
                })?
                .header
        } else {
            Vec::new()
        };
        Ok(Self { file_seed, header })
    }

    /// The content of a file whose size is not known, which a safetensors file's must be.
    pub fn of_unknown_size(seed: u64, path: &[u8]) -> Result<Self, Failure> {
        if safetensors::is_name(path) {
            let name = String::from_utf8_lossy(path);
            return Err(Failure::Usage(format!("{name}: its content depends on its size")));
        }
        Ok(Self { file_seed: file_seed(path, seed), header: Vec::new() })
    }

    /// What `safetensors::Layout` is made from.
    #[must_use]
    pub fn file_seed(&self) -> u64 {
        self.file_seed
    }

    #[inline]
    fn word(&self, index: u64) -> [u8; 8] {
        mix(self.file_seed.wrapping_add(index.wrapping_mul(STEP))).to_le_bytes()
    }

    /// Writes the bytes from `offset` on into `out`.
    pub fn fill(&self, offset: u64, out: &mut [u8]) {
        let within = (offset % 8) as usize;
        let head = if within == 0 { 0 } else { (8 - within).min(out.len()) };
        let (first, rest) = out.split_at_mut(head);
        first.copy_from_slice(&self.word(offset / 8)[within..within + head]);
        let mut index = (offset + head as u64) / 8;
        let mut words = rest.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.word(index));
            index += 1;
        }
        let last = words.into_remainder();
        last.copy_from_slice(&self.word(index)[..last.len()]);
        if offset < self.header.len() as u64 {
            let header = &self.header[offset as usize..];
            let length = header.len().min(out.len());
            out[..length].copy_from_slice(&header[..length]);
        }
    }

    /// The bytes `offset .. offset + length`.
    #[must_use]
    pub fn bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(offset, &mut bytes);
        bytes
    }

    /// The file offset of the first byte of `got`, read at `offset`, that is not as it should be.
    #[must_use]
    pub fn difference(&self, offset: u64, got: &[u8]) -> Option<u64> {
        let mut wanted = [0; PIECE];
        let mut at = offset;
        for piece in got.chunks(PIECE) {
            let wanted = &mut wanted[..piece.len()];
            self.fill(at, wanted);
            if wanted != piece {
                let same = wanted.iter().zip(piece).take_while(|(a, b)| a == b).count();
                return Some(at + same as u64);
            }
            at += piece.len() as u64;
        }
        None
    }

    /// The `xxh3_64` of the bytes `offset .. offset + length`.
    #[must_use]
    pub fn hash(&self, offset: u64, length: u64) -> u64 {
        let mut piece = [0; 16 * PIECE];
        if length <= piece.len() as u64 {
            let piece = &mut piece[..length as usize];
            self.fill(offset, piece);
            return xxh3_64(piece);
        }
        let mut state = Xxh3Default::new();
        let mut at = offset;
        let end = offset + length;
        while at < end {
            let now = (end - at).min(piece.len() as u64) as usize;
            self.fill(at, &mut piece[..now]);
            state.update(&piece[..now]);
            at += now as u64;
        }
        state.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Content {
        Content::of(7, b"train/0001.bin", 1 << 20).unwrap()
    }

    /// Known answers, computed by another implementation (Python, with the xxhash package):
    /// path, seed, file seed, bytes 0 .. 20, bytes 2^40 + 3 .. 2^40 + 16.
    const GOLDEN: [(&[u8], u64, u64, &str, &str); 4] = [
        (
            b"train/0001.bin",
            0,
            0x5e1f_33c4_f336_a91a,
            "d2c438de88bb28a5256ce4370815179d338daa81",
            "9e2a04e989f643ed9f130fa921",
        ),
        (
            b"train/0001.bin",
            7,
            0x1289_fd93_a301_270a,
            "e90bfd34e2a73558cc36b7a4efeef6d290fdaa24",
            "f553bdd17ddce9bb77634063c1",
        ),
        (
            b"",
            u64::MAX,
            0x4c09_3276_ae47_a555,
            "65e9e00e43f562ef7963ede0d37ebf8db44f2349",
            "7bf03a19a88f64664009848711",
        ),
        (
            b"\xff\xfe",
            1,
            0x70a3_3b6f_d567_973b,
            "faf05412e0c4a5d4b6556a49a37fc2d9209eff27",
            "666cb3af5cdecaf2629826c569",
        ),
    ];

    #[test]
    fn the_golden_values() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        for (path, seed, wanted, begin, far) in GOLDEN {
            assert_eq!(file_seed(path, seed), wanted);
            let content = Content::of_unknown_size(seed, path).unwrap();
            assert_eq!(hex(&content.bytes(0, 20)), begin);
            assert_eq!(hex(&content.bytes((1 << 40) + 3, 13)), far);
        }
        assert_eq!(plain().hash(0, 1 << 20), 0xc830_7d19_a4a6_82a3);
        assert_eq!(mix(0), 0);
        assert_eq!(mix(1), 0x5692_161d_100b_05e5);
        // The first number of splitmix64 seeded with 0.
        assert_eq!(mix(STEP), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn content_at_any_offset_is_a_cut_of_the_whole() {
        let whole = plain().bytes(0, 300);
        for offset in 0..40 {
            for length in [0, 1, 3, 7, 8, 9, 64, 255] {
                assert_eq!(plain().bytes(offset as u64, length), whole[offset..offset + length]);
            }
        }
    }

    #[test]
    fn the_hash_is_that_of_the_bytes() {
        for (offset, length) in [(0, 0), (0, 100), (5, 65_536), (3, 65_537), (8, 1_000_001)] {
            let bytes = plain().bytes(offset, length);
            assert_eq!(plain().hash(offset, length as u64), xxh3_64(&bytes));
        }
    }

    #[test]
    fn the_first_wrong_byte_is_found_wherever_it_is() {
        let mut bytes = plain().bytes(13, 10_000);
        assert_eq!(plain().difference(13, &bytes), None);
        for at in [9_999, 8_192, 4_096, 4_095, 17, 0] {
            bytes[at] ^= 1;
            assert_eq!(plain().difference(13, &bytes), Some(13 + at as u64));
        }
    }

    #[test]
    fn another_path_or_seed_is_other_content() {
        let bytes = plain().bytes(0, 64);
        assert_ne!(Content::of(8, b"train/0001.bin", 64).unwrap().bytes(0, 64), bytes);
        assert_ne!(Content::of(7, b"train/0002.bin", 64).unwrap().bytes(0, 64), bytes);
    }

    #[test]
    fn a_safetensors_file_begins_with_its_header_and_goes_on_as_any_file() {
        let size = 1_000_000;
        let path = b"m.safetensors";
        let header = safetensors::Layout::of(file_seed(path, 7), size).unwrap().header;
        let content = Content::of(7, path, size).unwrap();
        let bytes = content.bytes(0, header.len() + 100);
        assert_eq!(bytes[..header.len()], header);
        let words = Content { file_seed: file_seed(path, 7), header: Vec::new() };
        assert_eq!(bytes[header.len()..], words.bytes(header.len() as u64, 100));
        assert_eq!(content.bytes(11, 20), bytes[11..31]);
    }
}
