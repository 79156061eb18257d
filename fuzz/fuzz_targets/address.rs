//! Addresses and node ids: a value that was parsed is printed as text that parses to the same value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge_transport::{Address, NodeId};

fuzz_target!(|text: &str| {
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(
            address.to_string().parse::<Address>().as_ref(),
            Ok(&address)
        );
    }
    if let Ok(node) = text.parse::<NodeId>() {
        assert_eq!(node.to_string().parse::<NodeId>(), Ok(node));
    }
});
