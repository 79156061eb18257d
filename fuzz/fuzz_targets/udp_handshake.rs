//! The handshake of plain UDP, with a datagram of an unauthenticated peer.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use selvedge_transport::{Identity, fuzzing};

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::generate().expect("randomness"));

fuzz_target!(|datagram: &[u8]| fuzzing::udp_handshake(&IDENTITY, datagram));
