//! One value that one thread gives and another one waits for.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Clones are the same gate.
pub struct Gate<T>(Arc<Inner<T>>);

struct Inner<T> {
    value: Mutex<Option<T>>,
    given: Condvar,
}

impl<T> Default for Gate<T> {
    fn default() -> Self {
        Self(Arc::new(Inner { value: Mutex::new(None), given: Condvar::new() }))
    }
}

impl<T> Clone for Gate<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> std::fmt::Debug for Gate<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

impl<T> Gate<T> {
    /// Give the value; the first one counts.
    pub fn give(&self, value: T) {
        let mut place = self.0.value.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is_none() {
            *place = Some(value);
        }
        self.0.given.notify_all();
    }

    /// Wait for the value, at most `patience` where that is said; to be called once.
    pub fn wait(&self, patience: Option<Duration>) -> Option<T> {
        let mut value = self.0.value.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(patience) = patience else {
            while value.is_none() {
                value = self.0.given.wait(value).unwrap_or_else(PoisonError::into_inner);
            }
            return value.take();
        };
        let waited = self.0.given.wait_timeout_while(value, patience, |value| value.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_waited_for() {
        let gate = Gate::default();
        let other = gate.clone();
        let giver = std::thread::spawn(move || other.give(5));
        assert_eq!(gate.wait(None), Some(5));
        giver.join().unwrap();
        assert_eq!(Gate::<u8>::default().wait(Some(Duration::ZERO)), None);
    }
}
