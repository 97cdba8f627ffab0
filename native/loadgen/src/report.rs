//! Latencies, counted in a histogram of fixed size, and their percentiles.

use std::time::Duration;

use serde_json::{Value, json};

/// Each power of two has this many buckets: a percentile is right to 0.4 %.
const SUB_BITS: u32 = 7;
const SUB: usize = 1 << SUB_BITS;

/// Durations by size, to the nanosecond below 128 ns and to 1/128 above.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let octaves = (u64::BITS - SUB_BITS + 1) as usize;
        Self { counts: vec![0; octaves * SUB], count: 0, max_ns: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.count += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// The duration that `share` (0 to 1) of all did not exceed, by nearest rank; 0 of none.
    #[must_use]
    pub fn percentile_ns(&self, share: f64) -> u64 {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle(bucket).min(self.max_ns);
            }
        }
        0
    }

    /// `{"p50", "p90", "p99", "max"}` in microseconds.
    #[must_use]
    pub fn json_us(&self) -> Value {
        let us = |ns: u64| (ns as f64 / 100.0).round() / 10.0;
        json!({
            "p50": us(self.percentile_ns(0.5)),
            "p90": us(self.percentile_ns(0.9)),
            "p99": us(self.percentile_ns(0.99)),
            "max": us(self.max_ns),
        })
    }
}

fn bucket(ns: u64) -> usize {
    if ns < SUB as u64 {
        return ns as usize;
    }
    let shift = ns.ilog2() - SUB_BITS;
    (shift as usize) * SUB + (ns >> shift) as usize
}

/// The middle of a bucket.
fn middle(bucket: usize) -> u64 {
    if bucket < 2 * SUB {
        return bucket as u64;
    }
    let shift = bucket / SUB - 1;
    let within = (bucket % SUB + SUB) as u64;
    (within << shift) + (1 << (shift - 1))
}

/// All of several threads' histograms.
pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Histogram>) -> Histogram {
    let mut all = Histogram::default();
    for part in parts {
        all.merge(part);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::mix;

    #[test]
    fn percentiles_are_those_of_the_sorted_list_to_a_bucket() {
        let mut all: Vec<u64> = (0..10_000).map(|n| mix(n) >> (20 + n % 40)).collect();
        let mut parts = [Histogram::default(), Histogram::default()];
        for (n, &ns) in all.iter().enumerate() {
            parts[n % 2].record(Duration::from_nanos(ns));
        }
        all.sort_unstable();
        let histogram = merged(&parts);
        for (share, rank) in [(0.0, 1), (0.5, 5000), (0.9, 9000), (0.99, 9900), (1.0, 10_000)] {
            let (got, exact) = (histogram.percentile_ns(share), all[rank - 1]);
            assert!(got.abs_diff(exact) as f64 <= exact as f64 / 256.0 + 1.0, "{got} {exact}");
        }
        assert_eq!(histogram.max_ns, all[9_999]);
    }

    #[test]
    fn short_durations_are_exact_and_long_ones_fit() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile_ns(0.5), 0);
        histogram.record(Duration::from_nanos(100));
        assert_eq!(histogram.percentile_ns(0.5), 100);
        histogram.record(Duration::MAX);
        assert_eq!(histogram.max_ns, u64::MAX);
        assert_eq!(histogram.json_us()["p50"], 0.1);
    }

    #[test]
    fn buckets_follow_each_other() {
        for bucket_of in 0..(u64::BITS - SUB_BITS + 1) as usize * SUB {
            assert_eq!(bucket(middle(bucket_of)), bucket_of);
        }
    }
}
