//! Who has which part of the arena: the place where the control plane puts what is too large for a
//! message.
//!
//! Parts are whole units, taken from the lowest that are free, so that little of the arena is ever
//! touched. Who finds no room waits in a queue of its own (`crate::upcall::client`).

use std::sync::{Mutex, PoisonError};

use crate::shared::ARENA_BYTES;

const UNIT: usize = 64 << 10;
const UNITS: usize = ARENA_BYTES / UNIT;

pub struct Arena {
    /// Taken or not, by unit.
    taken: Mutex<[bool; UNITS]>,
}

impl Default for Arena {
    fn default() -> Self {
        Self { taken: Mutex::new([false; UNITS]) }
    }
}

/// A part of the arena, its holder's alone until it is given back.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    pub at: usize,
    pub length: usize,
}

impl Arena {
    /// At least `length` bytes, or `None` if there is no room for them now.
    pub fn take(&self, length: usize) -> Option<Part> {
        let units = length.div_ceil(UNIT).max(1);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut run = 0;
        for unit in 0..UNITS {
            run = if taken[unit] { 0 } else { run + 1 };
            if run == units {
                let first = unit + 1 - units;
                taken[first..=unit].fill(true);
                return Some(Part { at: first * UNIT, length });
            }
        }
        None
    }

    #[allow(clippy::needless_pass_by_value)] // Who gives it back has it no more.
    pub fn give_back(&self, part: Part) {
        let first = part.at / UNIT;
        let units = part.length.div_ceil(UNIT).max(1);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken[first..first + units].fill(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap_and_come_back() {
        let arena = Arena::default();
        let first = arena.take(1).unwrap();
        let second = arena.take(UNIT + 1).unwrap();
        assert_eq!((first.at, second.at), (0, UNIT));
        assert_eq!(arena.take(0).unwrap().at, 3 * UNIT);
        arena.give_back(second);
        assert_eq!(arena.take(2 * UNIT).unwrap().at, UNIT);
        arena.give_back(first);
        assert_eq!(arena.take(UNIT).unwrap().at, 0);
    }

    #[test]
    fn no_room_is_none() {
        let arena = Arena::default();
        let all = arena.take(ARENA_BYTES).unwrap();
        assert_eq!(arena.take(1), None);
        arena.give_back(all);
        assert_eq!(arena.take(ARENA_BYTES + 1), None);
    }
}
