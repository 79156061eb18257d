//! Performs the plain handshake on a socket.

use std::io::{self, Read, Write};

use super::socket_stream::SocketStream;
use crate::io::plain::{HandshakeStep, PlainHandshake};
use crate::{End, NodeId};

/// The handshake of one side, with its unsent output and incomplete input.
#[derive(Debug)]
pub(super) struct HandshakeIo {
    handshake: PlainHandshake,
    output: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    peer: Option<NodeId>,
}

impl HandshakeIo {
    pub(super) fn new(mut handshake: PlainHandshake) -> Self {
        Self {
            output: handshake.take_output(),
            handshake,
            written: 0,
            input: Vec::new(),
            peer: None,
        }
    }

    /// Advances the handshake; returns the peer once it is authenticated.
    ///
    /// It reads no byte beyond the handshake, because frames follow.
    pub(super) fn drive_handshake(
        &mut self,
        socket: &mut SocketStream,
    ) -> Result<Option<NodeId>, End> {
        loop {
            if !self.flush(socket)? {
                return Ok(None);
            }
            if self.peer.is_some() {
                return Ok(self.peer);
            }
            let have = self.input.len();
            self.input.resize(self.handshake.wanted(), 0);
            let read = socket.read(&mut self.input[have..]);
            self.input
                .truncate(have + read.as_ref().map_or(0, |&read| read));
            match read {
                Ok(0) => return Err(End::broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) if self.input.len() < self.handshake.wanted() => {}
                Ok(_) => self.handle(socket)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(End::broken(error)),
            }
        }
    }

    /// Handles a complete message.
    fn handle(&mut self, socket: &mut SocketStream) -> Result<(), End> {
        let message = std::mem::take(&mut self.input);
        let step = self.handshake.handle(&message);
        self.output = self.handshake.take_output();
        self.written = 0;
        match step {
            Ok(HandshakeStep::Wait) => Ok(()),
            Ok(HandshakeStep::Open(peer)) => {
                self.peer = Some(peer);
                Ok(())
            }
            Err(end) => {
                // Best effort: if the refusal is not sent, the result is the same.
                let _ = self.flush(socket);
                Err(end)
            }
        }
    }

    /// Writes the output. Returns whether all of it is written.
    fn flush(&mut self, socket: &mut SocketStream) -> Result<bool, End> {
        while self.written < self.output.len() {
            match socket.write(&self.output[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(End::broken(error)),
            }
        }
        Ok(true)
    }
}
