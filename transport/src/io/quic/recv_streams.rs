//! Receives streams of the peer and decodes frames from them.

use bytes::{Buf, Bytes, BytesMut};
use quinn_proto::{Connection, Dir, ReadError, ReadableError, StreamId};

use super::config::STREAMS_MAX;
use crate::{End, FRAME_LEN_MAX, FrameSink, Progress};

/// The length of the prefix of each frame on a stream: a little-endian `u32`.
pub(super) const PREFIX_LEN: usize = 4;

/// The number of bytes read from one stream before the next one is read.
const STREAM_TURN_LEN: usize = FRAME_LEN_MAX;

/// All streams that the peer has opened.
#[derive(Debug, Default)]
pub(super) struct RecvStreams {
    /// In the order in which the peer opened them.
    streams: Vec<(StreamId, StreamDecoder)>,
    /// A bit for each stream type that has a stream.
    type_known: u64,
    /// A bit for each index in `streams` that may have unread data.
    readable: u64,
    /// The index at which the next call starts, so that no stream starves.
    first: usize,
}

const _: () = assert!(STREAMS_MAX <= u64::BITS as usize);

impl RecvStreams {
    /// Accepts the streams that the peer has opened.
    pub(super) fn accept(&mut self, conn: &mut Connection) {
        while self.streams.len() < STREAMS_MAX
            && let Some(id) = conn.streams().accept(Dir::Uni)
        {
            self.readable |= 1 << self.streams.len();
            self.streams.push((id, StreamDecoder::default()));
        }
    }

    /// Marks a stream as readable.
    pub(super) fn mark_readable(&mut self, id: StreamId) {
        if let Some(place) = self.streams.iter().position(|(known, _)| *known == id) {
            self.readable |= 1 << place;
        }
    }

    /// Reads all streams round robin, about `budget` bytes at most.
    pub(super) fn read(
        &mut self,
        conn: &mut Connection,
        sink: &mut dyn FrameSink,
        budget: usize,
    ) -> Result<Progress, End> {
        let mut remaining = budget;
        while self.readable != 0 {
            for step in 0..self.streams.len() {
                let place = (self.first + step) % self.streams.len();
                if self.readable & 1 << place == 0 {
                    continue;
                }
                if remaining == 0 {
                    self.first = place;
                    return Ok(Progress::More);
                }
                let turn = remaining.min(STREAM_TURN_LEN);
                let read = self.read_stream(conn, sink, place, turn)?;
                remaining = remaining.saturating_sub(read);
            }
        }
        Ok(Progress::Idle)
    }

    /// Reads one stream until it is drained, or `limit` bytes. Returns the number of bytes.
    fn read_stream(
        &mut self,
        conn: &mut Connection,
        sink: &mut dyn FrameSink,
        place: usize,
        limit: usize,
    ) -> Result<usize, End> {
        let (id, decoder) = &mut self.streams[place];
        let mut stream = conn.recv_stream(*id);
        let mut chunks = match stream.read(true) {
            Ok(chunks) => chunks,
            // The stream was read to its end before.
            Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => {
                self.readable &= !(1 << place);
                return Ok(0);
            }
        };
        let mut read = 0;
        let outcome = loop {
            if read >= limit {
                break Ok(());
            }
            match chunks.next(limit - read) {
                Ok(Some(chunk)) => {
                    read += chunk.bytes.len();
                    if let Err(end) = decoder.feed(chunk.bytes, &mut self.type_known, sink) {
                        break Err(end);
                    }
                }
                Ok(None) => {
                    self.readable &= !(1 << place);
                    break decoder.finish();
                }
                Err(ReadError::Blocked) => {
                    self.readable &= !(1 << place);
                    break Ok(());
                }
                Err(ReadError::Reset(_)) => break Err(misbehaved("a stream was reset")),
            }
        };
        // The next send transmits the resulting flow control updates.
        let _ = chunks.finalize();
        outcome.map(|()| read)
    }
}

/// Decodes frames from one stream.
#[derive(Debug, Default)]
struct StreamDecoder {
    type_known: bool,
    /// The received part of an incomplete frame, with its prefix, if it is not within one chunk.
    partial: BytesMut,
}

impl StreamDecoder {
    fn feed(
        &mut self,
        mut chunk: Bytes,
        type_known: &mut u64,
        sink: &mut dyn FrameSink,
    ) -> Result<(), End> {
        if !self.type_known && !chunk.is_empty() {
            let stream_type = chunk.get_u8();
            if usize::from(stream_type) >= STREAMS_MAX {
                return Err(misbehaved("a stream of an unknown flow"));
            }
            if *type_known & 1 << stream_type != 0 {
                return Err(misbehaved("a second stream of a flow"));
            }
            *type_known |= 1 << stream_type;
            self.type_known = true;
        }
        while !chunk.is_empty() {
            if self.partial.is_empty() && chunk.len() >= PREFIX_LEN {
                let len = frame_len(&chunk)?;
                if chunk.len() - PREFIX_LEN >= len {
                    chunk.advance(PREFIX_LEN);
                    sink.frame(chunk.split_to(len));
                    continue;
                }
            }
            self.complete_partial(&mut chunk, sink)?;
        }
        Ok(())
    }

    /// Appends the front of `chunk` to the partial frame and delivers the frame if it is complete.
    fn complete_partial(&mut self, chunk: &mut Bytes, sink: &mut dyn FrameSink) -> Result<(), End> {
        if self.partial.len() < PREFIX_LEN {
            let take = chunk.len().min(PREFIX_LEN - self.partial.len());
            self.partial.extend_from_slice(&chunk.split_to(take));
            if self.partial.len() < PREFIX_LEN {
                return Ok(());
            }
        }
        let whole = PREFIX_LEN + frame_len(&self.partial)?;
        let missing = whole - self.partial.len();
        self.partial.reserve(missing);
        let take = chunk.len().min(missing);
        self.partial.extend_from_slice(&chunk.split_to(take));
        if self.partial.len() == whole {
            let mut frame = std::mem::take(&mut self.partial).freeze();
            frame.advance(PREFIX_LEN);
            sink.frame(frame);
        }
        Ok(())
    }

    /// Checks that the stream ended at a frame boundary.
    fn finish(&self) -> Result<(), End> {
        if self.partial.is_empty() {
            Ok(())
        } else {
            Err(misbehaved("a stream ended inside a frame"))
        }
    }
}

/// Decodes the length prefix in the first four bytes, which must be present.
fn frame_len(bytes: &[u8]) -> Result<usize, End> {
    let prefix = bytes
        .first_chunk::<PREFIX_LEN>()
        .map_or(0, |prefix| u32::from_le_bytes(*prefix));
    match usize::try_from(prefix) {
        Ok(len) if len <= FRAME_LEN_MAX => Ok(len),
        _ => Err(misbehaved("a frame is too long")),
    }
}

const fn misbehaved(what: &'static str) -> End {
    End::Misbehaved { what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(stream_type: u8, frames: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![stream_type];
        for frame in frames {
            bytes.extend_from_slice(&(frame.len() as u32).to_le_bytes());
            bytes.extend_from_slice(frame);
        }
        bytes
    }

    fn feed(bytes: &[u8], chunk_len: usize) -> Result<Vec<Bytes>, End> {
        let (mut decoder, mut type_known, mut frames) = (StreamDecoder::default(), 0, Vec::new());
        for chunk in bytes.chunks(chunk_len) {
            decoder.feed(Bytes::copy_from_slice(chunk), &mut type_known, &mut frames)?;
        }
        decoder.finish()?;
        Ok(frames)
    }

    #[test]
    fn frames_are_decoded_from_arbitrary_chunks() {
        let big = vec![7; FRAME_LEN_MAX];
        let sent: [&[u8]; 5] = [b"a", b"", b"bcd", &big, b"last"];
        let bytes = stream(3, &sent);
        for chunk_len in [1, 2, 3, 4, 5, 6, 1452, bytes.len()] {
            assert_eq!(feed(&bytes, chunk_len).unwrap(), sent, "{chunk_len}");
        }
    }

    #[test]
    fn invalid_streams_are_rejected() {
        let check = |bytes: &[u8], expected: &str| {
            for chunk_len in [1, 3, bytes.len()] {
                let Err(End::Misbehaved { what }) = feed(bytes, chunk_len) else {
                    panic!("{expected}: accepted");
                };
                assert_eq!(what, expected);
            }
        };
        check(&[33], "a stream of an unknown flow");
        check(&[0, 1, 0, 1, 0], "a frame is too long");
        check(&[0, 0xff, 0xff, 0xff, 0xff], "a frame is too long");
        check(&[0, 2, 0, 0, 0, 1], "a stream ended inside a frame");
        check(&[0, 2, 0], "a stream ended inside a frame");
    }

    #[test]
    fn a_second_stream_of_one_type_is_rejected() {
        let mut type_known = 0;
        let mut frames = Vec::new();
        let bytes = Bytes::from_static(&[5]);
        let mut feed =
            || StreamDecoder::default().feed(bytes.clone(), &mut type_known, &mut frames);
        assert!(feed().is_ok());
        assert!(matches!(feed(), Err(End::Misbehaved { .. })));
    }
}
