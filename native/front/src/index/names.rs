//! What `names/` says: entries, inodes, where objects are, how fresh directories are.

use std::path::Path;
use std::sync::Arc;

use super::lmdb::{Database, Environment, Error, Reader, Snapshot};
use super::records::{Dentry, Inode, Listing, ObjectRef, ROOT_INO, child_key, dentry_key, ino_key};
use crate::attributes::{Attributes, Rules, Ttl, now_ns};

/// The environment, to be shared by threads.
#[derive(Clone)]
pub struct Names {
    env: Arc<Environment>,
    tables: Tables,
}

#[derive(Clone, Copy)]
struct Tables {
    inodes: Database,
    dentries: Database,
    children: Database,
    objects: Database,
    listings: Database,
}

impl Names {
    pub fn open(lake_directory: &Path) -> Result<Self, Error> {
        let env = Environment::open(&lake_directory.join("names"))?;
        let names = ["inodes", "dentries", "children", "objects", "listings"];
        let [inodes, dentries, children, objects, listings] = env.databases(names)?;
        let tables = Tables { inodes, dentries, children, objects, listings };
        Ok(Self { env: Arc::new(env), tables })
    }

    pub fn reader(&self) -> NamesReader {
        NamesReader { reader: Reader::new(self.env.clone()), tables: self.tables }
    }

    pub fn errors(&self) -> u64 {
        self.env.errors()
    }
}

/// One thread's reader of `names/`.
pub struct NamesReader {
    reader: Reader,
    tables: Tables,
}

/// What the index says of a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup {
    Found(Attributes, Ttl),
    /// Believed to be absent for so long.
    Absent(Ttl),
    /// Not known, or not fresh: the control plane asks the lake.
    Ask,
}

/// A file that may be opened: its version was confirmed not too long ago.
#[derive(Clone, Debug)]
pub struct Openable {
    pub identity: [u8; 16],
    pub attributes: Attributes,
    /// Its record of `objects`; empty of one that has lost its name.
    pub record: Arc<[u8]>,
}

impl NamesReader {
    /// As `Lookups.lookup_cached` and `_absent_left_s` of `tierfs/namespace/lookup.py`.
    pub fn lookup(&mut self, rules: &Rules, parent: u64, name: &[u8]) -> Lookup {
        self.view(|view| view.lookup(rules, parent, name)).unwrap_or(Lookup::Ask)
    }

    /// The attributes of `ino`, and its parent; `None` if it has no name.
    pub fn attributes(&mut self, rules: &Rules, ino: u64) -> Option<(Attributes, u64)> {
        self.view(|view| {
            let inode = view.inode(ino)?;
            Some((rules.show(ino, &inode), inode.parent))
        })?
    }

    /// As `Lookups.object_cached`.
    pub fn openable(&mut self, rules: &Rules, ino: u64) -> Option<Openable> {
        self.view(|view| view.openable(rules, ino))?
    }

    /// Entries of directory `parent` with inode numbers over `after`, in their order, for as long
    /// as `take` says true; false if the directory is not completely and freshly listed, in which
    /// case `take` was not called.
    pub fn readdir(
        &mut self,
        rules: &Rules,
        parent: u64,
        after: u64,
        take: impl FnMut(&[u8], &Attributes, Ttl) -> bool,
    ) -> bool {
        self.view(|view| view.readdir(rules, parent, after, take)) == Some(true)
    }

    /// How many entries are known.
    pub fn entry_count(&mut self) -> u64 {
        self.view(|view| view.snapshot.entries(view.tables.dentries)).unwrap_or(0)
    }

    /// `None` if the index cannot be read, which is counted there.
    fn view<T>(&mut self, ask: impl FnOnce(&View<'_>) -> T) -> Option<T> {
        let snapshot = self.reader.snapshot().ok()?;
        Some(ask(&View { snapshot, tables: &self.tables }))
    }
}

struct View<'r> {
    snapshot: Snapshot<'r>,
    tables: &'r Tables,
}

impl View<'_> {
    fn inode(&self, ino: u64) -> Option<Inode> {
        let value = self.snapshot.get(self.tables.inodes, &ino_key(ino));
        let known = value.and_then(Inode::parse);
        if known.is_none() && value.is_none() && ino == ROOT_INO {
            Some(Inode::root())
        } else {
            known
        }
    }

    fn dentry(&self, parent: u64, name: &[u8]) -> Option<Dentry> {
        Dentry::parse(self.snapshot.get(self.tables.dentries, &dentry_key(parent, name))?)
    }

    fn listing(&self, directory: u64) -> Option<Listing> {
        Listing::parse(self.snapshot.get(self.tables.listings, &ino_key(directory))?)
    }

    /// For how long all names in `directory` are known, absences included.
    fn listed(&self, rules: &Rules, directory: u64, now_ns: i64) -> Ttl {
        match self.listing(directory) {
            Some(Listing { complete: true, checked_ns }) => rules.left(checked_ns, now_ns),
            _ => Ttl::ZERO,
        }
    }

    /// For how long `dentry` is still believed: on its own, or by its directory's listing.
    fn left(&self, rules: &Rules, parent: u64, dentry: &Dentry, now_ns: i64) -> Ttl {
        let left = rules.left(dentry.checked_ns, now_ns);
        if left.is_zero() { self.listed(rules, parent, now_ns) } else { left }
    }

    fn lookup(&self, rules: &Rules, parent: u64, name: &[u8]) -> Lookup {
        let now_ns = now_ns();
        let Some(dentry) = self.dentry(parent, name) else {
            let left = self.listed(rules, parent, now_ns).min(rules.negative_ttl);
            return if left.is_zero() { Lookup::Ask } else { Lookup::Absent(left) };
        };
        let left = self.left(rules, parent, &dentry, now_ns);
        match self.inode(dentry.ino) {
            Some(inode) if !left.is_zero() => Lookup::Found(rules.show(dentry.ino, &inode), left),
            _ => Lookup::Ask,
        }
    }

    fn openable(&self, rules: &Rules, ino: u64) -> Option<Openable> {
        let inode = self.inode(ino)?;
        let record = self.snapshot.get(self.tables.objects, &ino_key(ino))?;
        let object = ObjectRef::parse(record)?;
        if rules.ttl != Ttl::FOREVER {
            let dentry = self.dentry(inode.parent, object.name())?;
            let left = self.left(rules, inode.parent, &dentry, now_ns());
            if dentry.ino != ino || left.is_zero() {
                return None;
            }
        }
        let attributes = rules.show(ino, &inode);
        Some(Openable { identity: object.identity(), attributes, record: record.into() })
    }

    fn readdir(
        &self,
        rules: &Rules,
        parent: u64,
        after: u64,
        mut take: impl FnMut(&[u8], &Attributes, Ttl) -> bool,
    ) -> bool {
        let ttl = self.listed(rules, parent, now_ns());
        if ttl.is_zero() {
            return false;
        }
        let first = child_key(parent, after.saturating_add(1));
        let Some(entries) = self.snapshot.from(self.tables.children, &first) else { return false };
        for (key, name) in entries {
            let Some(ino) = child_of(parent, key) else { break };
            // Only a damaged index lacks an inode; such an entry cannot be shown.
            let Some(inode) = self.inode(ino) else { continue };
            if !take(name, &rules.show(ino, &inode), ttl) {
                break;
            }
        }
        true
    }
}

/// The inode number in the key of a child of `parent`; `None`: it is another directory's.
fn child_of(parent: u64, key: &[u8]) -> Option<u64> {
    let (owner, ino) = key.split_at_checked(8)?;
    (owner == parent.to_be_bytes()).then(|| Some(u64::from_be_bytes(ino.try_into().ok()?)))?
}
