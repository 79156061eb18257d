//! A batch of messages, which are written to the zipper together.

/// The capacity that an empty batch keeps, in bytes.
const KEPT_CAPACITY: usize = 256 << 10;

/// Messages that [`Client::write_batch`](crate::Client::write_batch) sends together, which takes one lock
/// and one wake-up of the worker instead of one each per message.
///
/// A batch has no limit of its own: the caller sends it once it has [`len`](Self::len) messages or
/// [`bytes`](Self::bytes) enough.
#[derive(Debug, Default)]
pub struct OutgoingBatch {
    bytes: Vec<u8>,
    /// The end offset and the depth of each message, including those that are written.
    ends: Vec<(usize, u8)>,
    /// The number of written messages, and their bytes.
    written: usize,
    written_bytes: usize,
}

impl OutgoingBatch {
    /// Adds a message. If its header cannot be encoded, nothing is added.
    pub(crate) fn push<E>(
        &mut self,
        payload: &[u8],
        depth: u8,
        encode_header: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.bytes.len();
        let encoded = encode_header(&mut self.bytes);
        if encoded.is_err() {
            self.bytes.truncate(start);
            return encoded;
        }
        self.bytes.extend_from_slice(payload);
        self.ends.push((self.bytes.len(), depth));
        Ok(())
    }

    /// The message to be written next, with its header.
    pub(crate) fn first(&self) -> Option<&[u8]> {
        let (end, _) = *self.ends.get(self.written)?;
        Some(&self.bytes[self.written_bytes..end])
    }

    /// How many functions it has passed.
    pub(crate) fn first_depth(&self) -> u8 {
        self.ends.get(self.written).map_or(0, |it| it.1)
    }

    /// Removes the first message: after it has been written, or to skip it.
    pub fn pop(&mut self) {
        if let Some((end, _)) = self.ends.get(self.written) {
            (self.written, self.written_bytes) = (self.written + 1, *end);
        }
        if self.is_empty() {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_CAPACITY);
        self.ends.clear();
        (self.written, self.written_bytes) = (0, 0);
    }

    /// The number of unwritten messages.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ends.len() - self.written
    }

    /// The bytes of the unwritten messages with their headers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len() - self.written_bytes
    }

    /// Whether every message has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(batch: &mut OutgoingBatch, header: &[u8], payload: &[u8]) {
        let encode = |out: &mut Vec<u8>| {
            out.extend_from_slice(header);
            Ok::<(), ()>(())
        };
        batch
            .push(payload, 0, encode)
            .expect("the header is encoded");
    }

    #[test]
    fn messages_leave_in_the_order_in_which_they_were_added() {
        let mut batch = OutgoingBatch::default();
        push(&mut batch, b"a", b"1");
        push(&mut batch, b"b", b"");
        assert_eq!((batch.len(), batch.bytes()), (2, 3));
        assert_eq!(batch.first(), Some(&b"a1"[..]));
        batch.pop();
        push(&mut batch, b"c", b"22");
        assert_eq!((batch.len(), batch.bytes()), (2, 4));
        for expected in [&b"b"[..], b"c22"] {
            assert_eq!(batch.first(), Some(expected));
            batch.pop();
        }
        assert_eq!((batch.first(), batch.bytes()), (None, 0));
    }

    #[test]
    fn a_message_whose_header_cannot_be_encoded_is_not_added() {
        let mut batch = OutgoingBatch::default();
        push(&mut batch, b"a", b"1");
        let refused = batch.push(b"2", 0, |out| {
            out.push(0);
            Err("too long")
        });
        assert_eq!(refused, Err("too long"));
        assert_eq!((batch.len(), batch.first()), (1, Some(&b"a1"[..])));
    }
}
