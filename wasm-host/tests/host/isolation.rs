//! A function that misbehaves does not affect others.

use std::sync::mpsc::channel;

use selvedge_wasm_host::{CallError, Host, Instance, NumericFunction, StopHandle, WasmFunction};

use crate::support::{config, failure, handler, host, patient};

const LOOP: &str =
    "(call $log (i32.const 2) (i32.const 0) (i32.const 0)) (loop (br 0)) unreachable";
const ECHO: &str = "(call $emit (local.get $tag) (local.get $ptr) (local.get $len))";

#[test]
fn the_loop_of_one_function_does_not_block_another() {
    let host = host();
    let looping = host
        .load_bytes(&handler(LOOP), config(patient()))
        .expect("loads");
    let echo = host
        .load_bytes(&handler(ECHO), config(patient()))
        .expect("loads");
    let (handles, handle) = channel();
    let looper = std::thread::spawn(move || {
        let mut guest = looping.instantiate().expect("starts");
        handles.send(guest.stop_handle()).expect("the test waits");
        failure(&mut guest, 1, b"")
    });
    let looper_stop = handle.recv().expect("the looper starts");
    let mut guest = echo.instantiate().expect("starts");
    for _ in 0..10_000 {
        assert_eq!(guest.handle(1, b"ping").map(|outputs| outputs.len()), Ok(1));
    }
    // Its deadline is minutes away, so it has run until now.
    assert!(!looper.is_finished());
    looper_stop.stop();
    assert_eq!(looper.join().expect("no panic"), CallError::Stopped);
}

#[test]
fn instances_of_one_function_share_no_memory() {
    let count =
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1))) (global.get $calls)";
    let function = host()
        .load_bytes(&handler(count), config(patient()))
        .expect("loads");
    let mut one = function.instantiate().expect("starts");
    let mut two = function.instantiate().expect("starts");
    for expected in 1..=3 {
        for guest in [&mut one, &mut two] {
            let error = failure(guest, 1, b"");
            assert!(matches!(error, CallError::GuestError { code, .. } if code == expected));
        }
    }
}

#[test]
fn functions_outlive_the_host_and_keep_their_deadlines() {
    let limits = crate::support::impatient();
    let function = host().load_bytes(&handler("(loop (br 0)) unreachable"), config(limits));
    let mut guest = function.expect("loads").instantiate().expect("starts");
    assert!(matches!(
        failure(&mut guest, 1, b""),
        CallError::DeadlineExceeded { .. }
    ));
}

#[test]
fn an_instance_moves_between_threads() {
    let function = host()
        .load_bytes(&handler(ECHO), config(patient()))
        .expect("loads");
    let mut guest = function.instantiate().expect("starts");
    for _ in 0..3 {
        let moved = std::thread::spawn(move || {
            assert_eq!(guest.handle(1, b"x").map(|outputs| outputs.len()), Ok(1));
            guest
        });
        guest = moved.join().expect("no panic");
    }
    assert_eq!(guest.stats().handled, 3);
}

#[test]
fn functions_are_shared_and_instances_are_moved_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    fn moved<T: Send + 'static>() {}
    shared::<Host>();
    shared::<WasmFunction>();
    shared::<StopHandle>();
    moved::<Instance>();
    moved::<NumericFunction>();
}
