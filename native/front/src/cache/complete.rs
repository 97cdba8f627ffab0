//! When all of an object is in: compare the whole with the lake's own checksum (C9).
//!
//! Ranged GETs carry no checksum of the object, so until now length, etag and TLS protected its
//! bytes. The blocks' crc64nvme combine without reading the file again; for another kind of checksum
//! the file is streamed once. A copy that does not match is thrown away, counted and logged; it is
//! fetched again, and a second mismatch is the reader's error: the lake itself holds, or sends,
//! something else than it says.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use super::Cache;
use super::copy::{Bad, Copy, Records};
use super::objects::State;
use super::read::ObjectRecords;
use super::table::Held;
use crate::checksum::{self, Checksum, ChecksumKind};
use crate::errands::Errand;
use crate::front::Front;
use crate::index::cache::CacheReader;
use crate::index::records::{Block, Stamp};
use crate::log;
use crate::stats::Stats;
use crate::upcall::wire::{self, Ask};

/// Comparisons that wait or are under way: each keeps its object, and a descriptor.
const MOST_COMPARISONS: u64 = 1024;
/// The second mismatch of one object in use is final.
const MAX_MISMATCHES: u32 = 2;

impl Cache {
    /// All blocks of an object are present. The caller marks it.
    pub fn filled(&self, object: &Held, state: &mut State) {
        if state.complete || state.completing || state.copy.is_none() {
            return;
        }
        let has_checksum = object.reference().is_some_and(|reference| reference.has_checksum);
        if state.checksum_ok || !has_checksum {
            self.finish(state);
        } else if self.comparing.fetch_add(1, Ordering::AcqRel) < MOST_COMPARISONS {
            state.completing = true;
            let completed = self.completed.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = completed.send((object.clone(), state.life));
        } else {
            self.comparing.fetch_sub(1, Ordering::AcqRel); // The next OPEN tries again.
        }
    }

    fn finish(&self, state: &mut State) {
        state.complete = true;
        // Where every block was written, from bytes that were checked, since this process began,
        // the whole is verified.
        let written = state.copy.as_deref().filter(|_| !state.restored);
        let stamp = written.and_then(|copy| self.files.stamp(copy).ok());
        state.verified = stamp.unwrap_or(Stamp::NEVER);
    }
}

/// Compare what comes, until the end of the process; one of several threads that do.
pub fn run(front: &Arc<Front>, filled: &Mutex<Receiver<(Held, u32)>>) {
    let mut index = front.cache.index.reader();
    loop {
        let next = filled.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((object, life)) = next else { return };
        check(front, &mut index, &object, life);
        object.state().completing = false;
        front.cache.comparing.fetch_sub(1, Ordering::AcqRel);
        front.cache.recorder.mark(&object);
    }
}

fn check(front: &Arc<Front>, index: &mut CacheReader, object: &Held, life: u32) {
    let cache = &front.cache;
    let expected = match ask(front, object) {
        Ok(expected) => expected,
        Err(code) => {
            // Not complete, but readable: the next open of the object tries again.
            let error = std::io::Error::from_raw_os_error(code);
            log::info(&format!("could not compare {} with the lake: {error}", object.name()));
            return;
        }
    };
    let copy = object.state().copy.clone();
    let matches = match (expected, copy) {
        (Some(expected), Some(copy)) => match compare(object, index, &copy, &expected) {
            Ok(matches) => matches,
            Err(bad) => {
                // Damage on our side: drop the block alone, so that a reader fetches it again.
                cache.damaged(object, index, &bad);
                return;
            }
        },
        _ => true,
    };
    let mut state = object.state();
    if state.life != life || !state.whole() || object.is_stale() {
        return;
    }
    if matches {
        state.checksum_ok = expected.is_some();
        cache.finish(&mut state);
        return;
    }
    Stats::count(&cache.stats.checksum_failures);
    state.mismatches += 1;
    if state.mismatches >= MAX_MISMATCHES {
        state.failure = Some(libc::EIO);
    }
    let had = object.remove_all(&mut state);
    drop(state);
    log::error(&format!(
        "the cached copy does not match the lake's checksum, dropped: {}",
        object.name()
    ));
    cache.hot.forget(object.ino);
    cache.capacity.freed(had);
    // Readers may have had some of its bytes, and the kernel may still.
    front.send(Errand::ForgetContent { command: None, ino: object.ino });
}

/// The lake's checksum of this version, or `None` if it has none after all.
fn ask(front: &Front, object: &Held) -> Result<Option<Checksum>, i32> {
    let request = wire::Request { tail: object.record.to_vec(), ..wire::Request::of(object.ino) };
    let reply = front.client.ask(Ask::Head, request, None).ok_or(libc::EIO)?;
    match reply.errno {
        0 => Ok(wire::checksum(&reply.tail)),
        libc::ESTALE => {
            object.stale.store(true, Ordering::Release);
            Ok(None)
        }
        code => Err(code),
    }
}

fn compare(
    object: &Held,
    index: &mut CacheReader,
    copy: &Copy,
    expected: &Checksum,
) -> Result<bool, Bad> {
    let mut records = ObjectRecords { object, index };
    if expected.kind == ChecksumKind::Crc64Nvme {
        let blocks: Result<Vec<Block>, Bad> = (0..object.block_count())
            .map(|number| records.block(number).ok_or(Bad::Unknown(number)))
            .collect();
        return Ok(checksum::combined(blocks?.iter()) == expected.value);
    }
    let mut running = 0;
    let (mut bytes, mut scratch) = (Vec::new(), Vec::new());
    for number in 0..object.block_count() {
        let (lo, hi) = object.extent(number);
        bytes.resize(usize::try_from(hi - lo).unwrap_or(0), 0);
        copy.read(&mut records, lo, &mut bytes, &mut scratch)?;
        running = checksum::of(expected.kind, &bytes, running);
    }
    Ok(running == expected.value)
}
