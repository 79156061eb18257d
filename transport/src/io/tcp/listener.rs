//! Lets TCP peers in.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
use crate::{Address, ListenError, Listener, Progress, Role, Transport, Turn};

/// What one accept counts in the budget of a turn: about the time in which 4 KiB are moved.
const ACCEPT_COST: usize = 4 * 1024;

/// How many connections one turn lets in: each is driven at once, which costs a TLS handshake if its
/// first bytes are there (about 0.3 ms), and the worker's other transports wait for the turn to end.
const ACCEPTED_PER_TURN: usize = 32;

/// How long a listener waits when the system has no descriptor or memory for another connection.
/// It has to wait for others to end: there is no event for that, and trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens on `tcp://` or `tcp+plain://`.
#[derive(Debug)]
pub struct TcpListener {
    listener: mio::net::TcpListener,
    local: Address,
    security: Security,
    /// Until when it pauses.
    paused_until: Option<Instant>,
}

#[derive(Debug)]
enum Security {
    Plain(Identity, Admission),
    Tls(Arc<ServerConfig>),
}

impl TcpListener {
    /// Listens at `address` (`0.0.0.0` or `[::]` for all, port 0 for any) and lets in whom
    /// `admission` admits. The scheme decides whether inside TLS.
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
                AcceptError::Connection => tracing::debug!(%error, "a connection was not let in"),
                AcceptError::Exhausted => {
                    tracing::warn!(%error, "no room for another connection: pausing to accept");
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

/// What an error of `accept` is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AcceptError {
    /// Nobody waits.
    WouldBlock,
    /// The connection that was to be accepted: it is gone, and the next may be well. Linux also
    /// reports here what the network said about it (accept(2), "Error handling").
    Connection,
    /// No connection can be accepted until others have ended.
    Exhausted,
    /// The listener itself.
    Fatal,
}

impl AcceptError {
    fn of(error: &io::Error) -> Self {
        /// Linux's numbers (`errno.h`).
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
    fn only_the_listener_s_own_errors_end_it() {
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
