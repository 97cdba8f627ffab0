//! Rows of the names environment for files that are new: the byte tables of
//! `tierfs/index/schema.py`, to which `tests/unit/test_listing_native.py` holds this.
//!
//! They are made one by one, as they are written: a row that is gone when the next one is made takes
//! the same memory, which is in the processor's cache.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::page::{Object, Page};

/// `tierfs.index.records.Kind.FILE`.
const FILE: u8 = 2;
/// Whose owner is the mount's.
const MOUNTS_OWN: u32 = u32::MAX;
const ARCHIVED: u8 = 1;
const HAS_CHECKSUM: u8 = 2;

/// The objects of a page but for those of `without`, which is ascending, as new files of the
/// directory `parent`: each table's rows are in the order of their keys.
#[pyclass(frozen, module = "tierfs._listing")]
pub(crate) struct Rows {
    pub(crate) page: Py<Page>,
    /// How many bytes of each key are the directory's.
    pub(crate) start: usize,
    pub(crate) parent: u64,
    /// The first file's number.
    pub(crate) ino: u64,
    pub(crate) checked_ns: i64,
    pub(crate) without: Vec<usize>,
}

#[pymethods]
impl Rows {
    fn inodes(slf: Py<Self>) -> Table {
        Table::of(slf, inode)
    }

    fn dentries(slf: Py<Self>) -> Table {
        Table::of(slf, dentry)
    }

    fn children(slf: Py<Self>) -> Table {
        Table::of(slf, child)
    }

    fn objects(slf: Py<Self>) -> Table {
        Table::of(slf, object)
    }
}

/// A key and a value.
type Row = (Vec<u8>, Vec<u8>);
/// Writes the row of an object with a number.
type Pack = fn(&Rows, &Page, &Object, u64, &mut Row);

fn inode(rows: &Rows, _: &Page, object: &Object, ino: u64, row: &mut Row) {
    let (key, value) = row;
    key.extend_from_slice(&ino.to_be_bytes());
    value.extend_from_slice(&[FILE, 0, 0, 0]);
    value.extend_from_slice(&MOUNTS_OWN.to_le_bytes());
    value.extend_from_slice(&MOUNTS_OWN.to_le_bytes());
    value.extend_from_slice(&[0; 4]);
    value.extend_from_slice(&object.size.to_le_bytes());
    value.extend_from_slice(&object.mtime_ns.to_le_bytes());
    value.extend_from_slice(&rows.parent.to_le_bytes());
}

fn dentry(rows: &Rows, page: &Page, object: &Object, ino: u64, row: &mut Row) {
    let (key, value) = row;
    key.extend_from_slice(&rows.parent.to_be_bytes());
    key.extend_from_slice(page.name(object, rows.start));
    value.extend_from_slice(&ino.to_le_bytes());
    value.extend_from_slice(&rows.checked_ns.to_le_bytes());
    value.extend_from_slice(&[FILE, 0, 0, 0, 0, 0, 0, 0]);
}

fn child(rows: &Rows, page: &Page, object: &Object, ino: u64, row: &mut Row) {
    let (key, value) = row;
    key.extend_from_slice(&rows.parent.to_be_bytes());
    key.extend_from_slice(&ino.to_be_bytes());
    value.extend_from_slice(page.name(object, rows.start));
}

fn object(_: &Rows, page: &Page, object: &Object, ino: u64, row: &mut Row) {
    let (key, value) = row;
    let (path, etag) = (page.key(object), page.etag(object));
    let archived = ARCHIVED * u8::from(object.archived);
    let flags = archived + HAS_CHECKSUM * u8::from(object.has_checksum);
    key.extend_from_slice(&ino.to_be_bytes());
    value.extend_from_slice(&[flags, 0]);
    value.extend_from_slice(&length(path).to_le_bytes());
    value.extend_from_slice(&length(etag).to_le_bytes());
    value.extend_from_slice(&[0; 2]);
    value.extend_from_slice(path);
    value.extend_from_slice(etag);
}

/// `Page` has none that are longer.
fn length(bytes: &[u8]) -> u16 {
    u16::try_from(bytes.len()).unwrap_or(u16::MAX)
}

/// The rows for one table, once.
#[pyclass(module = "tierfs._listing")]
pub(crate) struct Table {
    rows: Py<Rows>,
    pack: Pack,
    /// The next object, the next number, and how many objects were left out so far.
    at: usize,
    ino: u64,
    left_out: usize,
    row: Row,
}

impl Table {
    fn of(rows: Py<Rows>, pack: Pack) -> Self {
        let ino = rows.get().ino;
        Self { rows, pack, at: 0, ino, left_out: 0, row: Row::default() }
    }
}

#[pymethods]
impl Table {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let rows = self.rows.get();
        let page = rows.page.get();
        while rows.without.get(self.left_out) == Some(&self.at) {
            self.left_out += 1;
            self.at += 1;
        }
        let Some(object) = page.objects.get(self.at) else { return Ok(None) };
        self.row.0.clear();
        self.row.1.clear();
        (self.pack)(rows, page, object, self.ino, &mut self.row);
        self.at += 1;
        self.ino += 1;
        let (key, value) = &self.row;
        PyTuple::new(py, [PyBytes::new(py, key), PyBytes::new(py, value)]).map(Some)
    }
}
