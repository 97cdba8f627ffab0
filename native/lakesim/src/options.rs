//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;

use lexopt::prelude::{Long, Short, ValueExt};

pub(crate) const USAGE: &str = "\
lakesim: a development-only S3 server; objects in memory, a modelled link, faults, a request log

  --listen ADDRESS      S3 (127.0.0.1:0, a free port)
  --admin ADDRESS       admin port (127.0.0.1:0)
  --access-key KEY      what clients sign with (testing)
  --secret-key KEY      (testing-secret)
  --anonymous           requests without a signature are allowed; bad signatures never are
  --seed NUMBER         decides latencies and faults (a new one each time)
  --config JSON         link model and faults, as for POST /config
  --exit-with-stdin     end when standard input closes

When both ports answer, one line of JSON on standard output says where they are. Ends on SIGTERM.
";

pub(crate) struct Options {
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) anonymous: bool,
    pub(crate) seed: Option<u64>,
    pub(crate) config: Option<String>,
    pub(crate) exit_with_stdin: bool,
}

impl Options {
    /// From a command line without the program's name; `None` if it asks for help.
    pub(crate) fn parse(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Option<Self>, lexopt::Error> {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut options = Self {
            listen: free,
            admin: free,
            access_key: "testing".into(),
            secret_key: "testing-secret".into(),
            anonymous: false,
            seed: None,
            config: None,
            exit_with_stdin: false,
        };
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Short('h') | Long("help") => return Ok(None),
                Long("listen") => options.listen = parser.value()?.parse()?,
                Long("admin") => options.admin = parser.value()?.parse()?,
                Long("access-key") => options.access_key = parser.value()?.string()?,
                Long("secret-key") => options.secret_key = parser.value()?.string()?,
                Long("anonymous") => options.anonymous = true,
                Long("seed") => options.seed = Some(parser.value()?.parse()?),
                Long("config") => options.config = Some(parser.value()?.string()?),
                Long("exit-with-stdin") => options.exit_with_stdin = true,
                _ => return Err(argument.unexpected()),
            }
        }
        Ok(Some(options))
    }
}
