//! The messages between clients and zippers: what decodes encodes to the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

#[path = "../../zipper/src/tag.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod tag;
#[path = "../../zipper/src/wire.rs"]
#[allow(dead_code, unused_imports, reason = "a part of it is used")]
mod wire;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = wire::WireMessage::decode(Bytes::copy_from_slice(bytes)) {
        assert_eq!(message.encode().expect("what decodes encodes"), bytes);
    }
});
