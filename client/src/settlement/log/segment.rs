//! A segment of a log: consecutive messages, and the memory of their payloads.
//!
//! Short payloads are copied one after another, in runs of consecutive messages. The memory of a run is free once all of
//! its messages are released. Long payloads are kept as they are, and released alone.

use std::ops::Deref;

use bytes::Bytes;
use selvedge_hub::EncodedBatch;

use super::cost_of;

/// Longer payloads are kept as they are. With its head, none is longer than what a send buffer copies.
pub(super) const COPY_MAX: usize = (16 << 10) - 32;

/// Longer payloads are kept as they are if they have memory of their own, and a send buffer does not copy them.
pub(super) const KEEP_MIN: usize = 4 << 10;

/// The run of an entry whose payload is kept.
const KEPT: u8 = u8::MAX;

/// A run ends once it has so many bytes: it is at most 48 KiB long then, and one frame.
pub(super) const RUN_LEN: usize = 32 << 10;

/// Shorter runs are sent message by message: a batch has memory of its own.
const BATCH_LEN_MIN: usize = 1 << 10;

/// How many messages a segment has: as many as a mask has bits.
pub(super) const SEGMENT_LEN: u64 = u64::BITS as u64;

/// How much memory a log keeps for further messages, in bytes, and when it is empty. What is freed may be returned to
/// the operating system, and page faults cost as much as copying.
pub(super) const SPARE_LEN_MAX: usize = 4 << 20;
pub(super) const SPARE_LEN_IDLE: usize = 128 << 10;

/// The payload of a message in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoggedPayload<'a> {
    /// It shares memory with other messages: to be copied.
    Copied(&'a [u8]),
    /// It has memory of its own, which is kept if the payload is longer than 4 KiB.
    Kept(&'a Bytes),
}

impl LoggedPayload<'_> {
    /// Whether a log keeps the payload as it is.
    #[inline]
    pub(super) fn is_kept(&self) -> bool {
        match self {
            Self::Copied(payload) => payload.len() > COPY_MAX,
            Self::Kept(payload) => payload.len() > KEEP_MIN,
        }
    }
}

impl Deref for LoggedPayload<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Copied(payload) => payload,
            Self::Kept(payload) => payload,
        }
    }
}

/// What precedes a payload when it is sent.
#[derive(Debug, Clone, Copy)]
pub(in crate::settlement) struct MessageHead<'a> {
    /// The attachment for which it is valid.
    pub(in crate::settlement) attachment: u32,
    pub(in crate::settlement) bytes: &'a [u8],
}

/// Consecutive messages as they are sent, with their heads.
#[derive(Debug)]
pub(in crate::settlement) struct LoggedBatch<'a> {
    pub(in crate::settlement) batch: &'a EncodedBatch,
    /// How many messages it has.
    pub(in crate::settlement) len: u64,
    /// What they cost in the log.
    pub(in crate::settlement) cost: u64,
}

/// Consecutive messages.
#[derive(Debug, Default)]
pub(super) struct LogSegment {
    entries: Vec<LogEntry>,
    runs: Vec<LogRun>,
    kept: Vec<Bytes>,
    /// The messages that are not released: bit 0 stands for the first one.
    live: u64,
    /// What they cost, with those whose memory they share.
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct LogEntry {
    /// Where a copied payload begins in its run, or the place of one that is kept.
    at: u32,
    len: u32,
    flags: u8,
    /// `KEPT` if the payload is kept.
    run: u8,
}

impl LogEntry {
    const fn is_kept(&self) -> bool {
        self.run == KEPT
    }
}

/// Consecutive messages whose payloads were copied.
#[derive(Debug)]
struct LogRun {
    first: u8,
    /// Behind the last message; 0 while there may be more.
    end: u8,
    /// The attachment of the heads of all messages.
    heads_of: Option<u32>,
    is_freed: bool,
    /// What the messages cost that are not removed.
    bytes: u64,
    /// The payloads, unless they are in `batch`.
    copied: Vec<u8>,
    /// The messages as they are sent.
    batch: Option<EncodedBatch>,
}

/// The bits of the messages of a segment from `from` to the one before `to`.
pub(super) const fn bits(from: u64, to: u64) -> u64 {
    bits_below(to) & !bits_below(from)
}

const fn bits_below(end: u64) -> u64 {
    if end >= SEGMENT_LEN {
        u64::MAX
    } else {
        (1 << end) - 1
    }
}

impl LogSegment {
    /// A segment with room for all of its messages.
    pub(super) fn boxed() -> Box<Self> {
        Box::new(Self {
            entries: Vec::with_capacity(SEGMENT_LEN as usize),
            ..Self::default()
        })
    }

    /// Adds a message whose payload is copied.
    #[inline]
    pub(super) fn copy(
        &mut self,
        payload: &[u8],
        flags: u8,
        head: Option<MessageHead<'_>>,
        memory: &mut SpareMemory,
    ) {
        let heads_of = head.map(|it| it.attachment);
        if self.runs.last().is_none_or(|it| it.end > 0) {
            self.runs.push(LogRun {
                first: self.entries.len() as u8,
                end: 0,
                heads_of,
                is_freed: false,
                bytes: 0,
                copied: memory.take(),
                batch: None,
            });
        }
        let run = self.runs.len() - 1;
        let last = &mut self.runs[run];
        if last.heads_of != heads_of {
            last.heads_of = None;
        }
        last.bytes += cost_of(payload.len());
        let at = match head {
            Some(head) => EncodedBatch::append([head.bytes, payload], &mut last.copied),
            None => {
                last.copied.extend_from_slice(payload);
                last.copied.len() - payload.len()
            }
        };
        let is_full = last.copied.len() >= RUN_LEN;
        let entry = LogEntry {
            at: at as u32,
            len: payload.len() as u32,
            flags,
            run: run as u8,
        };
        self.push(entry, payload.len());
        if is_full || self.is_complete() {
            self.end_run(memory);
        }
    }

    /// Adds a message whose payload is kept as it is.
    pub(super) fn keep(&mut self, payload: LoggedPayload<'_>, flags: u8, memory: &mut SpareMemory) {
        self.end_run(memory);
        let entry = LogEntry {
            at: self.kept.len() as u32,
            len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            flags,
            run: KEPT,
        };
        self.push(entry, payload.len());
        self.kept.push(match payload {
            LoggedPayload::Copied(payload) => Bytes::copy_from_slice(payload),
            LoggedPayload::Kept(payload) => payload.clone(),
        });
    }

    #[inline]
    fn push(&mut self, entry: LogEntry, payload_len: usize) {
        self.live |= 1 << self.entries.len();
        self.bytes += cost_of(payload_len);
        self.entries.push(entry);
    }

    /// The run gets no further message.
    fn end_run(&mut self, memory: &mut SpareMemory) {
        let end = self.entries.len() as u8;
        if let Some(run) = self.runs.last_mut().filter(|it| it.end == 0) {
            let len = run.copied.len();
            run.end = end;
            memory.usual_len = len;
            if run.heads_of.is_some() && len >= BATCH_LEN_MIN {
                run.batch = EncodedBatch::from_encoded(std::mem::take(&mut run.copied));
            }
        }
    }

    const fn is_complete(&self) -> bool {
        self.entries.len() as u64 == SEGMENT_LEN
    }

    /// Whether no message is or will be in it that is not released.
    pub(super) const fn is_released(&self) -> bool {
        self.live == 0 && self.is_complete()
    }

    /// The messages that are not released: bit 0 stands for the first one.
    pub(super) const fn live(&self) -> u64 {
        self.live
    }

    /// What the messages cost, with those whose memory they share.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the messages from a place on cost, of which none is released.
    pub(super) fn cost_from(&self, at: usize) -> u64 {
        let later = self.entries.iter().skip(at);
        later.map(|it| cost_of(self.len_of(it))).sum()
    }

    /// The length of a payload.
    #[inline]
    pub(super) fn payload_len(&self, at: usize) -> Option<usize> {
        self.entries.get(at).map(|entry| self.len_of(entry))
    }

    #[inline]
    fn len_of(&self, entry: &LogEntry) -> usize {
        match entry.len {
            u32::MAX => self.kept.get(entry.at as usize).map_or(0, Bytes::len),
            len => len as usize,
        }
    }

    /// A message, with its flags.
    #[inline]
    pub(super) fn get(&self, at: usize) -> Option<(LoggedPayload<'_>, u8)> {
        let entry = self.entries.get(at)?;
        let (at, len) = (entry.at as usize, entry.len as usize);
        let payload = match entry.is_kept() {
            true => LoggedPayload::Kept(self.kept.get(at)?),
            false => LoggedPayload::Copied(self.runs[usize::from(entry.run)].slice(at, len)?),
        };
        Some((payload, entry.flags))
    }

    /// The run that begins with a message, if it is a batch with heads for an attachment.
    #[inline]
    pub(super) fn batch(&self, at: usize, attachment: u32) -> Option<LoggedBatch<'_>> {
        let entry = self.entries.get(at)?;
        let run = self.runs.get(usize::from(entry.run))?;
        let batch = run.batch.as_ref()?;
        let is_whole = usize::from(run.first) == at && self.live & run.bits() == run.bits();
        (is_whole && run.heads_of == Some(attachment)).then_some(LoggedBatch {
            batch,
            len: u64::from(run.end - run.first),
            cost: run.bytes,
        })
    }

    /// Releases messages. Returns what those cost whose memory is free now.
    pub(super) fn release(&mut self, messages: u64, memory: &mut SpareMemory) -> u64 {
        let mut released = self.live & messages;
        self.live &= !messages;
        let mut freed = 0;
        while released != 0 && !self.kept.is_empty() {
            let at = released.trailing_zeros() as usize;
            released &= released - 1;
            freed += self.drop_kept(at);
        }
        for run in self.runs.iter_mut().filter(|it| !it.is_freed) {
            // One that may get more messages ends if none is left.
            let end = if run.end > 0 {
                run.end
            } else {
                self.entries.len() as u8
            };
            if self.live & bits(run.first.into(), end.into()) == 0 {
                freed += run.bytes;
                run.end = end;
                run.free(memory);
            }
        }
        self.bytes -= freed;
        freed
    }

    /// Removes the messages in front. Returns what they have cost until now.
    pub(super) fn remove(&mut self, from: u64, to: u64) -> u64 {
        let mut freed = 0;
        for at in from..to {
            let was_live = self.live & bits(at, at + 1) != 0;
            let entry = self.entries[at as usize];
            if entry.is_kept() {
                // If it was not live, its cost has ended when it was released.
                freed += if was_live {
                    self.drop_kept(at as usize)
                } else {
                    0
                };
                continue;
            }
            let run = &mut self.runs[usize::from(entry.run)];
            if !run.is_freed {
                let cost = cost_of(entry.len as usize);
                run.bytes -= cost;
                freed += cost;
            }
        }
        self.live &= !bits(from, to);
        self.bytes -= freed;
        freed
    }

    /// Drops a payload, if it is kept. Returns what it has cost.
    fn drop_kept(&mut self, at: usize) -> u64 {
        let entry = self.entries[at];
        if !entry.is_kept() {
            return 0;
        }
        let kept = self.kept.get_mut(entry.at as usize);
        kept.map_or(0, |it| cost_of(std::mem::take(it).len()))
    }

    /// Removes everything.
    pub(super) fn clear(&mut self, memory: &mut SpareMemory) {
        self.entries.clear();
        self.kept.clear();
        self.runs.drain(..).for_each(|mut run| run.free(memory));
        (self.live, self.bytes) = (0, 0);
    }
}

impl LogRun {
    const fn bits(&self) -> u64 {
        bits(self.first as u64, self.end as u64)
    }

    #[inline]
    fn slice(&self, at: usize, len: usize) -> Option<&[u8]> {
        let copied: &[u8] = match &self.batch {
            Some(batch) => batch.bytes(),
            None => &self.copied,
        };
        copied.get(at..at + len)
    }

    fn free(&mut self, memory: &mut SpareMemory) {
        if !std::mem::replace(&mut self.is_freed, true) {
            memory.put(std::mem::take(&mut self.copied), self.batch.take());
        }
    }
}

/// Memory for further messages.
#[derive(Debug, Default)]
pub(super) struct SpareMemory {
    pieces: Vec<Vec<u8>>,
    len: usize,
    /// The length of the last run: memory that grows is copied several times.
    usual_len: usize,
}

impl SpareMemory {
    fn take(&mut self) -> Vec<u8> {
        let piece = self.pieces.pop().inspect(|it| self.len -= it.capacity());
        piece.unwrap_or_else(|| Vec::with_capacity(self.usual_len))
    }

    /// Keeps the memory of a run, unless a send buffer has its messages still.
    fn put(&mut self, copied: Vec<u8>, batch: Option<EncodedBatch>) {
        let memory = match batch {
            Some(batch) => batch.into_memory(),
            None => Some(copied),
        };
        let is_kept = |it: &Vec<u8>| it.capacity() > 0 && self.len + it.capacity() <= SPARE_LEN_MAX;
        if let Some(mut piece) = memory.filter(is_kept) {
            piece.clear();
            self.len += piece.capacity();
            self.pieces.push(piece);
        }
    }

    /// An idle flow keeps little memory.
    pub(super) fn shrink(&mut self) {
        while self.len > SPARE_LEN_IDLE
            && let Some(piece) = self.pieces.pop()
        {
            self.len -= piece.capacity();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let lens = self.pieces.iter().map(Vec::capacity);
        assert_eq!(self.len, lens.sum::<usize>());
        self.len
    }
}
