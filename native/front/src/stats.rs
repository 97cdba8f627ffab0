//! What this front counts, for `tierfs status`.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        /// Counters since this process began.
        #[derive(Default)]
        pub struct Stats { $($(#[$meta])* pub $name: AtomicU64,)* }

        impl Stats {
            fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Requests of the kernel's.
    requests,
    /// Upcalls sent for them.
    upcalls,
    /// Requests of a front that died.
    replayed,
    /// OPENs that passed through.
    opens_passed_through,
    /// Other OPENs.
    opens_asked,
    /// READs answered from cached copies here, and their bytes.
    hits,
    hit_bytes,
    /// Copies verified here as a whole.
    verified,
    /// Blocks or copies that did not verify: the control plane looks into them.
    unverified,
    /// Backing files that the kernel refused.
    passthrough_refused,
    /// Malformed requests.
    malformed,
}

impl Stats {
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Lines of `name value`, those of `more` among them.
    pub fn text(&self, more: &[(&str, u64)]) -> String {
        let mut text = String::new();
        for (name, value) in self.all().into_iter().chain(more.iter().copied()) {
            let _ = writeln!(text, "{name} {value}");
        }
        text
    }
}
