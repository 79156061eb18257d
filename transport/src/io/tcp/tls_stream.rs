//! The TLS layer of a TCP connection.

use std::io::{self, IoSlice, Read, Write};

use rustls::Connection;

use super::socket_stream::SocketStream;
use crate::io::tls;
use crate::{End, NodeId, UNAUTHENTICATED_LEN_MAX};

/// The maximum length of a record: header, 2^14 bytes of plaintext, and 256 bytes of expansion (RFC
/// 8446, section 5.2).
const RECORD_LEN_MAX: usize = 5 + (1 << 14) + 256;

/// The minimum buffer length for a bulk read, see [`TlsStream::read_bulk`].
const BULK_READ_LEN_MIN: usize = 4 * RECORD_LEN_MAX;

/// The maximum length of buffered ciphertext: about that of one batch of frames.
const CIPHERTEXT_LEN_MAX: usize = 256 * 1024;

/// TLS on a socket. Its `Read` and `Write` implementations transfer plaintext.
#[derive(Debug)]
pub(super) struct TlsStream {
    socket: SocketStream,
    conn: Connection,
    /// The number of bytes received from the unauthenticated peer.
    unauthenticated_len: usize,
    /// The error that follows the remaining valid data.
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

    /// Advances the handshake; returns the peer once it is authenticated.
    pub(super) fn drive_handshake(&mut self) -> Result<Option<NodeId>, End> {
        loop {
            match self.flush() {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(End::broken(error));
                }
                _ if !self.conn.is_handshaking() => return self.peer().map(Some),
                // If data is unsent, an alert of the peer may explain the reason.
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
                // Sends the alert, best effort: if it is not sent, the result is the same.
                let _ = self.flush();
                return Err(tls::end_of(&error));
            }
            if self.conn.is_handshaking() && self.unauthenticated_len > UNAUTHENTICATED_LEN_MAX {
                return Err(End::Misbehaved {
                    what: "more than 16 KiB before authentication",
                });
            }
        }
    }

    fn peer(&self) -> Result<NodeId, End> {
        let unauthenticated = |detail: &str| End::Unauthenticated {
            detail: detail.to_owned(),
        };
        // The library accepts a client that offers no ALPN protocol at all.
        if self.conn.alpn_protocol() != Some(tls::ALPN) {
            return Err(unauthenticated("the peer uses another protocol"));
        }
        tls::peer_of(self.conn.peer_certificates())
            .ok_or_else(|| unauthenticated("the handshake yielded no key"))
    }

    /// Queues close_notify; a flush sends it.
    pub(super) fn send_close_notify(&mut self) {
        self.conn.send_close_notify();
    }

    /// Reads and decrypts many records with one read of the socket; the library alone reads 4 KiB
    /// at a time. Returns the length of the plaintext at the front of `memory`, which may be 0.
    fn read_bulk(&mut self, memory: &mut [u8]) -> io::Result<usize> {
        // The front has space for the plaintext of this read and of an incomplete earlier record.
        let middle = memory.len().midpoint(RECORD_LEN_MAX);
        let (plaintext, ciphertext) = memory.split_at_mut(middle);
        let read = self.socket.read(ciphertext)?;
        if read == 0 {
            self.conn.read_tls(&mut io::empty())?;
            return Ok(0);
        }
        let mut rest = &ciphertext[..read];
        let mut len = 0;
        // After close_notify the library accepts no more data.
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

    /// Reads at most 4 KiB from the socket into the library.
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
                // `Ok(0)` stands for close_notify; an end of the socket without it is
                // `UnexpectedEof`.
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
        // No plaintext is encrypted while the socket accepts no ciphertext.
        self.flush()?;
        let written = self.conn.writer().write_vectored(slices)?;
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(written),
        }
    }

    /// Writes all buffered ciphertext.
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
