//! The log of a source: unsettled messages.

use std::collections::VecDeque;
use std::ops::Deref;

use bytes::Bytes;

/// Longer payloads are kept as they are, shorter ones are copied into chunks.
const COPY_MAX: usize = 4 << 10;

/// How long a chunk of copied payloads may become. A log that has been long keeps one when it is empty.
const CHUNK_LEN: usize = 64 << 10;

/// What a message costs in a log beside its payload, so that empty messages fill it, too.
const MESSAGE_COST: u64 = 64;

/// Messages in the order in which they were written.
#[derive(Debug, Default)]
pub(super) struct MessageLog {
    entries: VecDeque<LogEntry>,
    chunks: VecDeque<Chunk>,
    /// The number of the first chunk. Numbers wrap around.
    first_chunk: u32,
    /// A chunk that is not in use.
    spare: Vec<u8>,
    /// What the messages cost, in bytes.
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct LogEntry {
    chunk: u32,
    start: u32,
    len: u32,
    flags: u8,
}

#[derive(Debug)]
enum Chunk {
    Copied(Vec<u8>),
    Kept(Bytes),
}

/// The payload of a message in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoggedPayload<'a> {
    /// It shares memory with other messages: to be copied.
    Copied(&'a [u8]),
    /// It is longer than 4 KiB, and has memory of its own.
    Kept(&'a Bytes),
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

/// What a payload costs in a log, in bytes.
#[inline]
pub(super) const fn cost_of(payload_len: usize) -> u64 {
    (payload_len as u64).saturating_add(MESSAGE_COST)
}

impl MessageLog {
    #[inline]
    pub(super) fn push(&mut self, payload: &[u8], flags: u8) {
        if payload.len() > COPY_MAX {
            return self.keep(Bytes::copy_from_slice(payload), flags);
        }
        let has_room = match self.chunks.back() {
            Some(Chunk::Copied(data)) => data.len() + payload.len() <= CHUNK_LEN,
            _ => false,
        };
        if !has_room {
            let data = std::mem::take(&mut self.spare);
            self.chunks.push_back(Chunk::Copied(data));
        }
        let Some(Chunk::Copied(data)) = self.chunks.back_mut() else {
            return;
        };
        let start = data.len() as u32;
        data.extend_from_slice(payload);
        self.push_entry(start, payload.len(), flags);
    }

    /// Adds a message without a copy if it is long.
    pub(super) fn push_bytes(&mut self, payload: &Bytes, flags: u8) {
        match payload.len() > COPY_MAX {
            true => self.keep(payload.clone(), flags),
            false => self.push(payload, flags),
        }
    }

    fn keep(&mut self, payload: Bytes, flags: u8) {
        let len = payload.len();
        self.chunks.push_back(Chunk::Kept(payload));
        self.push_entry(0, len, flags);
    }

    #[inline]
    fn push_entry(&mut self, start: u32, len: usize, flags: u8) {
        let last = self.chunks.len() as u32 - 1;
        self.entries.push_back(LogEntry {
            chunk: self.first_chunk.wrapping_add(last),
            start,
            // Longer ones are kept, and have a chunk of their own.
            len: u32::try_from(len).unwrap_or(u32::MAX),
            flags,
        });
        self.bytes += cost_of(len);
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the message at a position costs, in bytes.
    #[inline]
    pub(super) fn cost(&self, at: usize) -> Option<u64> {
        self.entries.get(at).map(|entry| self.cost_of_entry(entry))
    }

    #[inline]
    fn cost_of_entry(&self, entry: &LogEntry) -> u64 {
        match entry.len {
            u32::MAX => cost_of(self.payload(entry).map_or(0, |it| it.len())),
            len => cost_of(len as usize),
        }
    }

    /// The length of the payload at a position.
    #[inline]
    pub(super) fn payload_len(&self, at: usize) -> Option<usize> {
        let entry = self.entries.get(at)?;
        match entry.len {
            u32::MAX => self.payload(entry).map(|it| it.len()),
            len => Some(len as usize),
        }
    }

    /// The message at a position, with its flags.
    #[inline]
    pub(super) fn get(&self, at: usize) -> Option<(LoggedPayload<'_>, u8)> {
        let entry = self.entries.get(at)?;
        Some((self.payload(entry)?, entry.flags))
    }

    #[inline]
    fn payload(&self, entry: &LogEntry) -> Option<LoggedPayload<'_>> {
        let chunk = entry.chunk.wrapping_sub(self.first_chunk) as usize;
        Some(match self.chunks.get(chunk)? {
            Chunk::Copied(data) => {
                let start = entry.start as usize;
                LoggedPayload::Copied(&data[start..start + entry.len as usize])
            }
            Chunk::Kept(payload) => LoggedPayload::Kept(payload),
        })
    }

    /// Removes the first messages. Returns what they cost, in bytes.
    pub(super) fn remove_first(&mut self, count: usize) -> u64 {
        let removed = self.entries.iter().take(count);
        let bytes = removed.map(|entry| self.cost_of_entry(entry)).sum();
        self.entries.drain(..count);
        self.bytes -= bytes;
        let unused = match self.entries.front() {
            Some(entry) => entry.chunk.wrapping_sub(self.first_chunk) as usize,
            None => self.chunks.len(),
        };
        for _ in 0..unused {
            let chunk = self.chunks.pop_front();
            self.first_chunk = self.first_chunk.wrapping_add(1);
            if let Some(Chunk::Copied(mut data)) = chunk
                && data.capacity() >= self.spare.capacity()
            {
                data.clear();
                self.spare = data;
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_every_length_keep_their_content_and_flags() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut log, mut model) = (MessageLog::default(), VecDeque::new());
        for number in 0..20_000_u32 {
            let len = match rng.u8(..20) {
                0 => rng.usize(COPY_MAX - 1..COPY_MAX + 3),
                1 => 0,
                _ => rng.usize(..200),
            };
            let payload = Bytes::from(vec![number as u8; len]);
            match rng.bool() {
                true => log.push(&payload, number as u8),
                false => log.push_bytes(&payload, number as u8),
            }
            model.push_back((payload, number as u8));
            if rng.u8(..50) == 0 {
                let count = rng.usize(..=model.len());
                let removed = model.drain(..count).map(|(it, _)| cost_of(it.len()));
                let bytes: u64 = removed.sum();
                assert_eq!(log.remove_first(count), bytes);
            }
            let at = rng.usize(..=model.len());
            let found = log.get(at).map(|(it, flags)| (it.to_vec(), flags));
            let expected = model.get(at).map(|(it, flags)| (it.to_vec(), *flags));
            assert_eq!(found, expected);
            let bytes: u64 = match number % 100 {
                0 => model.iter().map(|(it, _)| cost_of(it.len())).sum(),
                _ => log.bytes(),
            };
            assert_eq!(log.bytes(), bytes);
        }
        log.remove_first(log.len());
        assert_eq!((log.bytes(), log.chunks.len()), (0, 0));
        // A chunk grows by doubling.
        assert!(log.spare.capacity() <= 2 * CHUNK_LEN);
    }
}
