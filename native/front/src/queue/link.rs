//! Whether more requests at a time would bring more, as the answers tell.
//!
//! While an answer takes as long as it does when few are under way, the link and the store have more
//! to give; once it takes twice as long, they only wait for each other. (TCP Vegas: Brakmo and
//! Peterson, IEEE JSAC 13(8), 1995.) Answers are of about the same size here: of a block at most.

/// The part of the requests, in percent, that fill may make up: on a full link, and at most.
const LEAST: f64 = 50.0;
pub(super) const MOST: u32 = 85;
/// More by so much after an answer while they take less than so many times the shortest, and less by
/// so much when they take longer than that.
const MORE: (f64, f64) = (1.5, 0.1);
const LESS: (f64, f64) = (2.0, 0.2);
/// Answers that the mean is about, and after which another shortest one is as good as known.
const MEAN: f64 = 32.0;
const MEMORY: f64 = 4096.0;

/// What the last answers have shown.
#[derive(Debug)]
pub(super) struct Link {
    answers: f64,
    mean_us: f64,
    shortest_us: f64,
    share: f64,
}

impl Link {
    pub(super) fn new() -> Self {
        Self { answers: 0.0, mean_us: 0.0, shortest_us: f64::INFINITY, share: LEAST }
    }

    /// An answer took so long.
    pub(super) fn answered(&mut self, time_us: f64) {
        self.answers += 1.0;
        self.mean_us += (time_us - self.mean_us) / self.answers.min(MEAN);
        if self.answers < MEAN {
            return;
        }
        if self.mean_us < self.shortest_us {
            self.shortest_us = self.mean_us;
        } else {
            self.shortest_us += (self.mean_us - self.shortest_us) / MEMORY;
        }
        if self.mean_us < MORE.0 * self.shortest_us {
            self.share = f64::from(MOST).min(self.share + MORE.1);
        } else if self.mean_us > LESS.0 * self.shortest_us {
            self.share = LEAST.max(self.share - LESS.1);
        }
    }

    /// The part of the requests, in percent, that fill may make up now.
    pub(super) fn share(&self) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It is between the two.
        let share = self.share as u64;
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(link: &mut Link, answers: usize, time_us: f64) -> u64 {
        for _ in 0..answers {
            link.answered(time_us);
        }
        link.share()
    }

    #[test]
    fn a_link_with_more_to_give_is_given_more_and_a_full_one_less() {
        let mut link = Link::new();
        assert_eq!(after(&mut link, 20, 25_000.0), 50);
        assert_eq!(after(&mut link, 1000, 25_000.0), 85);
        assert_eq!(after(&mut link, 1000, 45_000.0), 85); // Neither the one nor the other.
        assert_eq!(after(&mut link, 1000, 90_000.0), 50);
        assert_eq!(after(&mut link, 1000, 25_000.0), 85);
    }

    #[test]
    fn what_was_the_shortest_is_forgotten() {
        let mut link = Link::new();
        after(&mut link, 1000, 1000.0);
        assert_eq!(after(&mut link, 2000, 25_000.0), 50);
        assert_eq!(after(&mut link, 20_000, 25_000.0), 85);
    }
}
