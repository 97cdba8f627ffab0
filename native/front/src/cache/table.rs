//! The table of objects in use.
//!
//! Either an object is in the table, with its users counted, or the index alone speaks for it. Who
//! becomes a user waits only where an eviction of the same inode is under way.
//!
//! Locks: a shard's is taken under an object's state, never the other way round.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::objects::Object;

const SHARDS: u64 = 16;

/// Objects in use by inode.
pub struct Table {
    shards: Vec<Shard>,
    /// Told of objects whose last user has left, if something is to be done about them.
    left: Mutex<Sender<Arc<Object>>>,
}

#[derive(Default)]
struct Shard {
    state: Mutex<State>,
    evicted: Condvar,
}

#[derive(Default)]
struct State {
    objects: HashMap<u64, InUse>,
    /// Being evicted: nobody may become a user.
    leaving: HashSet<u64>,
}

struct InUse {
    object: Arc<Object>,
    users: usize,
}

impl Table {
    pub fn new(left: Sender<Arc<Object>>) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Arc::new(Self { shards, left: Mutex::new(left) })
    }

    fn shard(&self, ino: u64) -> &Shard {
        &self.shards[usize::try_from(ino % SHARDS).unwrap_or(0)]
    }

    /// The object, if it is in use; one more user of it.
    pub fn get(self: &Arc<Self>, ino: u64) -> Option<Held> {
        let mut state = self.shard(ino).lock();
        let found = state.objects.get_mut(&ino)?;
        found.users += 1;
        Some(Held { object: found.object.clone(), table: self.clone() })
    }

    /// Become a user of an object, which `load` makes if it is not in use. `load` runs under the
    /// lock, so it is called once for all who come at the same time.
    pub fn acquire(self: &Arc<Self>, ino: u64, load: impl FnOnce() -> Object) -> Held {
        let shard = self.shard(ino);
        let mut state = shard.lock();
        while state.leaving.contains(&ino) {
            state = shard.evicted.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let found = match state.objects.entry(ino) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(place) => place.insert(InUse { object: Arc::new(load()), users: 0 }),
        };
        found.users += 1;
        Held { object: found.object.clone(), table: self.clone() }
    }

    pub fn contains(&self, ino: u64) -> bool {
        self.shard(ino).lock().objects.contains_key(&ino)
    }

    /// Keep out whoever wants to use `ino`, until the result is dropped; `None` if it is in use, or
    /// on its way already.
    pub fn leave(self: &Arc<Self>, ino: u64) -> Option<Leaving> {
        let mut state = self.shard(ino).lock();
        let free = !state.objects.contains_key(&ino) && state.leaving.insert(ino);
        free.then(|| Leaving { ino, table: self.clone() })
    }

    fn release(&self, object: &Arc<Object>) {
        use std::sync::atomic::Ordering::Acquire;
        let mut state = self.shard(object.ino).lock();
        let Some(found) = state.objects.get_mut(&object.ino) else { return };
        found.users -= 1;
        if found.users > 0 {
            return;
        }
        state.objects.remove(&object.ino);
        drop(state);
        if [&object.doomed, &object.stale, &object.unrecorded].iter().any(|flag| flag.load(Acquire))
        {
            let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = left.send(object.clone()); // At the end of this process it stays for the next.
        }
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A user of an object.
pub struct Held {
    object: Arc<Object>,
    table: Arc<Table>,
}

impl Held {
    /// Whether `other` is the same object, not one that came later.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.object, &other.object)
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        let mut state = self.table.shard(self.object.ino).lock();
        if let Some(found) = state.objects.get_mut(&self.object.ino) {
            found.users += 1;
        }
        Self { object: self.object.clone(), table: self.table.clone() }
    }
}

impl Deref for Held {
    type Target = Object;

    fn deref(&self) -> &Object {
        &self.object
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.table.release(&self.object);
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Held({})", self.object.ino)
    }
}

/// An inode that is being evicted.
pub struct Leaving {
    pub ino: u64,
    table: Arc<Table>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let shard = self.table.shard(self.ino);
        shard.lock().leaving.remove(&self.ino);
        shard.evicted.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    use super::*;

    fn table() -> (Arc<Table>, Receiver<Arc<Object>>) {
        let (sender, receiver) = channel();
        (Table::new(sender), receiver)
    }

    fn object(ino: u64) -> Object {
        Object::new(ino, 10, [0; 16], Box::default(), 0)
    }

    #[test]
    fn an_object_stays_as_long_as_somebody_uses_it() {
        let (table, left) = table();
        let first = table.acquire(16, || object(16));
        let second = table.acquire(16, || panic!("it is in use"));
        assert!(first.is(&second));
        let third = second.clone();
        drop((first, second));
        assert!(table.contains(16) && table.leave(16).is_none());
        third.doomed.store(true, Ordering::Release);
        drop(third);
        assert!(!table.contains(16) && table.get(16).is_none());
        assert_eq!(left.try_recv().unwrap().ino, 16);
        drop(table.acquire(16, || object(16)));
        assert!(left.try_recv().is_err()); // There was nothing to be done about that one.
    }

    #[test]
    fn who_comes_during_an_eviction_waits_for_its_end() {
        let (table, _left) = table();
        let leaving = table.leave(16).unwrap();
        assert!(table.leave(16).is_none());
        let other = table.clone();
        let comer = thread::spawn(move || other.acquire(16, || object(16)).ino);
        while !comer.is_finished() && table.contains(16) {
            thread::yield_now();
        }
        assert!(!table.contains(16));
        drop(leaving);
        assert_eq!(comer.join().unwrap(), 16);
    }
}
