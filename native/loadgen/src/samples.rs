//! The samples that standard input lists, with the hash that each should have.

use std::collections::HashMap;

use crate::dataset::{DataFile, DataSet};
use crate::failure::Failure;
use crate::gate;
use crate::input;
use crate::small::Mode;

/// A range of a file.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Index into [`Samples::files`].
    pub file: usize,
    pub offset: u64,
    /// In bytes.
    pub length: usize,
    /// The `xxh3_64` of its bytes.
    pub hash: u64,
}

#[derive(Debug, Default)]
pub struct Samples {
    pub files: Vec<DataFile>,
    /// In the order of the lines.
    pub list: Vec<Sample>,
}

impl Samples {
    /// What the lines list for that way of reading.
    pub fn of(mode: Mode, data: &DataSet, lines: &[u8]) -> Result<Self, Failure> {
        match mode {
            Mode::Files => Self::whole_files(data, lines),
            Mode::Ranges => Self::ranges(data, lines),
        }
    }

    /// Whole files: `SIZE<TAB>PATH`, or `PATH` alone, whose size is then asked of the file system.
    pub fn whole_files(data: &DataSet, lines: &[u8]) -> Result<Self, Failure> {
        let mut samples = Self::default();
        for line in input::lines(lines) {
            let file = if line.contains(&b'\t') {
                let [size, path] = input::fields(line)?;
                data.file(path, Some(input::number(line, size)?))?
            } else {
                data.file(line, None)?
            };
            samples.push(samples.files.len(), 0, file.size);
            samples.files.push(file);
        }
        Ok(samples.hashed())
    }

    /// Ranges of files: `OFFSET<TAB>LENGTH<TAB>PATH`.
    pub fn ranges(data: &DataSet, lines: &[u8]) -> Result<Self, Failure> {
        let mut samples = Self::default();
        let mut known: HashMap<&[u8], usize> = HashMap::new();
        for line in input::lines(lines) {
            let [offset, length, path] = input::fields(line)?;
            let file = match known.get(path) {
                Some(&file) => file,
                None => {
                    known.insert(path, samples.files.len());
                    samples.files.push(data.file_of_ranges(path)?);
                    samples.files.len() - 1
                }
            };
            samples.push(file, input::number(line, offset)?, input::number(line, length)?);
        }
        Ok(samples.hashed())
    }

    fn push(&mut self, file: usize, offset: u64, length: u64) {
        self.list.push(Sample { file, offset, length: length as usize, hash: 0 });
    }

    fn hashed(mut self) -> Self {
        let hashes = gate::prepare(&self.list, |sample| {
            self.files[sample.file].content.hash(sample.offset, sample.length as u64)
        });
        for (sample, hash) in self.list.iter_mut().zip(hashes) {
            sample.hash = hash;
        }
        self
    }
}
