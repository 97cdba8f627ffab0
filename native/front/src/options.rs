//! The command line. The keeper is the only one who writes it: descriptors by number, and nothing
//! secret.

use std::os::fd::OwnedFd;

use crate::fuse::init;
use crate::sys;

pub const USAGE: &str = "\
usage: tierfs-front --fuse-fd N --shared-fd N --upcall-fd N --report-fd N --mountpoint PATH
                    [--fuse-mask FEATURE,...]

The native front of a tierfs mount. Started by the mount's keeper, which holds the descriptors; see
tierfs(1). Not to be started by hand.
";

pub struct Options {
    pub fuse: OwnedFd,
    pub shared: OwnedFd,
    pub upcall: OwnedFd,
    pub report: OwnedFd,
    pub mountpoint: String,
    /// INIT flags that are not to be used.
    pub masked: u64,
}

impl Options {
    /// `None`: help was asked for. The error is for the person who started it.
    pub fn parse(args: impl Iterator<Item = std::ffi::OsString>) -> Result<Option<Self>, String> {
        let (mut fuse, mut shared, mut upcall, mut report) = (None, None, None, None);
        let (mut mountpoint, mut masked) = (None, 0);
        let mut parser = lexopt::Parser::from_args(args);
        while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
            let lexopt::Arg::Long(name) = argument else {
                return Err(argument.unexpected().to_string());
            };
            if name == "help" {
                return Ok(None);
            }
            let name = name.to_owned();
            let value = parser.value().map_err(|error| error.to_string())?;
            let text = value.to_string_lossy().into_owned();
            match name.as_str() {
                "fuse-fd" => fuse = descriptor(&text),
                "shared-fd" => shared = descriptor(&text),
                "upcall-fd" => upcall = descriptor(&text),
                "report-fd" => report = descriptor(&text),
                "mountpoint" => mountpoint = Some(text),
                "fuse-mask" => {
                    masked = init::mask(&text).map_err(|name| {
                        format!(
                            "--fuse-mask: no feature {name}; there are {}",
                            init::names(u64::MAX)
                        )
                    })?;
                }
                _ => return Err(format!("unknown option --{name}")),
            }
        }
        let missing = |name: &str| format!("--{name} is missing, or no open descriptor");
        Ok(Some(Self {
            fuse: fuse.ok_or_else(|| missing("fuse-fd"))?,
            shared: shared.ok_or_else(|| missing("shared-fd"))?,
            upcall: upcall.ok_or_else(|| missing("upcall-fd"))?,
            report: report.ok_or_else(|| missing("report-fd"))?,
            mountpoint: mountpoint.ok_or("--mountpoint is missing")?,
            masked,
        }))
    }
}

fn descriptor(text: &str) -> Option<OwnedFd> {
    sys::inherited(text.parse().ok()?)
}
