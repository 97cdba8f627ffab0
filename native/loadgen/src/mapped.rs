//! A model's weights by mmap(2), the way safetensors loads them: the header first, then tensor by
//! tensor, in whatever order the model asks for them. Files one after the other, in one thread.

use std::time::Instant;

use memmap2::Mmap;
use serde_json::{Value, json};

use crate::bus_error;
use crate::content::{STEP, mix};
use crate::dataset::{DataFile, DataSet};
use crate::failure::Failure;
use crate::gate::{self, Gate};
use crate::input;
use crate::safetensors::{self, Layout};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The order of the tensors
    #[arg(long, value_name = "X", default_value_t = 0)]
    pub order_seed: u64,
    /// The files' size, where it is not to be asked of the file system before the clock starts
    #[arg(long, value_name = "SIZE", value_parser = input::parse_size)]
    pub size: Option<u64>,
    /// Files of the data set whose names end in .safetensors
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<std::ffi::OsString>,
}

/// A file and what its header and its tensors should be.
struct Model {
    file: DataFile,
    layout: Layout,
    /// One for each tensor of the layout.
    hashes: Vec<u64>,
}

pub fn run(data: &DataSet, options: &Options) -> Result<Value, Failure> {
    let mut models = Vec::new();
    for path in &options.paths {
        models.push(Model::of(data, path.as_encoded_bytes(), options.size)?);
    }
    let order_seed = options.order_seed;
    let worker = move |gate: &Gate<(u64, f64)>| {
        let start = gate.wait();
        let (mut bytes, mut first_tensor_s) = (0, None);
        for model in &models {
            bytes += model.read(order_seed, start, &mut first_tensor_s)?;
        }
        Ok((bytes, first_tensor_s.unwrap_or(0.0)))
    };
    let finished = gate::run(vec![worker])?;
    let (bytes, first_tensor_s) = finished.results[0];
    Ok(json!({
        "bytes": bytes,
        "seconds": finished.seconds,
        "cpu_s": finished.cpu_s,
        "first_tensor_s": first_tensor_s,
    }))
}

impl Model {
    fn of(data: &DataSet, path: &[u8], size: Option<u64>) -> Result<Self, Failure> {
        if !safetensors::is_name(path) {
            let name = String::from_utf8_lossy(path);
            return Err(Failure::Usage(format!("{name}: is no .safetensors file")));
        }
        let file = data.file(path, size)?;
        let layout = Layout::of(file.content.file_seed(), file.size)
            .expect("its content was made from the same layout");
        let hashes = gate::prepare(&layout.tensors, |&(at, length)| file.content.hash(at, length));
        Ok(Self { file, layout, hashes })
    }

    /// Maps the file and reads all of it; returns how much that was.
    fn read(
        &self,
        order_seed: u64,
        start: Instant,
        first_tensor_s: &mut Option<f64>,
    ) -> Result<u64, Failure> {
        let file = &self.file;
        let failed = |error| file.failed(error);
        bus_error::names(file.location()).map_err(failed)?;
        let opened = file.open()?;
        let length = opened.metadata().map_err(failed)?.len();
        if length != file.size {
            return Err(file.wrong_length(length, file.size));
        }
        let map = map(&opened).map_err(failed)?;
        file.compare(0, &map[..self.layout.header.len()])?;
        // What the header says, and not what is known of it: parsing it is a loader's work.
        let tensors = tensors(&map).filter(|found| *found == self.layout.tensors);
        let tensors = tensors.ok_or_else(|| Failure::Wrong {
            path: file.location().display().to_string(),
            offset: 0,
        })?;
        for n in shuffled(tensors.len(), order_seed) {
            let (at, length) = tensors[n];
            file.verify(at, &map[at as usize..(at + length) as usize], self.hashes[n])?;
            first_tensor_s.get_or_insert_with(|| start.elapsed().as_secs_f64());
        }
        Ok(length)
    }
}

#[allow(unsafe_code)]
fn map(file: &std::fs::File) -> std::io::Result<Mmap> {
    // SAFETY: the bytes may change under the mapping (that is what is being tested), and they are
    // only read, as bytes, each once; a file that shrinks raises SIGBUS, which is handled.
    unsafe { Mmap::map(file) }
}

/// Offset in the file and length of each tensor that the header lists, in the order of the file.
fn tensors(map: &[u8]) -> Option<Vec<(u64, u64)>> {
    let length = u64::from_le_bytes(*map.first_chunk()?);
    let begin = length.checked_add(8)?;
    let header: Value = serde_json::from_slice(map.get(8..usize::try_from(begin).ok()?)?).ok()?;
    let mut tensors = Vec::new();
    for (name, entry) in header.as_object()? {
        if name == "__metadata__" {
            continue;
        }
        let from = entry["data_offsets"][0].as_u64()?;
        let to = entry["data_offsets"][1].as_u64()?;
        tensors.push((begin.checked_add(from)?, to.checked_sub(from)?));
    }
    tensors.sort_unstable();
    Some(tensors)
}

/// The numbers below `count`, shuffled (Fisher and Yates).
fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        let draw = mix(seed.wrapping_add((last as u64).wrapping_mul(STEP)));
        order.swap(last, (draw % (last as u64 + 1)) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_read_from_the_header() {
        let layout = Layout::of(5, 40 << 20).unwrap();
        assert_eq!(tensors(&layout.header).unwrap(), layout.tensors);
        for wrong in [b"" as &[u8], b"\x08\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]", &[255; 99]] {
            assert!(tensors(wrong).is_none());
        }
    }

    #[test]
    fn an_order_is_a_permutation_and_follows_its_seed() {
        let order = shuffled(100, 1);
        assert_ne!(order, shuffled(100, 2));
        assert_eq!(order, shuffled(100, 1));
        let mut sorted = order;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }
}
