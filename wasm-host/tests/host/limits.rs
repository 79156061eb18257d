//! Each limit ends the call that exceeds it, with an error that names the limit.

use std::time::Duration;

use selvedge_wasm_host::{CallError, GuestLimits};

use crate::support::{failure, handler, impatient, patient, start};

#[test]
fn an_infinite_loop_is_stopped() {
    let mut guest = start(&handler("(loop (br 0)) unreachable"), impatient());
    let error = failure(&mut guest, 1, b"");
    assert_eq!(
        error,
        CallError::DeadlineExceeded {
            deadline: Duration::from_millis(200)
        }
    );
    assert!(error.recycled());
}

#[test]
fn an_infinite_loop_of_host_calls_is_stopped_by_the_deadline_too() {
    let spin = "(loop (drop (call $config_get (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))) (br 0)) unreachable";
    let limits = GuestLimits {
        host_calls: u32::MAX,
        ..impatient()
    };
    let mut guest = start(&handler(spin), limits);
    assert!(matches!(
        failure(&mut guest, 1, b""),
        CallError::DeadlineExceeded { .. }
    ));
}

#[test]
fn infinite_recursion_is_a_trap_and_not_a_crash() {
    let recursing = crate::support::module(
        r#"(func $again (result i32) (i32.add (call $again) (i32.const 1)))
           (func (export "handle") (param i32 i32 i32) (result i32) (call $again))"#,
    );
    let mut guest = start(&recursing, patient());
    let CallError::Trapped { reason } = failure(&mut guest, 1, b"") else {
        panic!("a trap")
    };
    assert!(reason.contains("stack"), "{reason}");
}

#[test]
fn a_guest_that_grows_its_memory_until_it_traps_is_stopped() {
    let grow = "(loop (br_if 0 (i32.ge_s (memory.grow (i32.const 16)) (i32.const 0)))) unreachable";
    let limits = GuestLimits {
        memory_bytes: 8 << 20,
        ..patient()
    };
    let mut guest = start(&handler(grow), limits);
    let error = failure(&mut guest, 1, b"");
    assert_eq!(error, CallError::MemoryLimit { limit: 8 << 20 });
    assert!(error.recycled());
}

#[test]
fn a_guest_that_is_refused_memory_may_continue_without() {
    let ask = "(i32.ne (memory.grow (i32.const 4096)) (i32.const -1))";
    let mut guest = start(&handler(ask), patient());
    assert_eq!(guest.handle(1, b"").map(|outputs| outputs.len()), Ok(0));
    assert_eq!(guest.stats().memory_bytes, 65536);
}

#[test]
fn too_many_output_messages_end_the_call() {
    let flood =
        "(loop (drop (call $emit (i32.const 1) (i32.const 0) (i32.const 0))) (br 0)) unreachable";
    let limits = GuestLimits {
        output_messages: 10,
        ..patient()
    };
    let mut guest = start(&handler(flood), limits);
    let error = failure(&mut guest, 1, b"");
    assert_eq!(
        error,
        CallError::OutputLimit {
            limit_messages: 10,
            limit_bytes: 4 << 20
        }
    );
    assert!(error.recycled());
}

#[test]
fn too_many_output_bytes_end_the_call() {
    let flood = "(loop (drop (call $emit (i32.const 1) (i32.const 0) (i32.const 65536))) (br 0)) unreachable";
    let mut guest = start(&handler(flood), patient());
    assert!(matches!(
        failure(&mut guest, 1, b""),
        CallError::OutputLimit { .. }
    ));
    assert_eq!(
        guest.stats().output_bytes,
        0,
        "what a failed call emitted is discarded"
    );
}

#[test]
fn the_last_byte_and_the_last_message_within_the_limits_are_accepted() {
    let exact = "
        (drop (call $emit (i32.const 1) (i32.const 0) (i32.const 6)))
        (drop (call $emit_to (i32.const 1) (i32.const 0) (i32.const 3) (i32.const 0) (i32.const 1)))
        (i32.const 0)";
    let limits = GuestLimits {
        output_bytes: 10,
        output_messages: 2,
        host_calls: 2,
        ..patient()
    };
    let mut guest = start(&handler(exact), limits.clone());
    assert_eq!(guest.handle(1, b"").map(|outputs| outputs.len()), Ok(2));
    assert_eq!(
        (guest.stats().output_bytes, guest.stats().host_calls),
        (10, 2)
    );
    let mut guest = start(
        &handler(exact),
        GuestLimits {
            output_bytes: 9,
            ..limits
        },
    );
    assert!(matches!(
        failure(&mut guest, 1, b""),
        CallError::OutputLimit { .. }
    ));
}

#[test]
fn too_many_host_calls_end_the_call() {
    let calls = "(loop (call $log (i32.const 0) (i32.const 0) (i32.const 0)) (br 0)) unreachable";
    let mut guest = start(&handler(calls), patient());
    let error = failure(&mut guest, 1, b"");
    assert_eq!(error, CallError::HostCallLimit { limit: 1000 });
    assert!(error.recycled());
}

#[test]
fn limits_are_per_call_and_not_per_lifetime() {
    let one = "(call $emit (i32.const 1) (i32.const 0) (i32.const 8))";
    let limits = GuestLimits {
        output_bytes: 8,
        output_messages: 1,
        host_calls: 1,
        ..patient()
    };
    let mut guest = start(&handler(one), limits);
    for _ in 0..100 {
        assert_eq!(guest.handle(1, b"").map(|outputs| outputs.len()), Ok(1));
    }
}

#[test]
fn a_payload_larger_than_the_guest_may_be_is_refused_without_running_it() {
    let limits = GuestLimits {
        memory_bytes: 65536,
        ..patient()
    };
    let mut guest = start(&handler("(i32.const 0)"), limits);
    let error = failure(&mut guest, 1, &[0; 65537]);
    assert_eq!(
        error,
        CallError::InputTooLarge {
            bytes: 65537,
            limit: 65536
        }
    );
    assert!(!error.recycled());
}
