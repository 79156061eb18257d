//! The byte stream to a peer, plain or inside TLS.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;

use super::proof::Proof;
use super::stream::Stream;
use super::tls_stream::TlsStream;
use crate::{End, NodeId};

/// The byte stream to a peer. It begins with a handshake; frames follow.
#[derive(Debug)]
pub(super) enum Wire {
    /// The socket, and the handshake until it is done.
    Plain(Stream, Option<Box<Proof>>),
    Tls(Box<TlsStream>),
}

impl Wire {
    pub(super) const fn stream(&self) -> &Stream {
        match self {
            Self::Plain(socket, _) => socket,
            Self::Tls(stream) => stream.stream(),
        }
    }

    pub(super) const fn stream_mut(&mut self) -> &mut Stream {
        match self {
            Self::Plain(socket, _) => socket,
            Self::Tls(stream) => stream.stream_mut(),
        }
    }

    /// Carries the handshake on; says who the peer is once that is proved.
    pub(super) fn prove(&mut self) -> Result<Option<NodeId>, End> {
        match self {
            Self::Plain(socket, Some(proof)) => proof.prove(socket),
            Self::Plain(_, None) => Ok(None),
            Self::Tls(stream) => stream.prove(),
        }
    }

    /// The handshake is done.
    pub(super) fn forget_proof(&mut self) {
        if let Self::Plain(_, proof) = self {
            *proof = None;
        }
    }

    /// Finishes this half of the stream.
    ///
    /// # Errors
    /// `WouldBlock` until all is sent that goes before.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if let Self::Tls(stream) = self {
            // More than one call says it only once.
            stream.say_close();
            stream.flush()?;
        }
        self.stream().socket().shutdown(Shutdown::Write)
    }
}

impl Read for Wire {
    fn read(&mut self, memory: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket, _) => socket.read(memory),
            Self::Tls(stream) => stream.read(memory),
        }
    }

    fn read_vectored(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket, _) => socket.read_vectored(slices),
            Self::Tls(stream) => stream.read_vectored(slices),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket, _) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket, _) => socket.write_vectored(slices),
            Self::Tls(stream) => stream.write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(..) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
