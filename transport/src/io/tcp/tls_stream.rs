//! A byte stream inside TLS.

use std::io::{self, IoSlice, Read, Write};

use rustls::Connection;

use super::socket_stream::SocketStream;
use crate::io::tls;
use crate::{End, NodeId, UNAUTHENTICATED_LEN_MAX};

/// The longest record: header, 2^14 bytes of plaintext, and what encryption may add (RFC 8446, 5.2).
const RECORD_LEN_MAX: usize = 5 + (1 << 14) + 256;

/// The least memory with which records are read many at a time, see [`TlsStream::read_bulk`].
const BULK_READ_LEN_MIN: usize = 4 * RECORD_LEN_MAX;

/// How much ciphertext the library may hold: what one batch of frames makes.
const CIPHERTEXT_LEN_MAX: usize = 256 * 1024;

/// TLS on a socket. It reads and writes plaintext.
#[derive(Debug)]
pub(super) struct TlsStream {
    socket: SocketStream,
    conn: Connection,
    /// How many bytes an unknown peer has sent.
    unauthenticated_len: usize,
    /// Why nothing more can be read, once what was good has been read.
    error: Option<rustls::Error>,
}

impl TlsStream {
    pub(super) fn new(socket: SocketStream, mut conn: Connection) -> Self {
        conn.set_buffer_limit(Some(CIPHERTEXT_LEN_MAX));
        Self {
            socket,
            conn,
            unauthenticated_len: 0,
            error: None,
        }
    }

    pub(super) const fn socket_stream(&self) -> &SocketStream {
        &self.socket
    }

    pub(super) const fn socket_stream_mut(&mut self) -> &mut SocketStream {
        &mut self.socket
    }

    /// Carries the handshake on; says who the peer is once that is proved.
    pub(super) fn drive_handshake(&mut self) -> Result<Option<NodeId>, End> {
        loop {
            match self.flush() {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(End::broken(error));
                }
                _ if !self.conn.is_handshaking() => return self.peer().map(Some),
                // If something is unsent, the peer may still say why it does not read it.
                Ok(()) | Err(_) => {}
            }
            match self.conn.read_tls(&mut self.socket) {
                Ok(0) => return Err(End::broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => self.unauthenticated_len += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(End::broken(error)),
            }
            if let Err(error) = self.conn.process_new_packets() {
                // The alert that tells the peer; if it does not get through, that changes nothing.
                let _ = self.flush();
                return Err(tls::end_of(&error));
            }
            if self.conn.is_handshaking() && self.unauthenticated_len > UNAUTHENTICATED_LEN_MAX {
                return Err(End::Misbehaved {
                    what: "too many bytes before it proved who it is",
                });
            }
        }
    }

    fn peer(&self) -> Result<NodeId, End> {
        let unauthenticated = |detail: &str| End::Unauthenticated {
            detail: detail.to_owned(),
        };
        // A client that offers no protocol at all passes the library's own check.
        if self.conn.alpn_protocol() != Some(tls::ALPN) {
            return Err(unauthenticated("it speaks another protocol"));
        }
        tls::peer_of(self.conn.peer_certificates())
            .ok_or_else(|| unauthenticated("the handshake ended without a key"))
    }

    /// Announces the end of this half of the stream; a flush sends it.
    pub(super) fn send_close_notify(&mut self) {
        self.conn.send_close_notify();
    }

    /// Reads and decrypts many records with one read of the socket. The library alone reads 4 KiB
    /// at a time. Returns how much plaintext is in the front of `memory`; perhaps none.
    fn read_bulk(&mut self, memory: &mut [u8]) -> io::Result<usize> {
        // The front holds all that can come out: of this read, and of a record begun before.
        let middle = memory.len().midpoint(RECORD_LEN_MAX);
        let (plaintext, ciphertext) = memory.split_at_mut(middle);
        let read = self.socket.read(ciphertext)?;
        if read == 0 {
            self.conn.read_tls(&mut io::empty())?;
            return Ok(0);
        }
        let mut rest = &ciphertext[..read];
        let mut len = 0;
        // The library takes nothing more after close_notify, nor is there anything to take.
        while !rest.is_empty() && self.conn.read_tls(&mut rest)? > 0 {
            self.process();
            match self.conn.reader().read(&mut plaintext[len..]) {
                Ok(some) => len += some,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.error.is_some() {
                break;
            }
        }
        Ok(len)
    }

    /// Reads at most 4 KiB of the socket into the library.
    fn read_some(&mut self) -> io::Result<()> {
        self.conn.read_tls(&mut self.socket)?;
        self.process();
        Ok(())
    }

    fn process(&mut self) {
        if let Err(error) = self.conn.process_new_packets() {
            self.error = Some(error);
        }
    }
}

impl Read for TlsStream {
    fn read(&mut self, memory: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.conn.reader().read(memory) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // `Ok(0)` is close_notify; the end of the socket without it is `UnexpectedEof`.
                result => return result,
            }
            if let Some(error) = &self.error {
                return Err(io::Error::other(tls::end_of(error)));
            }
            if memory.len() < BULK_READ_LEN_MIN {
                self.read_some()?;
                continue;
            }
            match self.read_bulk(memory)? {
                0 => {}
                len => return Ok(len),
            }
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // Nothing is encrypted while there is ciphertext that the socket does not take.
        self.flush()?;
        let written = self.conn.writer().write_vectored(slices)?;
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(written),
        }
    }

    /// Sends all ciphertext.
    fn flush(&mut self) -> io::Result<()> {
        while self.conn.wants_write() {
            match self.conn.write_tls(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
