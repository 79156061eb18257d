//! After a trap the next message is handled by a fresh guest, and the counters show it.

use selvedge_wasm_host::CallError;

use crate::support::{failure, handler, impatient, patient, start};

/// Returns the number of its calls as the error code; traps on tag 13.
const COUNTER: &str = "
    (if (i32.eq (local.get $tag) (i32.const 13)) (then unreachable))
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (global.get $calls)";

fn calls(error: &CallError) -> i32 {
    let CallError::GuestError { code, .. } = error else {
        panic!("{error:?}")
    };
    *code
}

#[test]
fn a_trap_discards_the_memory_and_the_next_call_works() {
    let mut guest = start(&handler(COUNTER), patient());
    assert_eq!(calls(&failure(&mut guest, 1, b"")), 1);
    assert_eq!(calls(&failure(&mut guest, 1, b"")), 2);
    let error = failure(&mut guest, 13, b"");
    assert!(matches!(&error, CallError::Trapped { reason } if reason.contains("unreachable")));
    assert!(error.recycled());
    assert_eq!(guest.stats().memory_bytes, 0, "the memory is freed at once");
    assert_eq!(calls(&failure(&mut guest, 1, b"")), 1, "fresh");
    assert_eq!((guest.stats().trapped, guest.stats().recycled), (1, 1));
}

#[test]
fn every_call_is_counted_once() {
    let body = "
        (if (i32.eq (local.get $tag) (i32.const 1)) (then (return (i32.const 9))))
        (if (i32.eq (local.get $tag) (i32.const 2)) (then unreachable))
        (if (i32.eq (local.get $tag) (i32.const 3)) (then (loop (br 0))))
        (call $emit (i32.const 1) (i32.const 0) (i32.const 10))";
    let mut guest = start(&handler(body), impatient());
    for tag in [0, 1, 2, 3, 0, 2, 0] {
        drop(guest.handle(tag, b"").map(drop));
    }
    let stats = guest.stats();
    assert_eq!((stats.calls, stats.handled, stats.guest_errors), (7, 3, 1));
    assert_eq!(
        (stats.trapped, stats.deadline_exceeded, stats.recycled),
        (2, 1, 3)
    );
    assert_eq!(
        (stats.output_messages, stats.output_bytes, stats.host_calls),
        (3, 30, 3)
    );
}

#[test]
fn a_guest_that_traps_on_every_message_is_fresh_for_every_message() {
    let mut guest = start(&handler("unreachable"), patient());
    for call in 1..=100 {
        assert!(matches!(
            failure(&mut guest, 1, b""),
            CallError::Trapped { .. }
        ));
        assert_eq!(guest.stats().recycled, call);
    }
}

#[test]
fn a_stopped_instance_refuses_further_calls() {
    let mut guest = start(&handler("(i32.const 0)"), patient());
    assert!(guest.handle(1, b"").is_ok());
    guest.stop_handle().stop();
    assert_eq!(failure(&mut guest, 1, b""), CallError::Stopped);
    assert_eq!(failure(&mut guest, 1, b""), CallError::Stopped);
    assert_eq!((guest.stats().stopped, guest.stats().recycled), (2, 1));
}
