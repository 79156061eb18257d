//! The outputs of one call, in memory that the next call reuses.

/// The capacity that is kept for the next call after a call that wrote less than this.
const KEPT_BYTES: usize = 64 << 10;

/// One message that a guest wrote. It borrows memory of the instance, until the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestOutput<'a> {
    /// The tag of the message.
    pub tag: u32,
    /// The target that the guest named, or `None` for all functions that observe the tag. Any string of
    /// the guest, within the bytes of [`GuestLimits::output_bytes`](crate::GuestLimits::output_bytes).
    pub target: Option<&'a str>,
    /// The payload of the message.
    pub payload: &'a [u8],
}

/// The outputs of one call, in the order in which the guest wrote them.
#[derive(Debug, Clone)]
pub struct Outputs<'a> {
    entries: std::slice::Iter<'a, OutputEntry>,
    payloads: &'a [u8],
}

impl<'a> Iterator for Outputs<'a> {
    type Item = GuestOutput<'a>;

    fn next(&mut self) -> Option<GuestOutput<'a>> {
        let entry = self.entries.next()?;
        let (payload, rest) = self.payloads.split_at(entry.payload_len);
        self.payloads = rest;
        Some(GuestOutput {
            tag: entry.tag,
            target: entry.target.as_deref(),
            payload,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}

impl ExactSizeIterator for Outputs<'_> {}

/// Collects the outputs of a call. Payloads are contiguous, so that a call allocates nothing once the
/// buffer is large enough.
#[derive(Debug, Default)]
pub(crate) struct OutputBuffer {
    entries: Vec<OutputEntry>,
    payloads: Vec<u8>,
}

#[derive(Debug)]
struct OutputEntry {
    tag: u32,
    target: Option<String>,
    payload_len: usize,
}

impl OutputBuffer {
    /// Adds a message; `bytes_left` is how many bytes the guest may write after it.
    pub(crate) fn push(
        &mut self,
        tag: u32,
        target: Option<String>,
        payload: &[u8],
        bytes_left: usize,
    ) {
        self.make_room(payload.len(), bytes_left);
        self.payloads.extend_from_slice(payload);
        self.entries.push(OutputEntry {
            tag,
            target,
            payload_len: payload.len(),
        });
    }

    /// Doubles as a vector does, but never holds more than the guest may write.
    fn make_room(&mut self, len: usize, bytes_left: usize) {
        if self.payloads.capacity() - self.payloads.len() < len {
            let spare = self.payloads.len().min(bytes_left);
            self.payloads.reserve_exact(len + spare);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn outputs(&self) -> Outputs<'_> {
        Outputs {
            entries: self.entries.iter(),
            payloads: &self.payloads,
        }
    }

    /// Removes all outputs. Frees the memory of a large call after the next small one.
    pub(crate) fn clear(&mut self) {
        if self.payloads.capacity() > KEPT_BYTES && self.payloads.len() <= KEPT_BYTES {
            self.payloads.shrink_to(KEPT_BYTES);
        }
        self.payloads.clear();
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_returned_as_they_were_written() {
        let mut written = OutputBuffer::default();
        written.push(1, None, b"one", 100);
        written.push(2, Some("t".into()), b"", 100);
        written.push(3, None, b"three", 95);
        let outputs: Vec<_> = written.outputs().map(|it| (it.tag, it.payload)).collect();
        assert_eq!(outputs, [(1, &b"one"[..]), (2, b""), (3, b"three")]);
        assert_eq!(written.outputs().nth(1).and_then(|it| it.target), Some("t"));
        written.clear();
        assert_eq!(written.outputs().len(), 0);
    }

    #[test]
    fn the_buffer_is_no_larger_than_the_output_limit() {
        let (mut written, max) = (OutputBuffer::default(), 1000);
        for count in 1..=10 {
            written.push(1, None, &[0; 100], max - 100 * count);
        }
        assert_eq!(written.payloads.capacity(), max);
    }

    #[test]
    fn memory_of_a_large_output_is_freed_after_a_small_one() {
        let mut written = OutputBuffer::default();
        for len in [8 * KEPT_BYTES, 1] {
            written.push(1, None, &vec![0; len], 0);
            written.clear();
        }
        assert!(written.payloads.capacity() <= KEPT_BYTES);
    }
}
