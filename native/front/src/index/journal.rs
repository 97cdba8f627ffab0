//! What `journal/` decides: names and inodes of write-back directories, which are the control
//! plane's to speak of.
//!
//! Only whether it decides is read here, and of directories what they are and whether the lake knows
//! anything of them: `tierfs/writeback/records.py` has the tables. What cannot be read is taken to be
//! decided there, so that the control plane is asked.

use std::path::Path;
use std::sync::Arc;

use super::lmdb::{Database, Environment, Error, Reader, Snapshot};
use super::records::{Kind, dentry_key, ino_key, u16_at, u32_at, u64_at};
use crate::attributes::Attributes;

/// `Flag.FRESH`: a directory of which the lake knows nothing.
const FRESH: u8 = 4;
const FLAGS_AT: usize = 1;

/// The environment, to be shared by threads.
#[derive(Clone)]
pub struct Journal {
    env: Arc<Environment>,
    nodes: Database,
    entries: Database,
}

/// Whose a name is.
#[derive(Debug, PartialEq, Eq)]
pub enum Whose {
    /// The lake's, as the index knows it.
    Lakes,
    /// The journal has it.
    Journals,
    /// The journal says that it is absent, whatever the lake has.
    Nobodys,
}

impl Journal {
    pub fn open(lake_directory: &Path) -> Result<Self, Error> {
        let env = Environment::open(&lake_directory.join("journal"))?;
        let [nodes, entries] = env.databases(["nodes", "entries"])?;
        Ok(Self { env: Arc::new(env), nodes, entries })
    }

    pub fn reader(&self) -> JournalReader {
        let reader = Reader::new(self.env.clone());
        JournalReader { reader, nodes: self.nodes, entries: self.entries }
    }
}

/// One thread's reader of `journal/`.
pub struct JournalReader {
    reader: Reader,
    nodes: Database,
    entries: Database,
}

impl JournalReader {
    /// Whose `name` in the directory `parent` is.
    pub fn whose(&mut self, parent: u64, name: &[u8]) -> Whose {
        let (nodes, entries) = (self.nodes, self.entries);
        self.view(|snapshot| {
            if let Some(ino) = snapshot.get(entries, &dentry_key(parent, name)) {
                return if ino == [0; 8] { Whose::Nobodys } else { Whose::Journals };
            }
            let directory = snapshot.get(nodes, &ino_key(parent));
            let fresh =
                directory.and_then(|node| node.get(FLAGS_AT)).is_some_and(|bits| bits & FRESH != 0);
            if fresh { Whose::Nobodys } else { Whose::Lakes }
        })
        .unwrap_or(Whose::Journals)
    }

    /// Whether it knows the inode `ino`.
    pub fn has_node(&mut self, ino: u64) -> bool {
        let nodes = self.nodes;
        self.view(|snapshot| snapshot.get(nodes, &ino_key(ino)).is_some()).unwrap_or(true)
    }

    /// What the directory `ino` is; `None`: it is the lake's, or no directory. The kernel asks after
    /// each change in it.
    pub fn directory(&mut self, ino: u64) -> Option<Attributes> {
        let nodes = self.nodes;
        self.view(|snapshot| directory(ino, snapshot.get(nodes, &ino_key(ino))?))?
    }

    /// Whether it decides about any name in the directory `parent`, or knows the directory itself.
    pub fn has_entries(&mut self, parent: u64) -> bool {
        let (nodes, entries) = (self.nodes, self.entries);
        self.view(|snapshot| {
            let prefix = ino_key(parent);
            let first = snapshot.from(entries, &prefix).and_then(|mut rows| rows.next());
            first.is_some_and(|(key, _)| key.starts_with(&prefix))
                || snapshot.get(nodes, &prefix).is_some()
        })
        .unwrap_or(true)
    }

    fn view<T>(&mut self, ask: impl FnOnce(&Snapshot<'_>) -> T) -> Option<T> {
        Some(ask(&self.reader.snapshot().ok()?))
    }
}

/// The directory that a record of `nodes` is. One that is open and has lost its name has no record.
fn directory(ino: u64, node: &[u8]) -> Option<Attributes> {
    if Kind::from_byte(*node.first()?)? != Kind::Directory {
        return None;
    }
    Some(Attributes {
        ino,
        mode: libc::S_IFDIR | u32::from(u16_at(node, 2)?),
        uid: u32_at(node, 4)?,
        gid: u32_at(node, 8)?,
        size: u64_at(node, 16)?,
        mtime_ns: u64_at(node, 24)?.cast_signed(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    fn golden(name: &str) -> Vec<u8> {
        golden::bytes(&golden::file("journal/records.json"), "records", name)
    }

    #[test]
    fn a_directory_is_what_its_record_says() {
        let record = golden("nodes value, directory");
        let expected =
            Attributes { ino: 77, mode: 0o040_755, uid: 0, gid: 0, size: 0, mtime_ns: -1 };
        assert_eq!(directory(77, &record), Some(expected));
        for length in 0..32 {
            assert_eq!(directory(77, &record[..length]), None);
        }
        for other in ["nodes value, file", "nodes value, link", "nodes value, zeros"] {
            assert_eq!(directory(77, &golden(other)), None);
        }
    }
}
