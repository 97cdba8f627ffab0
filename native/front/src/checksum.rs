//! Checksums of blocks, and how they add up to that of the object.
//!
//! xxh3-64 guards a block on the disk, on every read. crc64nvme is kept beside it because it combines
//! (`combined`) into the checksum that S3 keeps for the whole object, so that a file that was
//! fetched in ranges is checked against the lake without being read again. crc32c and crc32 are for
//! objects that have no other.

use crc_fast::{CrcAlgorithm, Digest};
use xxhash_rust::xxh3::xxh3_64;

use crate::index::records::Block;

/// Which checksum of the whole object the lake keeps. Numbered as in `tierfs/lake/protocol.py`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChecksumKind {
    Crc64Nvme = 1,
    Crc32c = 2,
    Crc32 = 3,
}

impl ChecksumKind {
    /// `None` of 0, too: there is no checksum.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Crc64Nvme, Self::Crc32c, Self::Crc32].into_iter().find(|&kind| kind as u32 == number)
    }
}

/// What the lake says of a whole object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    pub kind: ChecksumKind,
    pub value: u64,
}

/// The record of a block with these bytes, which are one block's and no more.
pub fn seal(data: &[u8]) -> Block {
    Block {
        length: u32::try_from(data.len()).unwrap_or(u32::MAX),
        xxh3: xxh3_64(data),
        crc64nvme: of(ChecksumKind::Crc64Nvme, data, 0),
    }
}

/// The checksum of `data`, going on from `before`, the checksum of what came in front of it (0 of
/// nothing).
pub fn of(kind: ChecksumKind, data: &[u8], before: u64) -> u64 {
    let (algorithm, ones) = match kind {
        ChecksumKind::Crc64Nvme => (CrcAlgorithm::Crc64Nvme, u64::MAX),
        ChecksumKind::Crc32c => (CrcAlgorithm::Crc32Iscsi, u64::from(u32::MAX)),
        ChecksumKind::Crc32 => (CrcAlgorithm::Crc32IsoHdlc, u64::from(u32::MAX)),
    };
    // All three invert the register at the end; inverted again it goes on from there.
    let mut digest = Digest::new_with_init_state(algorithm, before ^ ones);
    digest.update(data);
    digest.finalize()
}

/// crc64nvme of what has `a` and, behind it, `b_length` bytes that have `b`.
pub fn combine_crc64nvme(a: u64, b: u64, b_length: u64) -> u64 {
    multiply(a, shift(b_length)) ^ b
}

/// crc64nvme of the concatenation of blocks, given in order. 0.1 us for each.
pub fn combined<'b>(blocks: impl Iterator<Item = &'b Block>) -> u64 {
    // Nearly all blocks have one length.
    let (mut length, mut by) = (0, shift(0));
    blocks.fold(0, |before, block| {
        if block.length != length {
            (length, by) = (block.length, shift(block.length.into()));
        }
        multiply(before, by) ^ block.crc64nvme
    })
}

// A crc is a remainder of polynomials over GF(2); more bytes behind what it was made of multiply it
// by a power of x. The highest bit is the coefficient of x^0.

/// The polynomial of crc64nvme, without its x^64.
const CRC64NVME: u64 = 0x9A6C_9329_AC4B_C9B5;
const ONE: u64 = 1 << 63;

fn multiply(a: u64, b: u64) -> u64 {
    let (mut product, mut multiple) = (0, b); // `multiple` is b x^n.
    for n in 0..64 {
        product ^= multiple & (a >> (63 - n) & 1).wrapping_neg();
        multiple = multiple >> 1 ^ CRC64NVME & (multiple & 1).wrapping_neg();
    }
    product
}

/// What `bytes` more bytes multiply by: x^(8 bytes).
fn shift(mut bytes: u64) -> u64 {
    let (mut product, mut power) = (ONE, ONE >> 8);
    while bytes > 0 {
        if bytes & 1 != 0 {
            product = multiply(product, power);
        }
        power = multiply(power, power);
        bytes >>= 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [ChecksumKind; 3] =
        [ChecksumKind::Crc64Nvme, ChecksumKind::Crc32c, ChecksumKind::Crc32];

    /// Bytes that have no pattern; the golden values were made of the same.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(&mut next).take(length).collect()
    }

    #[test]
    fn checksums_are_the_published_ones() {
        // The check values of the CRC catalogue.
        let expected = [0xAE8B_1486_0A79_9888, 0xE306_9283, 0xCBF4_3926];
        assert_eq!(KINDS.map(|kind| of(kind, b"123456789", 0)), expected);
        assert_eq!(KINDS.map(|kind| of(kind, b"", 0)), [0; 3]);
    }

    #[test]
    fn checksums_are_those_of_awscrt() {
        for (length, expected) in GOLDEN {
            let data = noise(length);
            assert_eq!(KINDS.map(|kind| of(kind, &data, 0)), expected, "{length}");
        }
    }

    #[test]
    fn checksums_go_on_from_any_place() {
        let data = noise(5000);
        for kind in KINDS {
            let whole = of(kind, &data, 0);
            for at in [0, 1, 15, 16, 127, 128, 1000, 4999, 5000] {
                let (head, tail) = data.split_at(at);
                assert_eq!(of(kind, tail, of(kind, head, 0)), whole, "{kind:?} {at}");
            }
        }
    }

    #[test]
    fn block_checksums_combine_to_that_of_the_object() {
        let data = noise(3 * 4096 + 17);
        for part in [1, 7, 4096, 20_000] {
            let blocks: Vec<Block> = data.chunks(part).map(seal).collect();
            assert_eq!(combined(blocks.iter()), of(ChecksumKind::Crc64Nvme, &data, 0), "{part}");
        }
        assert_eq!(combined([].iter()), 0);
        assert_eq!(combine_crc64nvme(7, 0, 0), 7);
        // As awscrt combines: a TiB behind nine bytes.
        assert_eq!(combine_crc64nvme(0xAE8B_1486_0A79_9888, 0x1234, 1 << 40), COMBINED);
    }

    #[test]
    fn a_block_is_sealed_with_length_and_both() {
        let data = noise(1 << 20);
        let block = seal(&data);
        assert_eq!((block.length, block.xxh3), (1 << 20, SEALED));
        assert_eq!(block.crc64nvme, GOLDEN[GOLDEN.len() - 1].1[0]);
        assert_eq!(seal(b""), Block { length: 0, xxh3: 0x2D06_8005_38D3_94C2, crc64nvme: 0 });
    }

    #[test]
    fn kinds_have_numbers() {
        for kind in KINDS {
            assert_eq!(ChecksumKind::from_number(kind as u32), Some(kind));
        }
        assert_eq!([0, 4].map(ChecksumKind::from_number), [None; 2]);
    }

    /// Not a test of anything: `cargo test --release checksum -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures"]
    fn speed() {
        let data = noise(1 << 20);
        let measure = |name: &str, work: &dyn Fn() -> u64| {
            let begun = std::time::Instant::now();
            for _ in 0..2000 {
                std::hint::black_box(work());
            }
            let gb = 2000.0 * f64::from(1 << 20) / 1e9;
            println!("{name}: {:.1} GB/s", gb / begun.elapsed().as_secs_f64());
        };
        for kind in KINDS {
            measure(&format!("{kind:?}"), &|| of(kind, std::hint::black_box(&data), 0));
        }
        measure("xxh3", &|| xxh3_64(std::hint::black_box(&data)));
        measure("seal", &|| seal(std::hint::black_box(&data)).xxh3);
        let (block, begun) = (seal(&data), std::time::Instant::now());
        std::hint::black_box(combined(std::iter::repeat_n(&block, 100_000)));
        println!("combined: {:?} each", begun.elapsed() / 100_000);
    }

    /// crc64nvme, crc32c and crc32 of `noise`, as awscrt 0.38 computes them.
    const GOLDEN: [(usize, [u64; 3]); 7] = [
        (1, [0x3385_58CC_867B_7F51, 0x2FDD_D530, 0xFD6D_930A]),
        (15, [0xE451_4A50_2692_42E7, 0x422A_CCC4, 0xDA3B_251A]),
        (16, [0xC2A0_F7F1_C721_3211, 0x3CCF_0C08, 0x05D5_0646]),
        (255, [0x0906_B43A_C858_A360, 0xEAAA_D7BB, 0x3E55_7871]),
        (4096, [0x8BC0_2E10_FBB0_60F9, 0x04A5_AAB6, 0x5B24_A61A]),
        (65537, [0x9C70_2008_3AED_D690, 0x014B_BBDF, 0xBF8D_C213]),
        (1 << 20, [0xEC05_FE34_7422_DB45, 0x1F76_3FFA, 0xC0F6_8319]),
    ];
    const COMBINED: u64 = 0x6C44_F5E6_6D2B_C3E1;
    /// By xxhash for Python.
    const SEALED: u64 = 0x6A1E_4838_0A87_D1AF;
}
