//! Log lines as the keeper writes them: `tierfs[/mnt/lake]: warning: message` on standard error,
//! under systemd behind their priority.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

struct Log {
    subject: String,
    journal: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Say whose lines these are; to be called once.
pub fn set_up(mountpoint: &str) {
    let _ = LOG.set(Log { subject: mountpoint.escape_debug().to_string(), journal: is_journal() });
}

/// Whether standard error is the stream to journald that `JOURNAL_STREAM` names.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(status) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", status.dev(), status.ino())
}

fn write(level: &str, priority: u8, message: &str) {
    let Some(log) = LOG.get() else { return };
    let prefix = if log.journal { format!("<{priority}>") } else { String::new() };
    let line = format!("{prefix}tierfs[{}]: {level}: {}\n", log.subject, message.escape_debug());
    let _ = std::io::stderr().write_all(line.as_bytes());
}

pub fn info(message: &str) {
    write("info", 6, message);
}

/// Something went wrong and was dealt with.
pub fn warning(message: &str) {
    write("warning", 4, message);
}

/// Something went wrong that a person must look at.
pub fn error(message: &str) {
    write("error", 3, message);
}
