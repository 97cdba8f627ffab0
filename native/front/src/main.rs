//! tierfs-front: the native front of one mount. `tierfs_front` says what it is made of.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use tierfs_front::options::{Options, USAGE};
use tierfs_front::{log, run};

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprint!("tierfs-front: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    run::prepare(&options.mountpoint);
    match run::run(options) {
        // At once: threads that wait for the disk or the kernel are left behind.
        Ok(code) => std::process::exit(code.into()),
        Err(error) => {
            log::error(&format!("the native front failed: {error}"));
            std::process::exit(1);
        }
    }
}
