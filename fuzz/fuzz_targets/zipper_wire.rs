//! The messages between clients and zippers: a message that decodes encodes to the same bytes.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use selvedge_client::wire::WireMessage;
use selvedge_client::wire::settlement::{RoutedMessage, SettlementMessage};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = WireMessage::decode(Bytes::copy_from_slice(bytes)) {
        assert_eq!(message.encode().expect("what decodes encodes"), bytes);
    }
    if let Ok(message) = SettlementMessage::decode(Bytes::copy_from_slice(bytes)) {
        assert_eq!(message.encode().expect("what decodes encodes"), bytes);
    }
    if let Some(message) = RoutedMessage::read(bytes) {
        let body = message.split_body(Bytes::copy_from_slice(bytes));
        assert!(body.is_err() || message.body_at <= bytes.len());
    }
});
