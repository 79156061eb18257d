//! Messages in a byte stream: what is read back is what was written.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../zipper/src/records.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod records;
use records::{Framing, RecordReader, write};

fuzz_target!(|bytes: &[u8]| {
    for framing in [Framing::Lines, Framing::LengthPrefixed] {
        let mut reader = RecordReader::new(bytes, framing, 4096);
        while let Ok(Some(message)) = reader.read() {
            let mut written = Vec::new();
            write(&mut written, framing, &message).expect("memory");
            let again = RecordReader::new(&written[..], framing, 4096).read();
            // A line may end in what would be taken for a part of its end.
            let is_kept = again.expect("it was written").expect("one") == message;
            assert!(is_kept || framing == Framing::Lines && message.ends_with(b"\r"));
        }
    }
});
