//! Messages in a byte stream: one a line, or each with its length before it.

use std::io::{self, BufRead, Read, Write};

use bytes::Bytes;

/// How messages are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A message is a line, without its end (`\n` or `\r\n`).
    Lines,
    /// A message is its length (4 bytes, big-endian) and then its bytes.
    LengthPrefixed,
}

/// Why no further message can be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The operating system refused.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// The input's fault: it was cut, or is not made of records.
    #[error("the input ends within a record: {got} of {wanted} bytes are there")]
    Truncated {
        /// What is there of it.
        got: usize,
        /// How long it should be.
        wanted: usize,
    },
    /// The input's fault, or it has another framing.
    #[error(
        "a message of {len} bytes or more is longer than the {max} that are allowed: \
         is this the right format?"
    )]
    TooLong {
        /// How long it says it is, or how much of it was read.
        len: usize,
        /// The most that is allowed.
        max: usize,
    },
}

/// Reads messages.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    framing: Framing,
    len_max: usize,
}

impl<R: BufRead> Reader<R> {
    /// Reads messages of at most `len_max` bytes.
    pub const fn new(input: R, framing: Framing, len_max: usize) -> Self {
        Self {
            input,
            framing,
            len_max,
        }
    }

    /// The next message; none at the end of the input.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read(&mut self) -> Result<Option<Bytes>, RecordError> {
        match self.framing {
            Framing::Lines => self.read_line(),
            Framing::LengthPrefixed => self.read_record(),
        }
    }

    fn read_line(&mut self) -> Result<Option<Bytes>, RecordError> {
        let (mut line, max) = (Vec::new(), self.len_max);
        // Room for the end of the line too: a line without end costs no more memory than this.
        let limit = max as u64 + 2;
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
            if line.last() == Some(&b'\r') {
                line.pop();
            }
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
        let head = self.read_up_to(4)?;
        let Ok(head) = <[u8; 4]>::try_from(head.as_slice()) else {
            return match head.len() {
                0 => Ok(None),
                got => Err(RecordError::Truncated { got, wanted: 4 }),
            };
        };
        let (len, max) = (u32::from_be_bytes(head) as usize, self.len_max);
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

    /// Grows with what is there, not with what a length promises.
    fn read_up_to(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.input
            .by_ref()
            .take(len as u64)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Writes a message.
///
/// # Errors
/// What the operating system says.
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
        let mut reader = Reader::new(input, framing, 8);
        std::iter::from_fn(|| reader.read().transpose()).collect()
    }

    #[test]
    fn lines_end_as_on_unix_or_windows_or_with_the_input() {
        let lines = all(b"a\n\nb\r\nlast", Framing::Lines).unwrap();
        assert_eq!(lines, ["a", "", "b", "last"]);
    }

    #[test]
    fn records_read_back_as_they_were_written() {
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
    fn what_is_too_long_is_refused_before_it_is_read() {
        let error = all(b"\xff\xff\xff\xff", Framing::LengthPrefixed).unwrap_err();
        assert!(matches!(error, RecordError::TooLong { max: 8, .. }));
        let error = all(b"123456789\n", Framing::Lines).unwrap_err();
        assert!(matches!(error, RecordError::TooLong { max: 8, .. }));
        assert_eq!(all(b"12345678\r\n", Framing::Lines).unwrap(), ["12345678"]);
    }
}
