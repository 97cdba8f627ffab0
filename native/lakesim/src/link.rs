//! A modelled network link: how long until the first byte, and how fast the bytes follow.
//!
//! The first byte comes after a lognormal time. Then bytes cross two lanes, that of their
//! connection and the one that all connections share, each with a rate; uploads and downloads have
//! lanes of their own. A lane is one number, the time at which it is free again: a chunk takes the
//! lane from then on for as long as it needs. A body asks for its next chunk only when the last one
//! has crossed, so bodies that are under way at once take turns, and get equal shares.
//!
//! Time is kept as it should have been: a timer that fires late makes the next chunk's wait
//! shorter, so that rates hold over a body although timers tick in milliseconds.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The 99th percentile of the standard normal distribution.
const Z99: f64 = 2.326_347_874_040_840_8;
/// How late a body may be and still catch up. More than that was its reader's doing.
const MAX_LATE: Duration = Duration::from_millis(20);
/// Timers fire at the first whole millisecond after what they were set to: on average this late.
pub(crate) const TIMER_LATE: Duration = Duration::from_micros(500);

/// Times in milliseconds, rates in megabytes (10^6 bytes) per second; 0 is no delay and no limit.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LinkModel {
    first_byte_median_ms: f64,
    first_byte_p99_ms: f64,
    download_connection_mb_s: f64,
    download_total_mb_s: f64,
    upload_connection_mb_s: f64,
    upload_total_mb_s: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Upload,
    Download,
}

impl LinkModel {
    pub(crate) fn check(&self) -> Result<(), String> {
        let all = [
            self.first_byte_median_ms,
            self.first_byte_p99_ms,
            self.download_connection_mb_s,
            self.download_total_mb_s,
            self.upload_connection_mb_s,
            self.upload_total_mb_s,
        ];
        if all.iter().any(|value| !value.is_finite() || *value < 0.0) {
            return Err("times and rates are not negative".into());
        }
        if self.first_byte_p99_ms != 0.0 && self.first_byte_p99_ms < self.first_byte_median_ms {
            return Err("the 99th percentile is not below the median".into());
        }
        Ok(())
    }

    /// How long until the first byte, this time. Without a 99th percentile always the median.
    pub(crate) fn first_byte(&self, rng: &mut Rng) -> Duration {
        let median = self.first_byte_median_ms;
        if median == 0.0 {
            return Duration::ZERO;
        }
        let sigma = (self.first_byte_p99_ms.max(median) / median).ln() / Z99;
        // Box and Muller's normal variate; the logarithm's argument is in (0, 1].
        let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * rng.f64()).cos();
        Duration::from_secs_f64(median / 1e3 * (sigma * normal).exp())
    }

    /// Bytes per second of a connection and in total.
    fn rates(&self, direction: Direction) -> (f64, f64) {
        let (connection, total) = match direction {
            Direction::Download => (self.download_connection_mb_s, self.download_total_mb_s),
            Direction::Upload => (self.upload_connection_mb_s, self.upload_total_mb_s),
        };
        (connection * 1e6, total * 1e6)
    }
}

/// The lanes of a connection, or those that all share.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    upload: Lane,
    download: Lane,
}

impl Wire {
    fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::Upload => &self.upload,
            Direction::Download => &self.download,
        }
    }
}

/// When it is free again, if it was ever used.
#[derive(Debug, Default)]
struct Lane(Mutex<Option<Instant>>);

impl Lane {
    /// Takes the lane for *bytes* that are there from *ready* on; gives when they have crossed.
    fn cross(&self, bytes: usize, rate: f64, ready: Instant) -> Instant {
        if rate == 0.0 {
            return ready;
        }
        let mut free = self.0.lock().expect("no panic under the lock");
        let start = free.map_or(ready, |free| free.max(ready));
        #[expect(clippy::cast_precision_loss)]
        let end = start + Duration::from_secs_f64(bytes as f64 / rate);
        *free = Some(end);
        end
    }
}

/// One body's way over the link.
pub(crate) struct Crossing {
    connection: Arc<Wire>,
    shared: Arc<Wire>,
    direction: Direction,
    connection_rate: f64,
    total_rate: f64,
    /// When what was sent so far had crossed.
    crossed: Instant,
}

impl Crossing {
    /// A body that begins at *start*; none where nothing limits it. A *rate* in bytes per second is
    /// a limit of its own.
    pub(crate) fn new(
        model: &LinkModel,
        direction: Direction,
        (connection, shared): (&Arc<Wire>, &Arc<Wire>),
        start: Instant,
        rate: Option<f64>,
    ) -> Option<Self> {
        let (connection_rate, total_rate) = model.rates(direction);
        let connection_rate = match rate {
            Some(rate) if connection_rate == 0.0 => rate,
            Some(rate) => rate.min(connection_rate),
            None => connection_rate,
        };
        (connection_rate > 0.0 || total_rate > 0.0).then(|| Self {
            connection: Arc::clone(connection),
            shared: Arc::clone(shared),
            direction,
            connection_rate,
            total_rate,
            crossed: start,
        })
    }

    /// How many bytes to send at a time: two milliseconds' worth, so that turns are short.
    pub(crate) fn chunk_bytes(&self) -> usize {
        let limits = [self.connection_rate, self.total_rate];
        let rate = limits.into_iter().filter(|rate| *rate > 0.0).fold(f64::INFINITY, f64::min);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let bytes = (rate / 500.0).max((rate / 10.0).min(4096.0)) as usize;
        bytes.clamp(1, 256 << 10)
    }

    /// Sends *bytes*; gives when they have crossed.
    pub(crate) fn cross(&mut self, bytes: usize) -> Instant {
        let ready = self.crossed.max(Instant::now() - MAX_LATE);
        let lanes = [(&self.connection, self.connection_rate), (&self.shared, self.total_rate)];
        let ends = lanes.map(|(wire, rate)| wire.lane(self.direction).cross(bytes, rate, ready));
        self.crossed = ends[0].max(ends[1]);
        self.crossed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_has_the_median_and_the_99th_percentile_that_it_claims() {
        let model = LinkModel {
            first_byte_median_ms: 20.0,
            first_byte_p99_ms: 100.0,
            ..LinkModel::default()
        };
        let mut rng = Rng::with_seed(1);
        let mut found = (0..100_000).map(|_| model.first_byte(&mut rng)).collect::<Vec<_>>();
        found.sort();
        let (median, p99) = (found[50_000].as_secs_f64(), found[99_000].as_secs_f64());
        assert!((median - 0.020).abs() < 0.0004, "median {median}");
        assert!((p99 - 0.100).abs() < 0.004, "99th percentile {p99}");
    }

    #[test]
    fn without_a_model_nothing_waits() {
        let model = LinkModel::default();
        let wires = (&Arc::default(), &Arc::default());
        assert_eq!(model.first_byte(&mut Rng::with_seed(1)), Duration::ZERO);
        for direction in [Direction::Upload, Direction::Download] {
            assert!(Crossing::new(&model, direction, wires, start(), None).is_none());
        }
    }

    fn start() -> Instant {
        Instant::from_std(std::time::Instant::now())
    }

    /// Sends a body of *bytes* on a connection of its own; gives how long that took.
    async fn send(model: LinkModel, shared: Arc<Wire>, direction: Direction, bytes: usize) -> f64 {
        let (connection, start) = (Arc::default(), Instant::now());
        let wires = (&connection, &shared);
        let mut crossing = Crossing::new(&model, direction, wires, start, None).unwrap();
        let mut left = bytes;
        while left > 0 {
            let chunk = left.min(crossing.chunk_bytes());
            tokio::time::sleep_until(crossing.cross(chunk) - TIMER_LATE).await;
            left -= chunk;
        }
        start.elapsed().as_secs_f64()
    }

    const MODEL: LinkModel = LinkModel {
        first_byte_median_ms: 0.0,
        first_byte_p99_ms: 0.0,
        download_connection_mb_s: 90.0,
        download_total_mb_s: 400.0,
        upload_connection_mb_s: 0.0,
        upload_total_mb_s: 50.0,
    };

    #[tokio::test(start_paused = true)]
    async fn one_connection_gets_its_rate() {
        let took = send(MODEL, Arc::default(), Direction::Download, 90_000_000).await;
        assert!((took - 1.0).abs() < 0.01, "{took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_body_is_not_for_nothing() {
        let took = send(MODEL, Arc::default(), Direction::Download, 900_000).await;
        assert!((took - 0.010).abs() <= 0.001, "{took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn many_connections_share_the_total_evenly() {
        let shared = Arc::<Wire>::default();
        let send = |n| tokio::spawn(send(MODEL, Arc::clone(&shared), Direction::Download, n));
        // 16 bodies of 25 MB at 400 MB/s, of which one is half as long.
        let half = send(12_500_000);
        let others = (0..15).map(|_| send(25_000_000)).collect::<Vec<_>>();
        let took = half.await.unwrap();
        assert!((took - 0.5).abs() < 0.02, "half of a body in {took} s");
        for other in others {
            let took = other.await.unwrap();
            assert!((took - 387.5 / 400.0).abs() < 0.02, "a body in {took} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn directions_do_not_share() {
        let shared = Arc::<Wire>::default();
        let send = |direction, n| tokio::spawn(send(MODEL, Arc::clone(&shared), direction, n));
        let (up, down) =
            (send(Direction::Upload, 50_000_000), send(Direction::Download, 90_000_000));
        assert!((up.await.unwrap() - 1.0).abs() < 0.01);
        assert!((down.await.unwrap() - 1.0).abs() < 0.01);
    }
}
