//! The layout of a data set's `.safetensors` files, a function of their seed and size.
//!
//! ```text
//! 0          header length N, 8 bytes little endian; a multiple of 8
//! 8          JSON: {"__metadata__":{"format":"pt"},"t.00000":{"dtype":"F32","shape":[n],
//!            "data_offsets":[begin,end]},...}, then spaces up to N
//! 8 + N      tensors, one after the other, without gaps; offsets count from here
//! ```
//!
//! (The format: <https://huggingface.co/docs/safetensors/index>.)

use std::fmt::Write as _;

use crate::content::{STEP, mix};

const SMALLEST: u64 = 64 << 10;
const LARGEST: u64 = 16 << 20;

/// Where everything is in one file.
#[derive(Debug)]
pub struct Layout {
    /// Length, JSON and spaces: everything in front of the tensors.
    pub header: Vec<u8>,
    /// Offset in the file and length of each tensor, in bytes.
    pub tensors: Vec<(u64, u64)>,
}

/// Does this path name such a file?
#[must_use]
pub fn is_name(path: &[u8]) -> bool {
    path.ends_with(b".safetensors")
}

impl Layout {
    /// The layout of a file of exactly `size` bytes: None if that is no multiple of 4, or leaves
    /// less than the smallest tensor.
    #[must_use]
    pub fn of(file_seed: u64, size: u64) -> Option<Self> {
        if !size.is_multiple_of(4) {
            return None;
        }
        // The header's length depends on the tensors, and their sum on the header's length: give
        // the header room until its JSON fits.
        let mut room = 0;
        loop {
            let data = size.checked_sub(8 + room).filter(|&data| data >= SMALLEST)?;
            let lengths = cut(file_seed, data);
            let json = json(&lengths);
            let wanted = json.len() as u64;
            if wanted <= room {
                return Some(Self::new(&lengths, &json, room));
            }
            room = wanted.next_multiple_of(8);
        }
    }

    fn new(lengths: &[u64], json: &str, room: u64) -> Self {
        let mut header = room.to_le_bytes().to_vec();
        header.extend_from_slice(json.as_bytes());
        header.resize(8 + room as usize, b' ');
        let mut at = header.len() as u64;
        let tensors = lengths
            .iter()
            .map(|&length| {
                at += length;
                (at - length, length)
            })
            .collect();
        Self { header, tensors }
    }
}

/// Cuts `data` bytes into lengths between the smallest and the largest, multiples of 64 but for
/// the last two.
fn cut(file_seed: u64, data: u64) -> Vec<u64> {
    let mut lengths = Vec::new();
    let mut rest = data;
    while rest >= 2 * SMALLEST {
        let draw = mix((!file_seed).wrapping_add((lengths.len() as u64).wrapping_mul(STEP)));
        // Evenly over the powers of two, as weights, biases and norms are.
        let octave = SMALLEST << (draw % (LARGEST / SMALLEST).ilog2() as u64);
        let length = octave + (draw >> 8) % octave / 64 * 64;
        lengths.push(length.min(rest - SMALLEST));
        rest -= lengths[lengths.len() - 1];
    }
    lengths.push(rest);
    lengths
}

fn json(lengths: &[u64]) -> String {
    let mut json = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut begin = 0;
    for (n, length) in lengths.iter().enumerate() {
        let end = begin + length;
        let _ = write!(
            json,
            r#","t.{n:05}":{{"dtype":"F32","shape":[{}],"data_offsets":[{begin},{end}]}}"#,
            length / 4
        );
        begin = end;
    }
    json.push('}');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_layout_sums_up_to_exactly_the_size_asked_for() {
        for size in [SMALLEST + 200, 131_332, 200_000, 1 << 20, (1 << 20) + 4, 3 << 28, 4 << 30] {
            for seed in 0..20 {
                let layout = Layout::of(mix(seed), size).unwrap();
                let mut at = layout.header.len() as u64;
                assert_eq!(at % 8, 0);
                for &(begin, length) in &layout.tensors {
                    assert_eq!(begin, at);
                    assert!((SMALLEST..=LARGEST).contains(&length), "{length}");
                    assert_eq!(length % 4, 0);
                    at += length;
                }
                assert_eq!(at, size);
            }
        }
    }

    #[test]
    fn the_header_says_what_the_layout_is() {
        let layout = Layout::of(1, 100 << 20).unwrap();
        let length = u64::from_le_bytes(layout.header[..8].try_into().unwrap());
        assert_eq!(length as usize, layout.header.len() - 8);
        let json: Value = serde_json::from_slice(&layout.header[8..]).unwrap();
        assert_eq!(json.as_object().unwrap().len(), layout.tensors.len() + 1);
        for (n, (begin, length)) in layout.tensors.iter().enumerate() {
            let entry = &json[format!("t.{n:05}")];
            let from = begin - layout.header.len() as u64;
            assert_eq!(entry["data_offsets"], serde_json::json!([from, from + length]));
            assert_eq!(entry["shape"], serde_json::json!([length / 4]));
            assert_eq!(entry["dtype"], "F32");
        }
    }

    #[test]
    fn sizes_that_no_file_can_have_are_refused() {
        assert!(Layout::of(1, (1 << 20) + 2).is_none());
        assert!(Layout::of(1, SMALLEST).is_none());
        assert!(Layout::of(1, 0).is_none());
    }
}
