//! lakesim: a development-only S3 server for tests and benchmarks.
//!
//! ```text
//!   client --- server (data port) --- link: when and how fast
//!                 |                 - faults: what goes wrong
//!                 |                 - exchange, log, stats: what happened
//!              s3s (the S3 protocol: routes, XML, signatures)
//!                 |
//!              backend: buckets, objects, versions, uploads, in memory
//! ```

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use s3s::service::S3ServiceBuilder;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

mod access;
mod admin;
mod backend;
mod body;
mod config;
mod error_text;
mod exchange;
mod faults;
mod latency;
mod link;
mod log;
mod operation;
mod options;
mod server;
mod stats;

use access::{Access, Key};
use backend::Backend;
use config::Settings;
use options::{Options, USAGE};
use server::Server;

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprint!("lakesim: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(options).await {
        // At once: freeing millions of objects would only take time.
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("lakesim: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let mut settings = Settings::new(seed);
    if let Some(config) = &options.config {
        settings.change(config.as_bytes()).map_err(|error| format!("--config: {error}"))?;
    }
    let backend = Backend::default();
    let mut builder = S3ServiceBuilder::new(backend.clone());
    builder.set_auth(Key { id: options.access_key, secret: options.secret_key.into() });
    builder.set_access(Access { anonymous: options.anonymous });
    let server = Arc::new(Server::new(settings, builder.build()));

    let data = TcpListener::bind(options.listen).await?;
    let admin = TcpListener::bind(options.admin).await?;
    let mut terminated = signal(SignalKind::terminate())?;
    let ready = json!({
        "s3": format!("http://{}", data.local_addr()?),
        "admin": format!("http://{}", admin.local_addr()?),
        "seed": seed,
    });
    tokio::spawn(Arc::clone(&server).serve(data));
    tokio::spawn(admin::serve(server, backend, admin));
    writeln!(std::io::stdout(), "{ready}")?;

    let stdin_closed = stdin_closed(options.exit_with_stdin);
    tokio::select! {
        _ = terminated.recv() => {}
        () = stdin_closed => {}
    }
    Ok(())
}

/// Waits for the end of standard input; for ever if that is not asked for.
async fn stdin_closed(asked: bool) {
    let (closed, is_closed) = oneshot::channel();
    if !asked {
        return std::future::pending().await;
    }
    std::thread::spawn(move || {
        let mut ignored = [0; 1024];
        while std::io::stdin().read(&mut ignored).is_ok_and(|count| count > 0) {}
        let _ = closed.send(());
    });
    let _ = is_closed.await;
}
