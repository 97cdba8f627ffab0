//! Every request, in the order of arrival.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use crate::exchange::Exchange;
use crate::faults::FaultKind;
use crate::operation::Asked;

/// About 300 MB of requests; the oldest go first.
const MAX_KEPT: usize = 1_000_000;

#[derive(Default)]
pub(crate) struct Log {
    kept: Mutex<Kept>,
    commits: Arc<AtomicU64>,
}

#[derive(Default)]
struct Kept {
    exchanges: VecDeque<Arc<Exchange>>,
    /// The sequence number of the next request. Never starts again.
    next: u64,
}

impl Log {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no panic under the lock")
    }

    /// Takes a request in that arrives now.
    pub(crate) fn begin(&self, asked: Asked, fault: Option<FaultKind>) -> Arc<Exchange> {
        let mut kept = self.kept();
        let exchange = Exchange::new(kept.next, asked, fault, Arc::clone(&self.commits));
        let exchange = Arc::new(exchange);
        kept.next += 1;
        if kept.exchanges.len() == MAX_KEPT {
            kept.exchanges.pop_front();
        }
        kept.exchanges.push_back(Arc::clone(&exchange));
        exchange
    }

    /// The requests numbered *since* and later, and the number to ask for next time.
    pub(crate) fn since(&self, since: u64) -> Value {
        let (found, next) = {
            let kept = self.kept();
            let first = kept.exchanges.partition_point(|exchange| exchange.sequence() < since);
            (kept.exchanges.range(first..).cloned().collect::<Vec<_>>(), kept.next)
        };
        let requests = found.iter().map(|exchange| json!(exchange.entry())).collect::<Vec<_>>();
        json!({ "requests": requests, "next": next })
    }

    pub(crate) fn clear(&self) {
        self.kept().exchanges.clear();
    }
}
