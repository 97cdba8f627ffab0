//! Inodes that are open, and how each is read.
//!
//! The kernel lets an inode be read in one of two ways at a time: passed through to one backing
//! file, or by asking us. A second open of the other kind fails with EIO. So the way is chosen at
//! the first OPEN and remembered until the last RELEASE:
//!
//! ```text
//!          join() or add(), with a backing id          release() of the last handle
//! (closed) ----------------------------------> passed through ----------------> (closed), id closed
//!          join() or add(), without one                release() of the last handle
//! (closed) ----------------------------------> asked          ----------------> (closed)
//! ```
//!
//! O1. While an inode has a handle its backing id is open, and is that of all its handles.
//! O2. A backing id is closed before the row of its last handle is emptied, so that none outlives
//!     its rows.
//! O3. The control plane hears what is in use, and what is not any more, in the order in which it
//!     was so: it is told under the lock of the inode.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cache::table::Held;
use crate::index::names::Openable;
use crate::shared::{Opened, Shared, row_flag};
use crate::sys::device::Device;
use crate::upcall::client::Client;

const SHARDS: usize = 16;
/// Backing ids on either side of the last known one that a dying front may have left without a row:
/// more than there are threads that open.
const LOST_IDS: i32 = 64;

/// What opening and closing needs of the front.
pub struct Means<'f, T> {
    pub shared: &'f Shared,
    pub device: &'f Device,
    pub client: &'f Client<T>,
}

/// How an open inode is read.
#[derive(Clone, Debug)]
pub struct Inode {
    pub handles: u32,
    /// 0: asked.
    pub backing: i32,
    /// What it is a version of, as it was at the first OPEN; `None` where that was before this
    /// front.
    pub version: Option<Openable>,
    /// The object, where it is read here.
    pub object: Option<Held>,
    /// Its copy is to be evicted after the last RELEASE.
    pub doomed: bool,
    /// It is a staging file.
    pub staged: bool,
}

/// A handle for the answer to OPEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    pub fh: u64,
    pub backing: i32,
}

#[derive(Default)]
pub struct OpenInodes {
    shards: [Mutex<HashMap<u64, Inode>>; SHARDS],
}

impl OpenInodes {
    /// What an earlier front left open. Backing ids that no row names are closed (O1).
    pub fn restore(rows: &[Opened], shared: &Shared, device: &Device) -> Self {
        let opened = Self::default();
        for row in rows {
            let mut shard = opened.shard(row.ino);
            let staged = row.flags & row_flag::STAGED != 0;
            let inode =
                shard.entry(row.ino).or_insert_with(|| Inode { staged, ..Inode::new(row.backing) });
            inode.handles += 1;
        }
        let last = shared.saw_backing(0);
        for id in (last - LOST_IDS).max(1)..=last.saturating_add(LOST_IDS) {
            if last > 0 && !rows.iter().any(|row| row.backing == id) {
                device.close_backing(id);
            }
        }
        opened
    }

    fn shard(&self, ino: u64) -> MutexGuard<'_, HashMap<u64, Inode>> {
        let shard = usize::try_from(ino % SHARDS as u64).unwrap_or(0);
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, ino: u64) -> Option<Inode> {
        self.shard(ino).get(&ino).cloned()
    }

    /// Every open inode, while it cannot be closed.
    pub fn for_each(&self, mut visit: impl FnMut(u64, &Inode)) {
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.iter().for_each(|(&ino, inode)| visit(ino, inode));
        }
    }

    pub fn is_open(&self, ino: u64) -> bool {
        self.shard(ino).contains_key(&ino)
    }

    /// Whether `ino` is open as a staging file.
    pub fn is_staged(&self, ino: u64) -> bool {
        self.shard(ino).get(&ino).is_some_and(|inode| inode.staged)
    }

    /// Have the copy of an inode evicted after its last RELEASE; false if it is not open.
    pub fn doom(&self, ino: u64) -> bool {
        let mut shard = self.shard(ino);
        let found = shard.get_mut(&ino);
        found.map(|inode| inode.doomed = true).is_some()
    }

    /// One more handle of an inode that is open: `None` if it is not, `Some(None)` if there is no
    /// room for a handle.
    pub fn join(&self, shared: &Shared, ino: u64, unique: u64) -> Option<Option<Handle>> {
        let mut shard = self.shard(ino);
        let inode = shard.get_mut(&ino)?;
        Some(inode.add_handle(shared, ino, (unique, 0)))
    }

    /// The first handle of an inode, or one more if another thread was faster; `row`: the `unique`
    /// and the flags of its row. Where `backing` gives 0, the inode is asked for.
    pub fn add<T>(
        &self,
        means: &Means<'_, T>,
        ino: u64,
        row: (u64, u32),
        new: Inode,
        backing: impl FnOnce() -> i32,
    ) -> Option<Handle> {
        let mut shard = self.shard(ino);
        match shard.entry(ino) {
            Entry::Occupied(mut entry) => entry.get_mut().add_handle(means.shared, ino, row),
            Entry::Vacant(entry) => {
                let mut inode = Inode { backing: backing(), ..new };
                if inode.backing > 0 {
                    inode.object = None; // The kernel has it; a descriptor here would take room.
                }
                let handle = inode.add_handle(means.shared, ino, row);
                if handle.is_some() {
                    if !inode.staged {
                        means.client.usage(ino, true); // O3
                    }
                    entry.insert(inode);
                } else if inode.backing > 0 {
                    means.device.close_backing(inode.backing);
                }
                handle
            }
        }
    }

    /// Remember the object that reads of `ino` come from; false if it is not open any more.
    pub fn set_object(&self, ino: u64, object: &Held) -> bool {
        let mut shard = self.shard(ino);
        let found = shard.get_mut(&ino);
        found.map(|inode| inode.object.get_or_insert_with(|| object.clone())).is_some()
    }

    /// Remember what an open inode is a version of; the inode, if it is still open.
    pub fn identify(&self, ino: u64, version: &Openable) -> Option<Inode> {
        let mut shard = self.shard(ino);
        let inode = shard.get_mut(&ino)?;
        inode.version = Some(version.clone());
        Some(inode.clone())
    }

    /// Close a handle; what its inode was, if that was the last one.
    pub fn release<T>(&self, means: &Means<'_, T>, ino: u64, fh: u64) -> Option<Inode> {
        let Means { shared, device, client } = means;
        let mut shard = self.shard(ino);
        let Entry::Occupied(mut entry) = shard.entry(ino) else {
            shared.close_row(fh);
            return None;
        };
        if entry.get().handles == 1 && entry.get().backing > 0 && shared.has_row(fh) {
            device.close_backing(entry.get().backing); // O2
        }
        if !shared.close_row(fh) {
            return None;
        }
        entry.get_mut().handles -= 1;
        if entry.get().handles > 0 {
            return None;
        }
        if !entry.get().staged {
            client.usage(ino, false); // O3
        }
        Some(entry.remove())
    }
}

impl Inode {
    pub fn new(backing: i32) -> Self {
        Self { handles: 0, backing, version: None, object: None, doomed: false, staged: false }
    }

    fn add_handle(&mut self, shared: &Shared, ino: u64, row: (u64, u32)) -> Option<Handle> {
        let (unique, flags) = row;
        let fh = shared.open_row(ino, unique, self.backing, flags)?;
        self.handles += 1;
        Some(Handle { fh, backing: self.backing })
    }
}
