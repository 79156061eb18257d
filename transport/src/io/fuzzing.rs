//! Entry points of the fuzz targets: decoders of unauthenticated bytes. Not part of the API.

use std::io::{Cursor, Read};

use bytes::Bytes;

use crate::io::tcp::frame_decoder::{DecodeProgress, FrameDecoder};
use crate::io::{Admission, Identity, plain, udp};
use crate::{End, FRAME_LEN_MAX, ReadBuffer};

/// Decodes frames from a stream that arrives in chunks of `step` bytes.
///
/// # Errors
/// The protocol violation that the decoder found.
pub fn split(stream: &[u8], step: usize, budget: usize) -> Result<Vec<Bytes>, End> {
    let (mut decoder, mut buffer, mut frames) =
        (FrameDecoder::default(), ReadBuffer::default(), Vec::new());
    let mut stream = ChunkedReader(Cursor::new(stream), step.max(1));
    while decoder.receive(&mut stream, &mut buffer, budget, &mut frames)? == DecodeProgress::Budget
    {
    }
    assert!(frames.iter().all(|frame| frame.len() <= FRAME_LEN_MAX));
    Ok(frames)
}

/// A reader that returns at most a fixed number of bytes per call.
struct ChunkedReader<'a>(Cursor<&'a [u8]>, usize);

impl Read for ChunkedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = buffer.len().min(self.1);
        self.0.read(&mut buffer[..len])
    }
}

/// Feeds the bytes of an unauthenticated peer to both sides of the plain-stream handshake.
pub fn plain_handshake(identity: &Identity, bytes: &[u8]) {
    let dialer = plain::PlainHandshake::dialer(identity.clone(), None, [7; 32]);
    let acceptor = plain::PlainHandshake::acceptor(identity.clone(), Admission::anyone(), [7; 32]);
    for mut handshake in [dialer, acceptor] {
        let mut rest = bytes;
        while let wanted @ 1.. = handshake.wanted() {
            let Some((message, remainder)) = rest.split_at_checked(wanted) else {
                break;
            };
            if handshake.handle(message).is_err() {
                break;
            }
            rest = remainder;
        }
        handshake.take_output();
    }
}

/// Feeds a datagram of an unauthenticated peer to every decoder of the UDP handshake.
pub fn udp_handshake(identity: &Identity, datagram: &[u8]) {
    udp::fuzz_handshake(identity, datagram);
}
