//! Which reads belong together: stream detection for one object in use. Pure; knows no clock and no
//! lake. As `tierfs/readahead/streams.py`, which tells why.
//!
//! One object may carry several streams at once, so a read is matched against many recent
//! positions, not against the last one alone; they are those of the object and not of one handle. A
//! read that matches no position is *random*: exactly what it asked for is fetched.
//!
//! A stream's life:
//!
//! ```text
//!   new --(read)--> random --(a read where it ended)--> sequential, window 1 MiB
//!   sequential --(read on)--> window of twice what was read in order, up to the largest; eight
//!                             times for a stream from the object's beginning
//!   any --(least recently matched, table full)--> forgotten
//! ```
//!
//! Reads at random have a table of their own, so that many of them do not push out a stream. A read
//! at offset 0 counts as sequential already if it is of `FIRST_READ_BYTES` or more; a smaller one
//! looks at a header, and may be followed by anything.

use std::ops::Range;

const MIB: u64 = 1 << 20;

/// The shortest read at offset 0 that is taken for the beginning of a stream.
pub const FIRST_READ_BYTES: u64 = 64 << 10;
/// How many streams an object may carry, and how many positions of random reads are remembered.
pub const MAX_STREAMS: usize = 32;
/// A stream's first window, and the smallest part fetched for it.
pub const FIRST_WINDOW_BYTES: u64 = MIB;
/// The window of a stream, in what was read of it in order; and of one that began at offset 0.
const GROWTH: u64 = 2;
const GROWTH_OF_WHOLE: u64 = 8;
/// How far ahead a long stream reads, unless told otherwise.
pub const MAX_WINDOW_BYTES: u64 = 64 * MIB;
/// The largest part. Larger ones that share the link come all at about the same time, and leave it
/// idle while the next ones are asked for.
pub const MAX_PART_BYTES: u64 = 4 * MIB;
/// Reads may arrive out of order or skip a little (the kernel sends several at once).
const MAX_SLACK_BYTES: u64 = MIB;

/// What to do about one read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    pub sequential: bool,
    /// To be asked for now, in parts of `part_bytes`; empty if there is nothing to ask for.
    pub ahead: Range<u64>,
    pub part_bytes: u64,
}

const RANDOM: Advice = Advice { sequential: false, ahead: 0..0, part_bytes: 0 };

#[derive(Debug)]
struct Stream {
    /// Where the next read is expected.
    next: u64,
    /// Bytes read in order so far.
    run: u64,
    /// Read-ahead was asked for up to here.
    asked: u64,
    /// The window, in what was read in order.
    growth: u64,
}

/// The streams of one object.
#[derive(Debug)]
pub struct StreamDetector {
    size: u64,
    max_window_bytes: u64,
    /// The most recently matched last, in both.
    streams: Vec<Stream>,
    random: Vec<Stream>,
}

impl StreamDetector {
    /// Of an object of `size` bytes.
    pub fn new(size: u64, max_window_bytes: u64) -> Self {
        let mut made = Self { size, max_window_bytes, streams: Vec::new(), random: Vec::new() };
        made.keep_within(max_window_bytes);
        made
    }

    /// Read no further ahead than this, from now on.
    pub fn keep_within(&mut self, max_window_bytes: u64) {
        self.max_window_bytes = max_window_bytes.max(FIRST_WINDOW_BYTES);
    }

    /// Take in one read of `length` bytes (more than 0) at `offset`, and say what it is.
    pub fn note(&mut self, offset: u64, length: u64) -> Advice {
        let end = offset.saturating_add(length);
        if let Some(mut stream) = self.take(offset) {
            if end > stream.next {
                stream.run += end - offset.max(stream.next);
                stream.next = end;
            }
            push(&mut self.streams, stream);
        } else {
            let growth = if offset > 0 { GROWTH } else { GROWTH_OF_WHOLE };
            let stream = Stream { next: end, run: length, asked: end, growth };
            if offset > 0 || length < FIRST_READ_BYTES {
                push(&mut self.random, stream);
                return RANDOM;
            }
            push(&mut self.streams, stream);
        }
        self.ahead()
    }

    /// The stream that a read at `offset` goes on with, the most recent one, out of its table.
    fn take(&mut self, offset: u64) -> Option<Stream> {
        let goes_on = |stream: &Stream| {
            // What is read densely in a small place is not a stream: tolerance grows with the run.
            stream.next.abs_diff(offset) <= stream.run.min(MAX_SLACK_BYTES)
        };
        if let Some(at) = self.streams.iter().rposition(goes_on) {
            return Some(self.streams.remove(at));
        }
        let at = self.random.iter().rposition(|stream| stream.next == offset)?;
        Some(self.random.remove(at))
    }

    /// What to ask for, for the stream that was matched last.
    fn ahead(&mut self) -> Advice {
        let Some(stream) = self.streams.last_mut() else { return RANDOM };
        let window = stream.run.saturating_mul(stream.growth);
        let window = window.clamp(FIRST_WINDOW_BYTES, self.max_window_bytes);
        // Sixteen parts in flight, each a power of two.
        let sixteenth = window.next_power_of_two() / 16;
        let part_bytes = sixteenth.clamp(FIRST_WINDOW_BYTES, MAX_PART_BYTES);
        let start = stream.asked.max(stream.next);
        let mut end = stream.next.saturating_add(window).min(self.size);
        // Ask in whole parts, so that requests stay large; a short tail goes with the last of them.
        if end < self.size {
            if stream.asked > stream.next {
                end -= end.saturating_sub(start) % part_bytes;
            }
            if end > start && self.size - end < part_bytes {
                end = self.size;
            }
        }
        if end <= start {
            return Advice { sequential: true, ahead: 0..0, part_bytes };
        }
        stream.asked = end;
        Advice { sequential: true, ahead: start..end, part_bytes }
    }
}

fn push(table: &mut Vec<Stream>, stream: Stream) {
    table.push(stream);
    if table.len() > MAX_STREAMS {
        table.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const GIB: u64 = 1 << 30;

    fn detector(size: u64) -> StreamDetector {
        StreamDetector::new(size, MAX_WINDOW_BYTES)
    }

    /// Numbers without a pattern, each below what is asked for.
    fn numbers() -> impl FnMut(u64) -> u64 {
        let mut state = 1u64;
        move |below| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        }
    }

    #[test]
    fn the_first_read_of_a_file_from_its_beginning_opens_a_small_window() {
        let advice = detector(GIB).note(0, 128 * KIB);
        let ahead = 128 * KIB..128 * KIB + FIRST_WINDOW_BYTES;
        assert_eq!(advice, Advice { sequential: true, ahead, part_bytes: FIRST_WINDOW_BYTES });
    }

    #[test]
    fn a_look_at_a_header_is_no_stream() {
        for length in [4 * KIB, FIRST_READ_BYTES - 1] {
            let mut detector = detector(GIB);
            assert_eq!(detector.note(0, length), RANDOM);
            assert_eq!(detector.note(500 * MIB, length), RANDOM);
        }
    }

    #[test]
    fn small_reads_in_order_from_the_beginning_are_a_stream_from_the_second_on() {
        let mut one = detector(GIB);
        assert!(!one.note(0, 4 * KIB).sequential);
        assert!(one.note(4 * KIB, 4 * KIB).sequential);
        assert!(detector(GIB).note(0, FIRST_READ_BYTES).sequential);
    }

    #[test]
    fn a_second_read_in_order_opens_a_small_window() {
        let mut detector = detector(GIB);
        assert!(!detector.note(10 * MIB, 128 * KIB).sequential);
        let advice = detector.note(10 * MIB + 128 * KIB, 128 * KIB);
        let start = 10 * MIB + 256 * KIB;
        assert!(advice.sequential);
        assert_eq!(advice.ahead, start..start + FIRST_WINDOW_BYTES);
    }

    #[test]
    fn random_reads_ask_for_nothing_more() {
        let mut number = numbers();
        let mut detector = detector(1 << 40);
        for _ in 0..2000 {
            assert_eq!(detector.note(1 + number((1 << 40) - 1), 4096), RANDOM);
        }
    }

    #[test]
    fn the_window_grows_to_its_bound_and_asks_for_everything_once() {
        let mut detector = detector(GIB);
        let (mut asked, mut widest, mut largest_part) = (0, 0, 0);
        for offset in (0..512).map(|n| n * MIB) {
            let advice = detector.note(offset, MIB);
            if !advice.ahead.is_empty() {
                assert!(advice.ahead.start >= asked);
                asked = advice.ahead.end;
            }
            widest = widest.max(asked - offset - MIB);
            largest_part = largest_part.max(advice.part_bytes);
        }
        assert!(MAX_WINDOW_BYTES - MAX_PART_BYTES < widest && widest <= MAX_WINDOW_BYTES);
        assert_eq!(largest_part, MAX_PART_BYTES);
    }

    #[test]
    fn the_window_keeps_to_the_bound_it_was_given() {
        let mut detector = StreamDetector::new(GIB, 4 * MIB);
        for offset in (0..512).map(|n| n * 128 * KIB) {
            let advice = detector.note(offset, 128 * KIB);
            assert!(advice.ahead.end <= offset + 128 * KIB + 4 * MIB);
        }
    }

    #[test]
    fn a_window_that_shrinks_asks_for_nothing_until_the_reader_comes() {
        let mut detector = detector(GIB);
        let mut asked = 0;
        for offset in (0..64).map(|n| n * MIB) {
            asked = asked.max(detector.note(offset, MIB).ahead.end);
        }
        detector.keep_within(4 * MIB);
        for offset in (64..256).map(|n| n * MIB) {
            let ahead = detector.note(offset, MIB).ahead;
            if !ahead.is_empty() {
                assert_eq!(ahead.start, asked);
                assert!(ahead.end <= offset + MIB + 4 * MIB);
                asked = ahead.end;
            }
        }
        assert!(asked > 256 * MIB);
        detector.keep_within(MAX_WINDOW_BYTES);
        assert!(detector.note(256 * MIB, MIB).ahead.end > 300 * MIB);
    }

    #[test]
    fn several_streams_of_one_object_are_told_apart() {
        let mut detector = detector(GIB << 1);
        for step in 0..8 {
            for base in (0..MAX_STREAMS as u64).map(|n| n * 64 * MIB) {
                let advice = detector.note(base + step * MIB, MIB);
                assert_eq!(advice.sequential, step > 0 || base == 0);
            }
        }
    }

    #[test]
    fn reads_at_random_do_not_push_out_a_stream() {
        let mut number = numbers();
        let mut detector = detector(1 << 40);
        for step in 0..8 {
            assert!(detector.note(step * MIB, MIB).sequential);
            for _ in 0..2 * MAX_STREAMS {
                assert!(!detector.note(GIB + number((1 << 40) - GIB), 4096).sequential);
            }
        }
    }

    #[test]
    fn reads_out_of_order_stay_one_stream() {
        let mut detector = detector(GIB);
        let order = [0, 1, 3, 2, 5, 4, 7, 6, 8, 10, 9];
        let random = order.map(|n| !detector.note(n * 128 * KIB, 128 * KIB).sequential);
        // One piece that runs ahead of the very first may look random; nothing else does.
        assert!(random.into_iter().filter(|&random| random).count() <= 1);
    }

    #[test]
    fn a_seek_ends_the_stream_but_not_for_ever() {
        let mut detector = detector(GIB);
        for offset in (0..8).map(|n| n * MIB) {
            detector.note(offset, MIB);
        }
        assert!(!detector.note(500 * MIB, MIB).sequential);
        assert!(detector.note(8 * MIB, MIB).sequential);
    }

    #[test]
    fn advice_stays_inside_the_object() {
        let mut number = numbers();
        for _ in 0..500 {
            let size = 1 + number(40 * MIB);
            let mut detector = detector(size);
            for _ in 0..50 {
                // Half of the reads go on where one ended.
                let known = detector.streams.last().or(detector.random.last());
                let goes_on = known.filter(|stream| stream.next < size && number(2) == 0);
                let offset = goes_on.map_or_else(|| number(size), |stream| stream.next);
                let advice = detector.note(offset, (1 + number(MIB)).min(size - offset));
                assert!(advice.ahead.start <= advice.ahead.end && advice.ahead.end <= size);
                assert!(detector.streams.len().max(detector.random.len()) <= MAX_STREAMS);
            }
        }
    }

    #[test]
    fn advice_is_that_of_the_control_plane() {
        // Four streams that stumble among reads at random; `StreamDetector` of
        // `tierfs/readahead/streams.py` gives the same digest of 20,000 pieces of advice.
        let mut number = numbers();
        let size = 4 * GIB;
        let mut detector = StreamDetector::new(size, 24 * MIB + 1);
        let (mut ends, mut digest) = ([0; 4], 0u64);
        for _ in 0..20_000 {
            let which = usize::try_from(number(6)).unwrap();
            let mut offset = ends.get(which).copied().unwrap_or_else(|| number(size));
            if which < 4 && number(8) == 0 {
                offset += number(300 * KIB);
            }
            if which < 4 && number(40) == 0 {
                offset = number(size);
            }
            let length = if number(4) > 0 { 1 + number(MIB) } else { 128 * KIB };
            if offset >= size {
                offset = 0;
            }
            let length = length.min(size - offset);
            if which < 4 {
                ends[which] = offset + length;
            }
            let Advice { sequential, ahead, part_bytes } = detector.note(offset, length);
            for value in [u64::from(sequential), ahead.start, ahead.end, part_bytes] {
                digest = digest.wrapping_mul(31).wrapping_add(value);
            }
        }
        assert_eq!(digest, 0xF429_0D8E_DF45_ED3C);
    }
}
