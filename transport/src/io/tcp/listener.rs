//! Accepts TCP connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::{ServerConfig, ServerConnection};
use socket2::SockRef;

use super::handshake_io::HandshakeIo;
use super::peer_stream::PeerStream;
use super::socket_stream::SocketStream;
use super::tls_stream::TlsStream;
use super::transport::TcpTransport;
use super::{SCHEME_PLAIN, SCHEME_TLS, SCHEMES_KNOWN, socket};
use crate::io::identity::{Admission, Identity, random};
use crate::io::plain::PlainHandshake;
use crate::io::tls;
use crate::{Address, Instant, ListenError, Listener, Progress, Role, Transport, Turn};

/// The cost of an accept against the budget of a call: about the time in which 4 KiB are
/// transferred.
const ACCEPT_COST: usize = 4 * 1024;

/// The maximum number of connections that one call accepts. Each is driven in the same iteration of
/// the worker's loop and may cost a TLS handshake of about 0.3 ms, while other transports wait.
const ACCEPTED_PER_TURN: usize = 32;

/// The pause after the system had no descriptor or memory for a connection. No event reports the
/// release of a resource, and retrying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens on `tcp://` or `tcp+plain://`.
///
/// If the process has no file descriptor or the system no memory for another connection, the
/// listener pauses for 100 ms. The backlog of the kernel holds up to 1024 connections meanwhile.
#[derive(Debug)]
pub struct TcpListener {
    listener: mio::net::TcpListener,
    local: Address,
    security: Security,
    /// The end of a pause.
    paused_until: Option<Instant>,
}

#[derive(Debug)]
enum Security {
    Plain(Identity, Admission),
    Tls(Arc<ServerConfig>),
}

impl TcpListener {
    /// Binds `address`: `0.0.0.0` or `[::]` for all interfaces, port 0 for a port chosen by the
    /// operating system. The scheme selects TLS or plain TCP. Peers are accepted if `admission`
    /// admits their identity.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind(
        address: &Address,
        identity: Identity,
        admission: Admission,
    ) -> Result<Self, ListenError> {
        let place = address.as_socket().ok_or_else(|| ListenError::BadPlace {
            address: address.clone(),
        });
        let bind_error = |error| ListenError::Bind {
            address: address.clone(),
            error,
        };
        let security = match address.scheme() {
            SCHEME_TLS => tls::server_config(&identity, admission)
                .map(|config| Security::Tls(Arc::new(config)))
                .map_err(|error| bind_error(io::Error::other(error)))?,
            SCHEME_PLAIN => Security::Plain(identity, admission),
            scheme => {
                return Err(ListenError::UnknownScheme {
                    scheme: scheme.to_owned(),
                    known: SCHEMES_KNOWN,
                });
            }
        };
        let listener = socket::listening(place?).map_err(bind_error)?;
        let local = listener.local_addr().map_err(bind_error)?;
        Ok(Self {
            listener,
            local: address.at(local),
            security,
            paused_until: None,
        })
    }

    fn stream(&self, stream: TcpStream) -> io::Result<PeerStream> {
        let socket = SocketStream::new(stream);
        match &self.security {
            Security::Plain(identity, admission) => {
                let handshake =
                    PlainHandshake::acceptor(identity.clone(), admission.clone(), random()?);
                Ok(PeerStream::Plain(
                    socket,
                    Some(Box::new(HandshakeIo::new(handshake))),
                ))
            }
            Security::Tls(config) => {
                let conn = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
                Ok(PeerStream::Tls(Box::new(TlsStream::new(
                    socket,
                    conn.into(),
                ))))
            }
        }
    }

    fn accept_one(&self, now: Instant) -> Result<TcpTransport, io::Error> {
        let (socket, remote) = self.listener.accept()?;
        socket::set_options(SockRef::from(&socket));
        let remote = self.local.at(remote);
        let stream = self.stream(socket)?;
        Ok(TcpTransport::new(now, Role::Acceptor, stream, remote))
    }
}

impl Listener for TcpListener {
    fn local_address(&self) -> Address {
        self.local.clone()
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.listener, token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut self.listener)
    }

    fn accept(
        &mut self,
        turn: &mut Turn<'_>,
        accepted: &mut Vec<Box<dyn Transport>>,
    ) -> Result<Progress, io::Error> {
        if self
            .paused_until
            .is_some_and(|paused_until| turn.now < paused_until)
        {
            return Ok(Progress::Idle);
        }
        self.paused_until = None;
        let accepted_max = accepted.len() + ACCEPTED_PER_TURN;
        let mut left = turn.budget.max(1);
        while left > 0 && accepted.len() < accepted_max {
            left = left.saturating_sub(ACCEPT_COST);
            let error = match self.accept_one(turn.now) {
                Ok(transport) => {
                    accepted.push(Box::new(transport));
                    continue;
                }
                Err(error) => error,
            };
            match AcceptError::of(&error) {
                AcceptError::WouldBlock => return Ok(Progress::Idle),
                AcceptError::Connection => {
                    tracing::debug!(%error, local = %self.local, "accept failed")
                }
                AcceptError::Exhausted => {
                    tracing::warn!(
                        %error,
                        local = %self.local,
                        "out of resources: accepting pauses for 100 ms"
                    );
                    self.paused_until = Some(turn.now + ACCEPT_PAUSE);
                    return Ok(Progress::Idle);
                }
                AcceptError::Fatal => return Err(error),
            }
        }
        Ok(Progress::More)
    }

    fn timeout(&self) -> Option<Instant> {
        self.paused_until
    }
}

/// The scope of an error of `accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AcceptError {
    /// No connection is pending.
    WouldBlock,
    /// The connection to accept has failed; later ones are not affected. Linux also reports pending
    /// network errors of the new socket here (accept(2), "Error handling").
    Connection,
    /// No connection can be accepted until descriptors or memory are released.
    Exhausted,
    /// The listener is unusable.
    Fatal,
}

impl AcceptError {
    fn of(error: &io::Error) -> Self {
        /// Error numbers of Linux (`errno.h`).
        const EBADF: i32 = 9;
        const ENOMEM: i32 = 12;
        const EFAULT: i32 = 14;
        const EINVAL: i32 = 22;
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        const ENOTSOCK: i32 = 88;
        const ENOBUFS: i32 = 105;
        match error.raw_os_error() {
            _ if error.kind() == io::ErrorKind::WouldBlock => Self::WouldBlock,
            Some(EMFILE | ENFILE | ENOBUFS | ENOMEM) => Self::Exhausted,
            Some(EBADF | EFAULT | EINVAL | ENOTSOCK) => Self::Fatal,
            _ => Self::Connection,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_the_listener_itself_are_fatal() {
        for (number, expected) in [
            (11, AcceptError::WouldBlock),
            (4, AcceptError::Connection),
            (103, AcceptError::Connection),
            (71, AcceptError::Connection),
            (110, AcceptError::Connection),
            (1, AcceptError::Connection),
            (23, AcceptError::Exhausted),
            (24, AcceptError::Exhausted),
            (105, AcceptError::Exhausted),
            (12, AcceptError::Exhausted),
            (9, AcceptError::Fatal),
            (22, AcceptError::Fatal),
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(AcceptError::of(&error), expected, "{error}");
        }
    }
}
