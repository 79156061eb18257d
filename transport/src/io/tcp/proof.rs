//! The plain handshake on a socket.

use std::io::{self, Read, Write};

use super::stream::Stream;
use crate::io::plain::{Handshake, Step};
use crate::{End, NodeId};

/// The handshake of one side, and what of it is on the way.
#[derive(Debug)]
pub(super) struct Proof {
    machine: Handshake,
    output: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    peer: Option<NodeId>,
}

impl Proof {
    pub(super) fn new(mut machine: Handshake) -> Self {
        Self {
            output: machine.take_output(),
            machine,
            written: 0,
            input: Vec::new(),
            peer: None,
        }
    }

    /// Carries the handshake on; says who the peer is once that is proved.
    ///
    /// It reads no further than the handshake goes: what follows are frames.
    pub(super) fn prove(&mut self, socket: &mut Stream) -> Result<Option<NodeId>, End> {
        loop {
            if !self.flush(socket)? {
                return Ok(None);
            }
            if self.peer.is_some() {
                return Ok(self.peer);
            }
            let have = self.input.len();
            self.input.resize(self.machine.wanted(), 0);
            let read = socket.read(&mut self.input[have..]);
            self.input
                .truncate(have + read.as_ref().map_or(0, |&read| read));
            match read {
                Ok(0) => return Err(End::broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) if self.input.len() < self.machine.wanted() => {}
                Ok(_) => self.handle(socket)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(End::broken(error)),
            }
        }
    }

    /// Hands on a message that is whole.
    fn handle(&mut self, socket: &mut Stream) -> Result<(), End> {
        let message = std::mem::take(&mut self.input);
        let step = self.machine.handle(&message);
        self.output = self.machine.take_output();
        self.written = 0;
        match step {
            Ok(Step::Wait) => Ok(()),
            Ok(Step::Open(peer)) => {
                self.peer = Some(peer);
                Ok(())
            }
            Err(end) => {
                // The refusal; if it does not get through, that changes nothing.
                let _ = self.flush(socket);
                Err(end)
            }
        }
    }

    /// Whether all of the output is written.
    fn flush(&mut self, socket: &mut Stream) -> Result<bool, End> {
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
