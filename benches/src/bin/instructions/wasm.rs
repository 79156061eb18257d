//! A message through a guest: host, compiled code and back, all counted.
//!
//! Callgrind counts code that Cranelift compiled like any other. Set-up and compilation work under it, too
//! (measured: 1.4 s instead of 4 ms).

use std::hint::black_box;
use std::time::Duration;

use selvedge_wasm_host::{FunctionConfig, GuestLimits, Host, HostConfig};

use crate::counted_repeats;

/// Emits every message unchanged.
///
/// ```text
/// (module
///   (import "selvedge" "emit" (func $emit (param i32 i32 i32) (result i32)))
///   (memory (export "memory") 1)
///   (func (export "alloc") (param i32) (result i32) (i32.const 1024))
///   (func (export "handle") (param i32 i32 i32) (result i32)
///     (call $emit (local.get 0) (local.get 1) (local.get 2))))
/// ```
const ECHO: &[u8] = b"\0asm\x01\0\0\0\
    \x01\x0d\x02\x60\x03\x7f\x7f\x7f\x01\x7f\x60\x01\x7f\x01\x7f\
    \x02\x11\x01\x08selvedge\x04emit\0\0\
    \x03\x03\x02\x01\0\
    \x05\x03\x01\0\x01\
    \x07\x1b\x03\x06memory\x02\0\x05alloc\0\x01\x06handle\0\x02\
    \x0a\x12\x02\x05\0\x41\x80\x08\x0b\x0a\0\x20\0\x20\x01\x20\x02\x10\0\x0b";

pub(crate) fn core_echo_1_kib() {
    let host = Host::new(HostConfig::default()).expect("this machine runs WebAssembly");
    // Callgrind is fifty times slower: no call may exceed its deadline.
    let limits = GuestLimits {
        deadline: Duration::from_secs(600),
        ..GuestLimits::default()
    };
    let config = FunctionConfig {
        limits,
        ..FunctionConfig::named("echo")
    };
    let function = host.load_bytes(ECHO, config).expect("it is valid");
    let mut instance = function.instantiate().expect("it has no start function");
    let message = [7; 1024];
    let mut echo = || {
        let outputs = instance.handle(0x10, black_box(&message));
        let output = outputs.expect("it never fails").next();
        output.map(|output| output.payload.len())
    };
    assert_eq!(echo(), Some(message.len()));
    counted_repeats(echo);
}
