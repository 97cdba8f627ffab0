//! Rows of the names environment for files that are new: the byte tables of
//! `tierfs/index/schema.py`, to which `tests/unit/test_listing_native.py` holds this.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::page::{Object, Page};

/// `tierfs.index.records.Kind.FILE`.
const FILE: u8 = 2;
/// Whose owner is the mount's.
const MOUNTS_OWN: u32 = u32::MAX;
const ARCHIVED: u8 = 1;
const HAS_CHECKSUM: u8 = 2;

pub(crate) fn pack<'py, 'a>(
    py: Python<'py>,
    page: &'a Page,
    new: impl Iterator<Item = &'a Object>,
    start: usize,
    parent: u64,
    ino: u64,
    checked_ns: i64,
) -> PyResult<[Bound<'py, PyList>; 4]> {
    let tables: [Bound<'py, PyList>; 4] = std::array::from_fn(|_| PyList::empty(py));
    let row = |table: usize, key: &Bound<'py, PyBytes>, value: &[u8]| -> PyResult<()> {
        tables[table].append(PyTuple::new(py, [key, &PyBytes::new(py, value)])?)
    };
    let mut key = Vec::new();
    let mut value = Vec::new();
    for (object, ino) in new.zip(ino..) {
        let name = page.name(object, start);
        let ino_key = PyBytes::new(py, &ino.to_be_bytes());

        value.clear();
        value.extend_from_slice(&[FILE, 0, 0, 0]);
        value.extend_from_slice(&MOUNTS_OWN.to_le_bytes());
        value.extend_from_slice(&MOUNTS_OWN.to_le_bytes());
        value.extend_from_slice(&[0; 4]);
        value.extend_from_slice(&object.size.to_le_bytes());
        value.extend_from_slice(&object.mtime_ns.to_le_bytes());
        value.extend_from_slice(&parent.to_le_bytes());
        row(0, &ino_key, &value)?;

        key.clear();
        key.extend_from_slice(&parent.to_be_bytes());
        key.extend_from_slice(name);
        value.clear();
        value.extend_from_slice(&ino.to_le_bytes());
        value.extend_from_slice(&checked_ns.to_le_bytes());
        value.extend_from_slice(&[FILE, 0, 0, 0, 0, 0, 0, 0]);
        row(1, &PyBytes::new(py, &key), &value)?;

        key.truncate(8);
        key.extend_from_slice(&ino.to_be_bytes());
        row(2, &PyBytes::new(py, &key), name)?;

        let (path, etag) = (page.key(object), page.etag(object));
        let archived = ARCHIVED * u8::from(object.archived);
        let flags = archived + HAS_CHECKSUM * u8::from(object.has_checksum);
        value.clear();
        value.extend_from_slice(&[flags, 0]);
        value.extend_from_slice(&length(path)?.to_le_bytes());
        value.extend_from_slice(&length(etag)?.to_le_bytes());
        value.extend_from_slice(&[0; 2]);
        value.extend_from_slice(path);
        value.extend_from_slice(etag);
        row(3, &ino_key, &value)?;
    }
    Ok(tables)
}

fn length(bytes: &[u8]) -> PyResult<u16> {
    Ok(u16::try_from(bytes.len())?)
}
