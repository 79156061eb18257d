//! Components have the same guarantees as core modules.

use selvedge_wasm_host::{CallError, FunctionKind, GuestLimits, GuestOutput, LoadError};

use crate::support::{
    component, config, failure, host, impatient, load, load_error, patient, start, wasm,
};

const OK: &str = "(i32.const 0)";

#[test]
fn a_component_written_by_hand_loads_and_observes() {
    let function = load(&component(OK), patient());
    assert_eq!(
        (function.kind(), function.observed()),
        (FunctionKind::Component, &[5, 6][..])
    );
    let mut guest = function.instantiate().expect("starts");
    assert_eq!(
        guest
            .handle(5, b"payload")
            .map(Vec::<GuestOutput<'_>>::from_iter),
        Ok(vec![])
    );
}

#[test]
fn a_failure_carries_code_and_message_and_keeps_the_memory() {
    let mut guest = start(&component("(i32.const 64)"), patient());
    let error = failure(&mut guest, 5, b"");
    assert_eq!(
        error,
        CallError::GuestError {
            code: 7,
            message: "seven".into()
        }
    );
    assert_eq!(guest.stats().recycled, 0);
}

#[test]
fn a_component_that_loops_is_stopped_and_recycled() {
    let body = "(if (i32.eq (local.get $tag) (i32.const 1)) (then (loop (br 0)))) (i32.const 0)";
    let mut guest = start(&component(body), impatient());
    assert!(matches!(
        failure(&mut guest, 1, b""),
        CallError::DeadlineExceeded { .. }
    ));
    assert!(guest.handle(2, b"").is_ok());
    assert_eq!(guest.stats().recycled, 1);
}

#[test]
fn a_component_that_traps_is_recycled() {
    let body = "(if (local.get $len) (then unreachable)) (i32.const 0)";
    let mut guest = start(&component(body), patient());
    assert!(matches!(
        failure(&mut guest, 1, b"x"),
        CallError::Trapped { .. }
    ));
    assert!(guest.handle(1, b"").is_ok());
}

#[test]
fn a_component_that_grows_its_memory_is_stopped() {
    let body = "(loop (br_if 0 (i32.ge_s (memory.grow (i32.const 1)) (i32.const 0)))) unreachable";
    let limits = GuestLimits {
        memory_bytes: 1 << 20,
        ..patient()
    };
    let mut guest = start(&component(body), limits);
    assert_eq!(
        failure(&mut guest, 1, b""),
        CallError::MemoryLimit { limit: 1 << 20 }
    );
}

#[test]
fn a_result_outside_the_memory_is_a_trap() {
    for pointer in ["(i32.const -4)", "(i32.const 65536)", "(i32.const 3)"] {
        let mut guest = start(&component(pointer), patient());
        assert!(
            matches!(failure(&mut guest, 1, b""), CallError::Trapped { .. }),
            "{pointer}"
        );
    }
}

#[test]
fn a_payload_for_which_the_guest_returns_no_buffer_is_a_trap() {
    let mut guest = start(&component(OK), patient());
    assert!(matches!(
        failure(&mut guest, 1, &[0; 65536]),
        CallError::Trapped { .. }
    ));
}

#[test]
fn a_component_of_no_world_is_refused_with_its_exports() {
    let error = load_error(&wasm("(component)"));
    assert!(
        matches!(&error, LoadError::UnknownAbi { found } if found.is_empty()),
        "{error:?}"
    );
    assert!(error.to_string().ends_with("exports nothing"), "{error}");
}

#[test]
fn a_component_that_imports_the_system_is_refused() {
    let error = load_error(&wasm(
        r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#,
    ));
    let LoadError::ImportNotGranted { import, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(import, "wasi:cli/environment@0.2.0");
}

#[test]
fn a_component_with_half_of_the_world_is_refused_with_what_is_missing() {
    let text = r#"(component
        (core module $m (func (export "f")))
        (core instance $i (instantiate $m))
        (func (export "handle") (canon lift (core func $i "f"))))"#;
    let error = load_error(&wasm(text));
    let LoadError::MissingExport { export, found, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(
        (export.as_str(), found.as_slice()),
        ("observe", &["handle".to_owned()][..])
    );
}

#[test]
fn a_component_with_exports_of_other_types_is_refused() {
    let text = r#"(component
        (core module $m (func (export "f")))
        (core instance $i (instantiate $m))
        (func (export "handle") (canon lift (core func $i "f")))
        (func (export "observe") (canon lift (core func $i "f"))))"#;
    let error = load_error(&wasm(text));
    assert!(matches!(error, LoadError::WrongWorld { .. }), "{error:?}");
}

#[test]
fn every_truncation_of_the_code_of_a_component_is_refused() {
    let host = host();
    let whole = component(OK);
    let loads = |len: &usize| host.load_bytes(&whole[..*len], config(impatient())).is_ok();
    // The last section holds names for debuggers, without which the guest is the same.
    assert_eq!((0..whole.len()).filter(loads).count(), 1);
}
