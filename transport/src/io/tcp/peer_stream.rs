//! The byte stream to a peer, plain or inside TLS.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;

use super::handshake_io::HandshakeIo;
use super::socket_stream::SocketStream;
use super::tls_stream::TlsStream;
use crate::{End, NodeId};

/// The byte stream to a peer: a handshake, then frames.
#[derive(Debug)]
pub(super) enum PeerStream {
    /// The socket, and the handshake until it is complete.
    Plain(SocketStream, Option<Box<HandshakeIo>>),
    Tls(Box<TlsStream>),
}

impl PeerStream {
    pub(super) const fn socket_stream(&self) -> &SocketStream {
        match self {
            Self::Plain(socket, _) => socket,
            Self::Tls(socket_stream) => socket_stream.socket_stream(),
        }
    }

    pub(super) const fn socket_stream_mut(&mut self) -> &mut SocketStream {
        match self {
            Self::Plain(socket, _) => socket,
            Self::Tls(socket_stream) => socket_stream.socket_stream_mut(),
        }
    }

    /// Advances the handshake; returns the peer once it is authenticated.
    pub(super) fn drive_handshake(&mut self) -> Result<Option<NodeId>, End> {
        match self {
            Self::Plain(socket, Some(handshake)) => handshake.drive_handshake(socket),
            Self::Plain(_, None) => Ok(None),
            Self::Tls(socket_stream) => socket_stream.drive_handshake(),
        }
    }

    /// Frees the state of a completed handshake.
    pub(super) fn drop_handshake(&mut self) {
        if let Self::Plain(_, handshake) = self {
            *handshake = None;
        }
    }

    /// Shuts down this half of the stream.
    ///
    /// # Errors
    /// `WouldBlock` while earlier data is unsent.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if let Self::Tls(socket_stream) = self {
            // Repeated calls send close_notify only once.
            socket_stream.send_close_notify();
            socket_stream.flush()?;
        }
        self.socket_stream().socket().shutdown(Shutdown::Write)
    }
}

impl Read for PeerStream {
    fn read(&mut self, memory: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket, _) => socket.read(memory),
            Self::Tls(socket_stream) => socket_stream.read(memory),
        }
    }

    fn read_vectored(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket, _) => socket.read_vectored(slices),
            Self::Tls(socket_stream) => socket_stream.read_vectored(slices),
        }
    }
}

impl Write for PeerStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket, _) => socket.write(bytes),
            Self::Tls(socket_stream) => socket_stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket, _) => socket.write_vectored(slices),
            Self::Tls(socket_stream) => socket_stream.write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(..) => Ok(()),
            Self::Tls(socket_stream) => socket_stream.flush(),
        }
    }
}
