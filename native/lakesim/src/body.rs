//! A body on its way over the link: paced, counted, and damaged where a fault says so.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use s3s::{Body, StdError};
use tokio::time::{Instant, Sleep};

use crate::exchange::Exchange;
use crate::link::{Crossing, Direction, TIMER_LATE};
use crate::stats::{InFlight, Stats};

/// What was sent gets out before the connection breaks: hyper forgets what it has not flushed.
const FLUSH_TIME: Duration = Duration::from_millis(50);

/// What happens to a body, and before which of its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Damage {
    /// It fails, and the connection with it.
    Truncate {
        at: u64,
    },
    /// It has been truncated and fails now.
    Fail,
    /// It ends as if this were all.
    Short {
        at: u64,
    },
    Stall {
        at: u64,
        time: Duration,
    },
    Flip {
        at: u64,
    },
}

/// Counts a body's bytes as they pass.
pub(crate) struct Meter {
    pub(crate) direction: Direction,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) stats: Arc<Stats>,
}

impl Meter {
    fn count(&self, bytes: usize) {
        let bytes = bytes as u64;
        match self.direction {
            Direction::Upload => {
                self.exchange.add_bytes_in(bytes);
                self.stats.add_bytes_in(bytes);
            }
            Direction::Download => {
                self.exchange.add_bytes_out(bytes);
                self.stats.add_bytes_out(bytes);
            }
        }
    }
}

pub(crate) struct Shaped {
    inner: Body,
    /// What came out of `inner` and has not been sent.
    held: Bytes,
    /// What has been sent and is still crossing.
    crossing_now: Option<Bytes>,
    sleep: Option<Pin<Box<Sleep>>>,
    passed: u64,
    damage: Option<Damage>,
    crossing: Option<Crossing>,
    meter: Meter,
    /// An answer is in flight until its body is dropped.
    _in_flight: Option<InFlight>,
}

impl Shaped {
    pub(crate) fn new(inner: Body, crossing: Option<Crossing>, meter: Meter) -> Self {
        Self {
            inner,
            held: Bytes::new(),
            crossing_now: None,
            sleep: None,
            passed: 0,
            damage: None,
            crossing,
            meter,
            _in_flight: None,
        }
    }

    pub(crate) fn with_damage(self, damage: Option<Damage>) -> Self {
        Self { damage, ..self }
    }

    pub(crate) fn with_guard(self, guard: InFlight) -> Self {
        Self { _in_flight: Some(guard), ..self }
    }

    fn sleep_until(&mut self, when: Instant) {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(when),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(when))),
        }
    }

    /// Where the next piece must end for `damage` to happen at its place.
    fn next_border(&self) -> u64 {
        match self.damage {
            Some(Damage::Truncate { at } | Damage::Short { at } | Damage::Stall { at, .. }) => at,
            Some(Damage::Fail) => self.passed,
            Some(Damage::Flip { .. }) | None => u64::MAX,
        }
    }

    /// The next piece of what is held, as the receiver is to get it.
    fn next_piece(&mut self) -> Bytes {
        let chunk = self.crossing.as_ref().map_or(usize::MAX, Crossing::chunk_bytes);
        let to_border = usize::try_from(self.next_border() - self.passed).unwrap_or(usize::MAX);
        let mut piece = self.held.split_to(self.held.len().min(chunk).min(to_border));
        let start = self.passed;
        self.passed += piece.len() as u64;
        if let Some(Damage::Flip { at }) = self.damage
            && (start..self.passed).contains(&at)
        {
            let mut changed = piece.to_vec();
            changed[usize::try_from(at - start).expect("within the piece")] ^= 0x40;
            piece = changed.into();
        }
        piece
    }
}

impl http_body::Body for Shaped {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        loop {
            if let Some(sleep) = &mut this.sleep
                && !sleep.is_elapsed()
            {
                ready!(sleep.as_mut().poll(cx));
            }
            if let Some(piece) = this.crossing_now.take() {
                this.meter.count(piece.len());
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if this.passed == this.next_border() {
                match this.damage.take() {
                    Some(Damage::Stall { time, .. }) => {
                        this.sleep_until(Instant::now() + time);
                        continue;
                    }
                    Some(damage @ Damage::Short { .. }) => {
                        this.damage = Some(damage);
                        return Poll::Ready(None);
                    }
                    Some(Damage::Truncate { .. }) => {
                        this.damage = Some(Damage::Fail);
                        this.sleep_until(Instant::now() + FLUSH_TIME);
                        continue;
                    }
                    _ => return Poll::Ready(Some(Err("truncated on purpose".into()))),
                }
            }
            if this.held.is_empty() {
                match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                    None => return Poll::Ready(None),
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => this.held = data,
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    },
                }
                continue;
            }
            let piece = this.next_piece();
            if let Some(crossing) = &mut this.crossing {
                let crossed = crossing.cross(piece.len()) - TIMER_LATE;
                if crossed > Instant::now() {
                    this.sleep_until(crossed);
                }
            }
            this.crossing_now = Some(piece);
        }
    }

    fn is_end_stream(&self) -> bool {
        let nothing_left = self.held.is_empty() && self.crossing_now.is_none();
        self.damage.is_none() && nothing_left && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.damage {
            Some(Damage::Short { at }) => SizeHint::with_exact(at - self.passed),
            _ if self.passed == 0 && self.held.is_empty() => self.inner.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Log;
    use crate::operation::tests::asked;
    use http_body::Body as _;
    use http_body_util::BodyExt;

    fn shaped(inner: Body, damage: Option<Damage>) -> Shaped {
        let exchange = Log::default().begin(asked("GET", "/b/k", &[]), None);
        let meter = Meter { direction: Direction::Download, exchange, stats: Arc::default() };
        Shaped::new(inner, None, meter).with_damage(damage)
    }

    /// What arrives, and whether it ended well.
    async fn receive(mut body: Shaped) -> (Vec<u8>, bool) {
        let mut received = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => received.extend_from_slice(&frame.into_data().unwrap()),
                Err(_) => return (received, false),
            }
        }
        (received, true)
    }

    const DATA: &[u8; 10] = b"0123456789";

    fn data() -> Body {
        Body::from(Bytes::from_static(DATA))
    }

    #[tokio::test]
    async fn a_body_without_damage_is_what_it_was() {
        assert_eq!(receive(shaped(data(), None)).await, (DATA.to_vec(), true));
        assert_eq!(receive(shaped(Body::empty(), None)).await, (vec![], true));
    }

    #[tokio::test]
    async fn damage_happens_at_its_place() {
        for at in 0..10 {
            let end = usize::try_from(at).unwrap();
            let cut = receive(shaped(data(), Some(Damage::Truncate { at }))).await;
            assert_eq!(cut, (DATA[..end].to_vec(), false));

            let short = shaped(data(), Some(Damage::Short { at }));
            assert_eq!(short.size_hint().exact(), Some(at));
            assert_eq!(receive(short).await, (DATA[..end].to_vec(), true));

            let (flipped, ended) = receive(shaped(data(), Some(Damage::Flip { at }))).await;
            let wrong = (0..10).filter(|n| flipped[*n] != DATA[*n]).collect::<Vec<_>>();
            assert_eq!((wrong, flipped.len(), ended), (vec![end], 10, true));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_paced_body_takes_the_time_that_its_link_claims() {
        let model = r#"{"download_connection_mb_s": 90, "download_total_mb_s": 400}"#;
        let model = serde_json::from_str(model).unwrap();
        for (length, claimed_ms) in [(90_000_000, 1000), (1_800_000, 20), (110_000, 1)] {
            let (connection, begun) = (Arc::default(), Instant::now());
            let wires = (&connection, &Arc::default());
            let crossing = Crossing::new(&model, Direction::Download, wires, begun, None);
            let mut body = shaped(Body::from(vec![7; length]), None);
            body.crossing = crossing;
            assert_eq!(receive(body).await, (vec![7; length], true));
            // Timers tick in milliseconds.
            let took = begun.elapsed();
            let claimed = Duration::from_millis(claimed_ms);
            assert!(took.abs_diff(claimed) <= Duration::from_millis(1), "{length}: {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_body_goes_on() {
        let begun = Instant::now();
        let time = Duration::from_mins(1);
        let mut body = shaped(data(), Some(Damage::Stall { at: 4, time }));
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((&first[..], begun.elapsed()), (&DATA[..4], Duration::ZERO));
        assert_eq!(receive(body).await, (DATA[4..].to_vec(), true));
        assert!(begun.elapsed() >= time);
    }
}
