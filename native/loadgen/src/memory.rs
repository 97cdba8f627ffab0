//! Bodies that are made before the clock starts, as a checkpoint is in memory before it is saved.

use crate::dataset::DataFile;
use crate::failure::Failure;
use crate::gate;

/// A body of `length` bytes of the file, from `offset` on.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    pub file: &'a DataFile,
    pub offset: u64,
    pub length: u64,
}

/// The bytes of every file, as `bodies` gives those of extents.
pub fn whole(files: &[DataFile], limit: u64) -> Result<Vec<Vec<u8>>, Failure> {
    let extents: Vec<_> =
        files.iter().map(|file| Extent { file, offset: 0, length: file.size }).collect();
    bodies(&extents, limit)
}

/// The bytes of every extent; a usage error if they are more than `limit` together.
pub fn bodies(extents: &[Extent<'_>], limit: u64) -> Result<Vec<Vec<u8>>, Failure> {
    let total: u64 = extents.iter().map(|extent| extent.length).sum();
    if total > limit {
        return Err(Failure::Usage(format!(
            "{total} bytes are to be written, and --memory is {limit}: everything is made ready \
             in memory"
        )));
    }
    Ok(gate::prepare(extents, |extent| {
        extent.file.content.bytes(extent.offset, extent.length as usize)
    }))
}
