//! Messages in a byte stream: a message that was written is read back unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge_zipper::records::{Framing, RecordReader, write};

fuzz_target!(|bytes: &[u8]| {
    for framing in [Framing::Lines, Framing::LengthPrefixed] {
        let mut reader = RecordReader::new(bytes, framing, 4096);
        while let Ok(Some(message)) = reader.read() {
            let mut written = Vec::new();
            write(&mut written, framing, &message).expect("memory");
            let again = RecordReader::new(&written[..], framing, 4096).read();
            let is_kept = again.expect("it was written").expect("one") == message;
            // A carriage return at the end of a line counts as a part of the line's end.
            assert!(is_kept || framing == Framing::Lines && message.ends_with(b"\r"));
        }
    }
});
