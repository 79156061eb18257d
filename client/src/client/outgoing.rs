//! Messages that go to the zipper together.

/// What is kept for the next messages.
const KEPT_BYTES: usize = 256 << 10;

/// Messages with their heads, one behind the other, the first of them to be written next.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    /// Where each message ends, also those that are written.
    ends: Vec<usize>,
    /// How many are written, and how many bytes they are.
    written: usize,
    written_bytes: usize,
}

impl Outgoing {
    /// Adds a message. If its head cannot be put, nothing is added.
    pub fn push<E>(
        &mut self,
        payload: &[u8],
        put_head: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.bytes.len();
        let put = put_head(&mut self.bytes);
        if put.is_err() {
            self.bytes.truncate(start);
            return put;
        }
        self.bytes.extend_from_slice(payload);
        self.ends.push(self.bytes.len());
        Ok(())
    }

    /// The message to be written next.
    pub fn first(&self) -> Option<&[u8]> {
        let end = *self.ends.get(self.written)?;
        Some(&self.bytes[self.written_bytes..end])
    }

    /// The first is written, or given up.
    pub fn pop(&mut self) {
        if let Some(end) = self.ends.get(self.written) {
            (self.written, self.written_bytes) = (self.written + 1, *end);
        }
        if self.is_empty() {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.ends.clear();
        (self.written, self.written_bytes) = (0, 0);
    }

    /// How many are to be written.
    pub const fn len(&self) -> usize {
        self.ends.len() - self.written
    }

    /// How many bytes they are.
    pub fn bytes(&self) -> usize {
        self.bytes.len() - self.written_bytes
    }

    /// Whether none is to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(outgoing: &mut Outgoing, head: &[u8], payload: &[u8]) {
        let put = |out: &mut Vec<u8>| {
            out.extend_from_slice(head);
            Ok::<(), ()>(())
        };
        outgoing.push(payload, put).expect("the head is put");
    }

    #[test]
    fn messages_come_out_as_they_were_put_in() {
        let mut outgoing = Outgoing::default();
        push(&mut outgoing, b"a", b"1");
        push(&mut outgoing, b"b", b"");
        assert_eq!((outgoing.len(), outgoing.bytes()), (2, 3));
        assert_eq!(outgoing.first(), Some(&b"a1"[..]));
        outgoing.pop();
        push(&mut outgoing, b"c", b"22");
        assert_eq!((outgoing.len(), outgoing.bytes()), (2, 4));
        for expected in [&b"b"[..], b"c22"] {
            assert_eq!(outgoing.first(), Some(expected));
            outgoing.pop();
        }
        assert_eq!((outgoing.first(), outgoing.bytes()), (None, 0));
    }

    #[test]
    fn a_message_whose_head_cannot_be_put_leaves_nothing() {
        let mut outgoing = Outgoing::default();
        push(&mut outgoing, b"a", b"1");
        let refused = outgoing.push(b"2", |out| {
            out.push(0);
            Err("too long")
        });
        assert_eq!(refused, Err("too long"));
        assert_eq!((outgoing.len(), outgoing.first()), (1, Some(&b"a1"[..])));
    }
}
