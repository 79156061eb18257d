//! Sends frames on one stream per frame order, coalescing small ones.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use quinn_proto::{Connection, Dir, SendDatagramError, StreamId, WriteError};

use super::config::{SEND_WINDOW_MAX, STREAMS_MAX};
use super::recv_streams::PREFIX_LEN;
use crate::{End, FRAME_LEN_MAX, Frame, FrameOrder, FrameSource, LaneSet, SendCapacity};

/// Bodies up to this length are coalesced by copying; longer ones are passed on without a copy.
///
/// quinn-proto iterates over the list of chunks for each packet, so many small chunks cost more
/// than copying 4 KiB (40 ns at 100 GB/s).
const COPY_LEN_MAX: usize = 16 * 1024;

/// The length at which coalesced frames are written to their stream, in bytes.
const COALESCE_LEN: usize = 48 * 1024;

/// The bounds of the data accepted beyond a congestion window; between them, as much as the window.
///
/// The session can no longer reorder accepted data. Without any reserve, however, a loss would
/// stall the stream until it is recovered.
const AHEAD_LEN_MIN: u64 = 64 << 10;
const AHEAD_LEN_MAX: u64 = 1 << 20;

/// The number of bytes accepted before packets are built: about four full batches.
const PULL_LEN: usize = 256 << 10;

/// The priority of the control stream; lanes have priority 0.
const CONTROL_PRIORITY: i32 = 1;

/// The result of [`SendStreams::pull`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PullResult {
    /// The source has no more frames for the available capacity.
    Drained,
    /// The source may have more frames.
    More,
}

/// All streams of this side.
#[derive(Debug, Default)]
pub(super) struct SendStreams {
    /// Control and the lanes used so far, indexed by stream type.
    streams: Vec<SendStreamState>,
    /// A bit for each stream type with a backlog.
    blocked: u64,
    coalescer: FrameCoalescer,
}

/// One stream of this side.
#[derive(Debug, Default)]
struct SendStreamState {
    stream: Option<StreamId>,
    type_known: bool,
    /// Chunks that the stream does not accept at present. While there are any, no frame of this
    /// order is pulled.
    backlog: Vec<Bytes>,
}

/// Coalesced frames of one order, not yet written to their stream.
#[derive(Debug, Default)]
struct FrameCoalescer {
    stream_type: usize,
    bytes: BytesMut,
}

impl SendStreams {
    /// Pulls frames from `source` and writes them to their streams, about [`PULL_LEN`] bytes at
    /// most.
    pub(super) fn pull(
        &mut self,
        conn: &mut Connection,
        source: &mut dyn FrameSource,
    ) -> Result<PullResult, End> {
        let window = conn.congestion_state().window();
        let ahead = window.clamp(AHEAD_LEN_MIN, AHEAD_LEN_MAX);
        conn.set_send_window(window.saturating_add(ahead).min(SEND_WINDOW_MAX));
        self.retry(conn)?;
        let mut capacity = self.capacity(conn);
        let mut taken = 0;
        let pulled = loop {
            if taken >= PULL_LEN {
                break PullResult::More;
            }
            let Some(frame) = source.next_frame(&capacity) else {
                break PullResult::Drained;
            };
            taken += frame.len() + PREFIX_LEN;
            let blocked = self.blocked;
            match frame.order {
                FrameOrder::Datagram => {
                    send_datagram(conn, &frame)?;
                    capacity.datagram_max = datagram_capacity(conn);
                }
                FrameOrder::Control => self.enqueue(conn, 0, frame)?,
                FrameOrder::Lane(lane) => self.enqueue(conn, 1 + usize::from(lane), frame)?,
            }
            if self.blocked != blocked {
                self.mark_blocked(&mut capacity);
            }
        };
        self.flush(conn)?;
        Ok(pulled)
    }

    /// Writes the backlogs again.
    pub(super) fn retry(&mut self, conn: &mut Connection) -> Result<(), End> {
        let mut remaining = self.blocked;
        while remaining != 0 {
            let stream_type = remaining.trailing_zeros() as usize;
            remaining &= remaining - 1;
            let mut chunks = std::mem::take(&mut self.streams[stream_type].backlog);
            self.write(conn, stream_type, &mut chunks)?;
        }
        Ok(())
    }

    /// Whether a stream has a backlog.
    pub(super) const fn has_backlog(&self) -> bool {
        self.blocked != 0
    }

    /// Finishes all streams, so that the peer acknowledges their ends. Call it when no more frames
    /// follow.
    pub(super) fn finish(&mut self, conn: &mut Connection) {
        for stream_type in &mut self.streams {
            if let Some(stream) = stream_type.stream.take() {
                // Fails only if the peer has stopped the stream; its end is then irrelevant.
                let _ = conn.send_stream(stream).finish();
            }
        }
    }

    fn capacity(&self, conn: &mut Connection) -> SendCapacity {
        let mut capacity = SendCapacity {
            frame_max: FRAME_LEN_MAX,
            datagram_max: datagram_capacity(conn),
            blocked: LaneSet::EMPTY,
            control_blocked: false,
        };
        self.mark_blocked(&mut capacity);
        capacity
    }

    fn mark_blocked(&self, capacity: &mut SendCapacity) {
        capacity.control_blocked = self.blocked & 1 != 0;
        capacity.blocked = LaneSet::EMPTY;
        let mut lanes = self.blocked >> 1;
        while lanes != 0 {
            // There are at most 32 lanes.
            capacity.blocked.insert(lanes.trailing_zeros() as u8);
            lanes &= lanes - 1;
        }
    }

    /// Appends a frame to those of its order.
    fn enqueue(
        &mut self,
        conn: &mut Connection,
        stream_type: usize,
        frame: Frame,
    ) -> Result<(), End> {
        if stream_type >= STREAMS_MAX {
            return Err(End::broken(io::Error::other("a frame of an unknown lane")));
        }
        if self.streams.len() <= stream_type {
            self.streams
                .resize_with(stream_type + 1, SendStreamState::default);
        }
        if self.coalescer.stream_type != stream_type || self.coalescer.bytes.len() >= COALESCE_LEN {
            self.flush(conn)?;
            self.coalescer.stream_type = stream_type;
        }
        let out = &mut self.coalescer.bytes;
        if !std::mem::replace(&mut self.streams[stream_type].type_known, true) {
            out.put_u8(u8::try_from(stream_type).unwrap_or(u8::MAX));
        }
        // A frame has at most 64 KiB.
        out.put_u32_le(u32::try_from(frame.len()).unwrap_or(u32::MAX));
        if frame.body.len() <= COPY_LEN_MAX {
            frame.write_to(out);
            return Ok(());
        }
        out.put_slice(frame.header.as_slice());
        let mut chunks = [out.split().freeze(), frame.body];
        self.write(conn, stream_type, &mut chunks)
    }

    /// Writes the coalesced frames to their stream.
    fn flush(&mut self, conn: &mut Connection) -> Result<(), End> {
        if self.coalescer.bytes.is_empty() {
            return Ok(());
        }
        let bytes = self.coalescer.bytes.split().freeze();
        self.write(conn, self.coalescer.stream_type, &mut [bytes])
    }

    /// Writes `chunks` to the stream of `stream_type`, or appends them to its backlog.
    fn write(
        &mut self,
        conn: &mut Connection,
        stream_type: usize,
        chunks: &mut [Bytes],
    ) -> Result<(), End> {
        let out = &mut self.streams[stream_type];
        let is_written = out.backlog.is_empty() && {
            if out.stream.is_none() {
                out.stream = conn.streams().open(Dir::Uni);
                if let (Some(stream), 0) = (out.stream, stream_type) {
                    // Fails only for a stream that does not exist.
                    let _ = conn.send_stream(stream).set_priority(CONTROL_PRIORITY);
                }
            }
            match out.stream {
                Some(stream) => write_all(conn, stream, chunks)?,
                None => false,
            }
        };
        if is_written {
            self.blocked &= !(1 << stream_type);
        } else {
            let rest = chunks.iter_mut().map(std::mem::take);
            out.backlog.extend(rest.filter(|chunk| !chunk.is_empty()));
            self.blocked |= 1 << stream_type;
        }
        Ok(())
    }
}

/// Writes until the stream is blocked. Returns whether everything was written.
fn write_all(conn: &mut Connection, stream: StreamId, chunks: &mut [Bytes]) -> Result<bool, End> {
    while chunks.iter().any(|chunk| !chunk.is_empty()) {
        match conn.send_stream(stream).write_chunks(chunks) {
            Ok(_) => {}
            Err(WriteError::Blocked) => return Ok(false),
            Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                return Err(End::Misbehaved {
                    what: "a stream was stopped",
                });
            }
        }
    }
    Ok(true)
}

/// The maximum length of a datagram that can be accepted; 0 if there is no space for one of full
/// length.
fn datagram_capacity(conn: &mut Connection) -> usize {
    let max = conn.datagrams().max_size().unwrap_or(0);
    if conn.datagrams().send_buffer_space() >= max {
        max.min(FRAME_LEN_MAX)
    } else {
        0
    }
}

fn send_datagram(conn: &mut Connection, frame: &Frame) -> Result<(), End> {
    let bytes = if frame.header.as_slice().is_empty() {
        frame.body.clone()
    } else {
        let mut bytes = BytesMut::with_capacity(frame.len());
        frame.write_to(&mut bytes);
        bytes.freeze()
    };
    match conn.datagrams().send(bytes, false) {
        Ok(()) => Ok(()),
        // The source exceeded the capacity that it was given; a datagram may be lost.
        Err(SendDatagramError::TooLarge | SendDatagramError::Blocked(_)) => {
            tracing::debug!(len = frame.len(), "datagram frame dropped: it does not fit");
            Ok(())
        }
        Err(SendDatagramError::UnsupportedByPeer | SendDatagramError::Disabled) => {
            Err(End::Misbehaved {
                what: "it takes no datagrams",
            })
        }
    }
}
