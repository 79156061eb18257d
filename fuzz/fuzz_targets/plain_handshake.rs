//! The handshake of plain streams, with bytes of an unauthenticated peer.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use selvedge_transport::{Identity, fuzzing};

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::generate().expect("randomness"));

fuzz_target!(|bytes: &[u8]| fuzzing::plain_handshake(&IDENTITY, bytes));
