//! A mapping without bytes behind it ends the process with an error like any other.

#![allow(unsafe_code)]

use std::fs::File;
use std::process::Command;

use loadgen::bus_error;

/// Set in the process that is to die.
const VICTIM: &str = "LOADGEN_TEST_BUS_ERROR";

#[test]
fn a_bus_error_is_an_io_error_that_names_the_file() {
    if let Some(path) = std::env::var_os(VICTIM) {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        // SAFETY: nobody else has the file; that it shrinks is what this is about.
        let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
        file.set_len(0).unwrap();
        bus_error::names(path.as_ref()).unwrap();
        println!("{}", map[5000]);
        return;
    }
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("shrinks");
    std::fs::write(&path, [1; 8192]).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_bus_error_is_an_io_error_that_names_the_file", "--nocapture"])
        .env(VICTIM, &path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains(&format!("{}: bus error", path.display())), "{errors}");
}
