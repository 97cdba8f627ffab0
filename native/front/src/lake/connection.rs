//! Connections to the lake: TCP, TLS over it, and those that are kept.
//!
//! A connection is idle in a `Pool`, or belongs to one call. It goes back only after an answer that
//! was read to its end (promise L4); whoever gives up on one drops it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::source::Source;
use crate::sys;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach one server, and the idle connections to it.
pub(super) struct Pool {
    host: String,
    port: u16,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    stall: Duration,
    most: usize,
    idle: Mutex<Vec<Connection>>,
}

pub(super) enum Connection {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Pool {
    pub(super) fn new(source: &Source) -> Result<Self, String> {
        let tls = if source.scheme == "https" {
            let name = ServerName::try_from(source.host.clone());
            let name = name.map_err(|error| format!("{}: {error}", source.host))?;
            Some((Arc::new(client_config(source.ca_bundle.as_deref())?), name))
        } else {
            None
        };
        Ok(Self {
            host: source.host.clone(),
            port: source.port,
            tls,
            stall: source.stall,
            most: source.connections,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// The idle connection that was used last, of those that the server has not closed.
    pub(super) fn take(&self) -> Option<Connection> {
        loop {
            // One at a time, so that the lock is not held while the kernel is asked.
            let connection = self.lock().pop()?;
            if connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    /// Keep a connection whose last answer was read to its end.
    pub(super) fn keep(&self, mut connection: Connection) {
        if connection.has_nothing_left() {
            let mut idle = self.lock();
            if idle.len() < self.most {
                idle.push(connection);
            }
        }
    }

    /// A new connection. An error of kind `InvalidData` is one of TLS, and would come again.
    pub(super) fn connect(&self) -> io::Result<Connection> {
        let mut socket = self.connect_tcp()?;
        socket.set_nodelay(true)?;
        let Some((config, name)) = &self.tls else {
            set_patience(&socket, self.stall)?;
            return Ok(Connection::Plain(socket));
        };
        let mut tls = ClientConnection::new(config.clone(), name.clone())
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        set_patience(&socket, CONNECT_TIMEOUT)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        set_patience(&socket, self.stall)?;
        Ok(Connection::Tls(Box::new(StreamOwned::new(tls, socket))))
    }

    fn connect_tcp(&self) -> io::Result<TcpStream> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let mut failure = io::Error::other("the host has no address");
        for address in (&self.host[..], self.port).to_socket_addrs()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(socket) => return Ok(socket),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.lock().len()
    }

    #[cfg(test)]
    pub(super) fn is_quiet(&self) -> bool {
        let idle = self.lock();
        !idle.is_empty() && idle.iter().all(Connection::is_quiet)
    }
}

impl Connection {
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// What has come, at least a byte: the end of the connection is an error here, and so is no
    /// progress for as long as the lake may stall.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let received = match self {
                Self::Plain(socket) => socket.read(buffer),
                Self::Tls(stream) => stream.read(buffer),
            };
            match received {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Whether nothing has come since: not the end of it, nor bytes that nobody asked for.
    fn is_quiet(&self) -> bool {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        };
        !sys::wait(socket.as_fd(), false, 0).0
    }

    /// Whether TLS holds back no bytes that came with the last answer's.
    fn has_nothing_left(&mut self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Tls(stream) => stream.conn.process_new_packets().is_ok_and(|state| {
                state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed()
            }),
        }
    }
}

fn set_patience(socket: &TcpStream, patience: Duration) -> io::Result<()> {
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))
}

/// TLS that trusts the certificates in the file `ca_bundle`, or the system's.
fn client_config(ca_bundle: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_bundle {
        let unreadable = |error| format!("{}: {error}", path.display());
        for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
            let certificate = certificate.map_err(unreadable)?;
            roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err("there are no certificates to trust".into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
