//! What a guest has written in one call, in memory that the next call uses again.

/// What is kept for the next call after one that wrote less than this.
const KEPT_BYTES: usize = 64 << 10;

/// One message that a guest wrote. It lies in memory of its instance, until the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestOutput<'a> {
    /// What kind of message it is.
    pub tag: u32,
    /// The one receiver that the guest named, or `None` for all that observe the tag. Chosen by the
    /// guest: any string, within the bytes of [`GuestLimits::output_bytes`](crate::Limits::output_bytes).
    pub target: Option<&'a str>,
    /// The message itself.
    pub payload: &'a [u8],
}

/// The outputs of one call, in the order in which the guest wrote them.
#[derive(Debug, Clone)]
pub struct Outputs<'a> {
    entries: std::slice::Iter<'a, Entry>,
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

/// The outputs as they are written: payloads one behind the other, so that a call allocates nothing
/// once the room for them is there.
#[derive(Debug, Default)]
pub(crate) struct Written {
    entries: Vec<Entry>,
    payloads: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    tag: u32,
    target: Option<String>,
    payload_len: usize,
}

impl Written {
    /// Adds a message; `bytes_left` is what the guest may write after it.
    pub(crate) fn push(
        &mut self,
        tag: u32,
        target: Option<String>,
        payload: &[u8],
        bytes_left: usize,
    ) {
        self.make_room(payload.len(), bytes_left);
        self.payloads.extend_from_slice(payload);
        self.entries.push(Entry {
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

    /// Forgets them. What much took is given back once little is written again.
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
    fn outputs_come_back_as_they_were_written() {
        let mut written = Written::default();
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
    fn it_holds_no_more_than_the_guest_may_write() {
        let (mut written, max) = (Written::default(), 1000);
        for count in 1..=10 {
            written.push(1, None, &[0; 100], max - 100 * count);
        }
        assert_eq!(written.payloads.capacity(), max);
    }

    #[test]
    fn memory_of_a_large_output_is_given_back_after_a_small_one() {
        let mut written = Written::default();
        for len in [8 * KEPT_BYTES, 1] {
            written.push(1, None, &vec![0; len], 0);
            written.clear();
        }
        assert!(written.payloads.capacity() <= KEPT_BYTES);
    }
}
