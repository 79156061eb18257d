//! Framing of messages in a byte stream: one message per line, or a length before each message.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::Range;

use bytes::Bytes;

/// How messages are delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A message is a line without its terminator, `\n`. A `\r` before it is part of the message, so that
    /// what is written is what was read.
    Lines,
    /// A message follows its length (4 bytes, big-endian).
    LengthPrefixed,
}

/// Why no further message can be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The operating system failed to read.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// The input is truncated, or has another framing.
    #[error("the input ends within a record: only {got} of {wanted} bytes are there")]
    Truncated {
        /// Number of bytes that are there.
        got: usize,
        /// Length of the record.
        wanted: usize,
    },
    /// A message is too long, or the input has another framing.
    #[error(
        "a message of {len} bytes or more exceeds the maximum of {max} bytes; the input may have \
         another framing"
    )]
    TooLong {
        /// The declared length, or the number of bytes read.
        len: usize,
        /// Maximum length.
        max: usize,
    },
}

/// Reads framed messages from an input.
#[derive(Debug)]
pub struct RecordReader<R> {
    input: R,
    framing: Framing,
    len_max: usize,
}

impl<R: BufRead> RecordReader<R> {
    /// Creates a reader for messages of at most `len_max` bytes.
    pub const fn new(input: R, framing: Framing, len_max: usize) -> Self {
        Self {
            input,
            framing,
            len_max,
        }
    }

    /// Reads the next message. Returns `None` at the end of the input.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read(&mut self) -> Result<Option<Bytes>, RecordError> {
        match self.framing {
            Framing::Lines => self.read_line(),
            Framing::LengthPrefixed => self.read_record(),
        }
    }

    /// Passes the next message to `take`, without an allocation if it is buffered. Returns `None` at the end of
    /// the input.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read_with<T>(
        &mut self,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, RecordError> {
        let buffer = self.input.fill_buf()?;
        let Some(record) = self.framing.first(buffer) else {
            return Ok(self.read()?.map(|record| take(&record)));
        };
        let (len, max) = (record.len(), self.len_max);
        if len > max {
            return Err(RecordError::TooLong { len, max });
        }
        let taken = take(&buffer[record.clone()]);
        let end = record.end + usize::from(self.framing == Framing::Lines);
        self.input.consume(end);
        Ok(Some(taken))
    }

    fn read_line(&mut self) -> Result<Option<Bytes>, RecordError> {
        let (mut line, max) = (Vec::new(), self.len_max);
        // The limit includes the terminator, and bounds the memory for a line without one.
        let limit = max as u64 + 1;
        let read = self
            .input
            .by_ref()
            .take(limit)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.len() > max {
            return Err(RecordError::TooLong {
                len: line.len(),
                max,
            });
        }
        Ok(Some(line.into()))
    }

    fn read_record(&mut self) -> Result<Option<Bytes>, RecordError> {
        let prefix = self.read_up_to(4)?;
        let Ok(prefix) = <[u8; 4]>::try_from(prefix.as_slice()) else {
            return match prefix.len() {
                0 => Ok(None),
                got => Err(RecordError::Truncated { got, wanted: 4 }),
            };
        };
        let (len, max) = (u32::from_be_bytes(prefix) as usize, self.len_max);
        if len > max {
            return Err(RecordError::TooLong { len, max });
        }
        let body = self.read_up_to(len)?;
        if body.len() < len {
            return Err(RecordError::Truncated {
                got: body.len(),
                wanted: len,
            });
        }
        Ok(Some(body.into()))
    }

    /// Allocates for the bytes that arrive, not for a declared length.
    fn read_up_to(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.input
            .by_ref()
            .take(len as u64)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl<T: Read> RecordReader<BufReader<T>> {
    /// Whether the next message can be read without waiting for the input.
    #[must_use]
    pub fn has_next(&self) -> bool {
        self.framing.first(self.input.buffer()).is_some()
    }
}

impl Framing {
    /// Where the first message is, if all of it is there.
    fn first(self, bytes: &[u8]) -> Option<Range<usize>> {
        match self {
            Self::Lines => memchr::memchr(b'\n', bytes).map(|end| 0..end),
            Self::LengthPrefixed => {
                let len = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
                let end = len.checked_add(4)?;
                (end <= bytes.len()).then_some(4..end)
            }
        }
    }
}

/// Writes a framed message.
///
/// # Errors
/// The error of the operating system.
pub fn write(output: &mut impl Write, framing: Framing, message: &[u8]) -> io::Result<()> {
    match framing {
        Framing::Lines => {
            output.write_all(message)?;
            output.write_all(b"\n")
        }
        Framing::LengthPrefixed => {
            let len = u32::try_from(message.len()).map_err(io::Error::other)?;
            output.write_all(&len.to_be_bytes())?;
            output.write_all(message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8], framing: Framing) -> Result<Vec<Bytes>, RecordError> {
        let mut reader = RecordReader::new(input, framing, 8);
        let whole: Result<Vec<Bytes>, _> =
            std::iter::from_fn(|| reader.read().transpose()).collect();
        for capacity in 1..20 {
            let input = BufReader::with_capacity(capacity, input);
            let mut reader = RecordReader::new(input, framing, 8);
            let mut read = || reader.read_with(Bytes::copy_from_slice).transpose();
            let buffered: Result<Vec<Bytes>, _> = std::iter::from_fn(&mut read).collect();
            assert_eq!(buffered.as_ref().ok(), whole.as_ref().ok(), "{capacity}");
        }
        whole
    }

    #[test]
    fn a_message_can_be_read_without_waiting_if_all_of_it_is_buffered() {
        let mut reader = RecordReader::new(BufReader::new(&b"a\nb\nc"[..]), Framing::Lines, 8);
        assert!(!reader.has_next());
        assert_eq!(reader.read().unwrap(), Some("a".into()));
        assert!(reader.has_next());
        assert_eq!(reader.read().unwrap(), Some("b".into()));
        assert!(!reader.has_next());
        assert_eq!(reader.read().unwrap(), Some("c".into()));
    }

    #[test]
    fn lines_end_with_a_terminator_or_with_the_input() {
        let lines = all(b"a\n\nb\nlast", Framing::Lines).unwrap();
        assert_eq!(lines, ["a", "", "b", "last"]);
    }

    #[test]
    fn case_5_every_byte_of_a_line_but_its_terminator_is_kept() {
        let input = b"b\r\n\r\n\r\r\n\0\xff\n";
        let lines = all(input, Framing::Lines).unwrap();
        assert_eq!(lines, [&b"b\r"[..], b"\r", b"\r\r", b"\0\xff"]);
        let mut written = Vec::new();
        for line in lines {
            write(&mut written, Framing::Lines, &line).unwrap();
        }
        assert_eq!(written, input);
    }

    #[test]
    fn written_records_are_read_back_unchanged() {
        let mut bytes = Vec::new();
        for message in ["", "one", "two\n"] {
            write(&mut bytes, Framing::LengthPrefixed, message.as_bytes()).unwrap();
        }
        let records = all(&bytes, Framing::LengthPrefixed).unwrap();
        assert_eq!(records, ["", "one", "two\n"]);
    }

    #[test]
    fn an_input_that_ends_within_a_record_is_an_error() {
        for cut in [1, 3, 4, 6] {
            let error = all(&b"\0\0\0\x03abc"[..cut], Framing::LengthPrefixed).unwrap_err();
            assert!(matches!(error, RecordError::Truncated { .. }), "{error}");
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_before_it_is_read() {
        let error = all(b"\xff\xff\xff\xff", Framing::LengthPrefixed).unwrap_err();
        assert!(matches!(error, RecordError::TooLong { max: 8, .. }));
        let error = all(b"123456789\n", Framing::Lines).unwrap_err();
        assert!(matches!(error, RecordError::TooLong { max: 8, .. }));
        assert_eq!(all(b"12345678\n", Framing::Lines).unwrap(), ["12345678"]);
    }
}
