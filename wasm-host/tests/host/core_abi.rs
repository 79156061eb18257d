//! The core ABI as in `ABI.md`, and guests that violate it.

use selvedge_wasm_host::{CallError, GuestOutput};

use crate::support::{config, failure, handler, host, module, patient, start};

#[test]
fn outputs_keep_order_tag_target_and_payload() {
    let echo = "
        (drop (call $emit (local.get $tag) (local.get $ptr) (local.get $len)))
        (call $emit_to (i32.const -1) (local.get $ptr) (i32.const 0) (local.get $ptr) (local.get $len))";
    let mut guest = start(&handler(echo), patient());
    let outputs: Vec<GuestOutput<'_>> = guest.handle(7, b"hello").expect("handled").collect();
    let expected = [
        GuestOutput {
            tag: 7,
            target: None,
            payload: b"hello",
        },
        GuestOutput {
            tag: u32::MAX,
            target: Some("hello"),
            payload: b"",
        },
    ];
    assert_eq!(outputs, expected);
}

#[test]
fn pointers_outside_the_memory_are_traps() {
    let cases = [
        "(call $emit (i32.const 1) (i32.const 65536) (i32.const 1))",
        "(call $emit (i32.const 1) (i32.const 65535) (i32.const 2))",
        "(call $emit (i32.const 1) (i32.const -1) (i32.const -1))",
        "(call $emit (i32.const 1) (i32.const 1) (i32.const -1))",
        "(call $emit_to (i32.const 1) (i32.const 0) (i32.const 0) (i32.const -8) (i32.const 16))",
        "(call $config_get (i32.const 70000) (i32.const 1) (i32.const 0) (i32.const 0))",
        "(call $config_get (i32.const 0) (i32.const 3) (i32.const 65530) (i32.const 100))",
        "(call $log (i32.const 0) (i32.const 65536) (i32.const 1)) (i32.const 0)",
    ];
    for body in cases {
        let text = format!(
            r#"(data (i32.const 0) "key")
               (func (export "handle") (param i32 i32 i32) (result i32) {body})"#
        );
        let mut settings = config(patient());
        settings.config.insert("key".into(), "value".into());
        let function = host().load_bytes(&module(&text), settings).expect("loads");
        let mut guest = function.instantiate().expect("starts");
        let error = failure(&mut guest, 1, b"");
        let CallError::Trapped { reason } = &error else {
            panic!("{body}: {error:?}")
        };
        assert!(
            reason.contains("outside the guest's memory"),
            "{body}: {reason}"
        );
        assert!(error.recycled());
    }
}

#[test]
fn an_empty_range_at_the_very_end_of_the_memory_is_within_it() {
    let mut guest = start(
        &handler("(call $emit (i32.const 1) (i32.const 65536) (i32.const 0))"),
        patient(),
    );
    assert_eq!(guest.handle(1, b"").map(|outputs| outputs.len()), Ok(1));
}

#[test]
fn an_alloc_that_returns_no_buffer_is_a_trap() {
    let text = r#"(module (memory (export "memory") 1)
        (func (export "alloc") (param i32) (result i32) (i32.const -4))
        (func (export "handle") (param i32 i32 i32) (result i32) (i32.const 0)))"#;
    let mut guest = start(&crate::support::wasm(text), patient());
    assert!(matches!(
        failure(&mut guest, 1, b"12345678"),
        CallError::Trapped { .. }
    ));
}

#[test]
fn a_target_that_is_not_utf_8_is_a_trap() {
    let body = "(i32.store (i32.const 0) (i32.const 0xFFFFFFFF))
        (call $emit_to (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 4))";
    let mut guest = start(&handler(body), patient());
    let CallError::Trapped { reason } = failure(&mut guest, 1, b"") else {
        panic!("a trap")
    };
    assert!(reason.contains("UTF-8"), "{reason}");
}

#[test]
fn an_error_code_fails_the_message_and_keeps_the_memory() {
    let count = "
        (drop (call $emit (i32.const 1) (i32.const 0) (i32.const 4)))
        (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.store (i32.const 0) (global.get $calls))
        (i32.sub (i32.const 0) (local.get $len))";
    let mut guest = start(&handler(count), patient());
    let error = failure(&mut guest, 1, b"abc");
    assert_eq!(
        error,
        CallError::GuestError {
            code: -3,
            message: String::new()
        }
    );
    assert!(!error.recycled());
    let outputs: Vec<GuestOutput<'_>> = guest.handle(1, b"").expect("handled").collect();
    assert_eq!(
        outputs.len(),
        1,
        "the outputs of the failed call are not mixed in"
    );
    assert_eq!(
        outputs[0].payload,
        [1, 0, 0, 0],
        "the first call is remembered"
    );
    assert_eq!((guest.stats().guest_errors, guest.stats().recycled), (1, 0));
}

#[test]
fn settings_are_read_and_absent_ones_are_reported() {
    let text = r#"(data (i32.const 0) "keynone")
        (func (export "handle") (param $tag i32) (param i32 i32) (result i32)
          (local $n i32)
          (local.set $n (call $config_get (i32.const 0) (i32.const 3) (i32.const 100) (local.get $tag)))
          (drop (call $emit (local.get $n) (i32.const 100) (i32.const 5)))
          (call $config_get (i32.const 3) (i32.const 4) (i32.const 100) (i32.const 5)))"#;
    let mut settings = config(patient());
    settings.config.insert("key".into(), "value".into());
    let function = host().load_bytes(&module(text), settings).expect("loads");
    let mut guest = function.instantiate().expect("starts");
    assert!(matches!(
        failure(&mut guest, 5, b""),
        CallError::GuestError { code: -1, .. }
    ));

    let read = text.replace(
        "(call $config_get (i32.const 3) (i32.const 4) (i32.const 100) (i32.const 5))",
        "(i32.const 0)",
    );
    let mut settings = config(patient());
    settings.config.insert("key".into(), "value".into());
    let function = host().load_bytes(&module(&read), settings).expect("loads");
    let mut guest = function.instantiate().expect("starts");
    let outputs: Vec<GuestOutput<'_>> = guest.handle(4, b"").expect("handled").collect();
    assert_eq!(
        (outputs[0].tag, outputs[0].payload),
        (5, &[0; 5][..]),
        "does not fit: untouched"
    );
    let outputs: Vec<GuestOutput<'_>> = guest.handle(5, b"").expect("handled").collect();
    assert_eq!((outputs[0].tag, outputs[0].payload), (5, &b"value"[..]));
}

#[test]
fn initialisers_run_in_order_before_the_first_message() {
    let text = r#"(global $g (mut i32) (i32.const 0))
        (func $step (param i32) (global.set $g (i32.add (i32.mul (global.get $g) (i32.const 10)) (local.get 0))))
        (func $start (call $step (i32.const 1))) (start $start)
        (func (export "_initialize") (call $step (i32.const 2)))
        (func (export "init") (result i32) (call $step (i32.const 3)) (i32.const 0))
        (func (export "handle") (param i32 i32 i32) (result i32) (global.get $g))"#;
    let mut guest = start(&module(text), patient());
    assert!(matches!(
        failure(&mut guest, 1, b""),
        CallError::GuestError { code: 123, .. }
    ));
}

#[test]
fn a_start_function_may_use_the_host() {
    let text = r#"(data (i32.const 0) "up")
        (func $start (call $log (i32.const 2) (i32.const 0) (i32.const 2))) (start $start)
        (func (export "handle") (param i32 i32 i32) (result i32) (i32.const 0))"#;
    let mut guest = start(&module(text), patient());
    assert!(guest.handle(1, b"").is_ok());
}

#[test]
fn observed_tags_are_read_from_the_guest() {
    let text = r#"(func (export "observe_count") (result i32) (i32.const 3))
        (func (export "observe_at") (param i32) (result i32) (i32.sub (i32.const 1) (local.get 0)))
        (func (export "handle") (param i32 i32 i32) (result i32) (i32.const 0))"#;
    let function = crate::support::load(&module(text), patient());
    assert_eq!(function.observed(), [1, 0, u32::MAX]);
    let silent = crate::support::load(&handler("(i32.const 0)"), patient());
    assert!(silent.observed().is_empty());
}
