//! Which requests are answered soon, and which late.
//!
//! A request's luck is a function of the seed, of the *turn*, of what it asks for and of how often
//! that was asked for in the turn. So clients that are compared, each in the same turn, wait as long
//! for the same objects, in whatever order and however many at once they ask for them: what differs
//! between them is theirs, and a few hundred requests say what would otherwise take thousands.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use fastrand::Rng;

use crate::operation::Asked;

/// Questions of a turn whose repetitions are told apart; then it is forgotten what was asked.
const MOST_QUESTIONS: usize = 1 << 20;

pub(crate) struct Latency {
    seed: u64,
    turn: u64,
    /// How often each was asked in this turn.
    asked: HashMap<u64, u32>,
}

impl Latency {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, turn: 0, asked: HashMap::new() }
    }

    pub(crate) fn turn(&self) -> u64 {
        self.turn
    }

    /// From now on it is *turn*, and nothing was asked in it yet.
    pub(crate) fn begin(&mut self, turn: u64) {
        self.turn = turn;
        self.asked.clear();
    }

    /// The random numbers of a request.
    pub(crate) fn luck(&mut self, asked: &Asked) -> Rng {
        let question = question(asked);
        if self.asked.len() >= MOST_QUESTIONS {
            self.asked.clear();
        }
        let times = self.asked.entry(question).or_default();
        *times += 1;
        Rng::with_seed(hash(&(self.seed, self.turn, question, *times)))
    }
}

/// What is asked for: of an object, or of a part that is uploaded; signatures are no part of it.
fn question(asked: &Asked) -> u64 {
    let query = asked.query.as_deref().unwrap_or_default();
    if asked.key.is_empty() {
        return hash(&(asked.operation, query));
    }
    let part = query.split('&').find(|word| word.starts_with("partNumber="));
    hash(&(asked.operation, &asked.key, &asked.range, part))
}

fn hash(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(key: &str, query: &str) -> Asked {
        Asked {
            method: "GET",
            operation: "GetObject",
            bucket: "b".into(),
            key: key.into(),
            query: Some(query.into()),
            range: None,
            conditional: false,
        }
    }

    fn lucks(latency: &mut Latency, questions: &[(&str, &str)]) -> Vec<u64> {
        questions.iter().map(|(key, query)| latency.luck(&asked(key, query)).u64(..)).collect()
    }

    #[test]
    fn who_asks_for_the_same_in_a_turn_waits_as_long() {
        let mut latency = Latency::new(7);
        latency.begin(1);
        let first = lucks(&mut latency, &[("a", "sign=1"), ("b", ""), ("a", "sign=2")]);
        assert_ne!(first[0], first[2]);
        latency.begin(1);
        let again = lucks(&mut latency, &[("b", ""), ("a", "sign=3"), ("a", "")]);
        assert_eq!([again[1], again[0], again[2]], first[..]);
        latency.begin(2);
        assert_ne!(lucks(&mut latency, &[("a", "")])[0], first[0]);
        assert_ne!(lucks(&mut Latency::new(8), &[("a", "")])[0], first[0]);
    }

    #[test]
    fn parts_of_an_upload_differ_and_listings_too() {
        let mut latency = Latency::new(7);
        let parts = [("a", "partNumber=1&uploadId=x"), ("a", "partNumber=2&uploadId=x")];
        let found = lucks(&mut latency, &parts);
        assert_ne!(found[0], found[1]);
        let pages = lucks(&mut latency, &[("", "prefix=a"), ("", "prefix=b")]);
        assert_ne!(pages[0], pages[1]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut latency = Latency::new(7);
        latency.asked = (0..MOST_QUESTIONS as u64).map(|n| (n, 1)).collect();
        lucks(&mut latency, &[("a", "")]);
        assert_eq!(latency.asked.len(), 1);
    }
}
