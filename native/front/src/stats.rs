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
    /// READs of what was cached before, and their bytes; and of what came from the lake for them.
    hits,
    hit_bytes,
    misses,
    miss_bytes,
    /// Payload of GETs.
    bytes_from_lake,
    /// Fetches whose bytes were not kept, because what would have had to go is worth more; and of how
    /// many bytes.
    declined,
    declined_bytes,
    /// GETs that the control plane answered, because our own client does not understand the lake.
    gets_asked,
    /// Blocks of cached copies that were not what their records say.
    bad_blocks,
    /// Bytes from the lake, and copies made of them, that were not what its checksums say.
    checksum_failures,
    /// What left the disk.
    evicted_files,
    evicted_extents,
    evicted_bytes,
    /// Copies verified here as a whole, and those that were not right.
    verified,
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
