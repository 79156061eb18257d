//! Guests in WebAssembly text.

use std::time::Duration;

use selvedge_wasm_host::{
    CallError, FunctionConfig, GuestLimits, Host, HostConfig, Instance, LoadError, WasmFunction,
};

pub(crate) fn host() -> Host {
    let config = HostConfig {
        tick: Duration::from_millis(1),
        ..HostConfig::default()
    };
    Host::new(config).expect("a host")
}

/// Limits with a short deadline, for guests that never return.
pub(crate) fn impatient() -> GuestLimits {
    GuestLimits {
        deadline: Duration::from_millis(200),
        ..GuestLimits::default()
    }
}

/// Limits with a long deadline, for guests that reach another limit first.
pub(crate) fn patient() -> GuestLimits {
    GuestLimits {
        deadline: Duration::from_secs(600),
        ..GuestLimits::default()
    }
}

pub(crate) fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the test's own text is valid")
}

/// A core module with all imports, a memory of one page, an `alloc` that always returns 1024, and
/// `rest`, which must export `handle`.
pub(crate) fn module(rest: &str) -> Vec<u8> {
    wasm(&format!(
        r#"(module
            (import "selvedge" "emit" (func $emit (param i32 i32 i32) (result i32)))
            (import "selvedge" "emit_to" (func $emit_to (param i32 i32 i32 i32 i32) (result i32)))
            (import "selvedge" "log" (func $log (param i32 i32 i32)))
            (import "selvedge" "config_get" (func $config_get (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "alloc") (param i32) (result i32) (i32.const 1024))
            {rest})"#
    ))
}

/// A core module whose `handle` is `body`, which leaves the error code on the stack.
pub(crate) fn handler(body: &str) -> Vec<u8> {
    module(&format!(
        r#"(global $calls (mut i32) (i32.const 0))
           (func (export "handle") (param $tag i32) (param $ptr i32) (param $len i32) (result i32)
             (local $i i32)
             {body})"#
    ))
}

/// A component of the world, written by hand: `body` is the core code of `handle` with `$tag`, `$ptr`
/// and `$len`; it leaves a pointer to the result: 0 is Ok, 64 a failure with code 7 and text "seven".
pub(crate) fn component(body: &str) -> Vec<u8> {
    wasm(&format!(
        r#"(component
          (core module $m
            (memory (export "memory") 1)
            (global $calls (mut i32) (i32.const 0))
            (data (i32.const 64) "\01\00\00\00\07\00\00\00\60\00\00\00\05\00\00\00")
            (data (i32.const 96) "seven")
            (data (i32.const 128) "\88\00\00\00\02\00\00\00\05\00\00\00\06\00\00\00")
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
            (func (export "observe") (result i32) (i32.const 128))
            (func (export "handle") (param $tag i32) (param $ptr i32) (param $len i32) (result i32)
              {body}))
          (core instance $i (instantiate $m))
          (type $failure' (record (field "code" s32) (field "message" string)))
          (export $failure "failure" (type $failure'))
          (func (export "observe") (result (list u32))
            (canon lift (core func $i "observe") (memory (core memory $i "memory"))))
          (func (export "handle") (param "tag" u32) (param "payload" (list u8))
              (result (result (error $failure)))
            (canon lift (core func $i "handle") (memory (core memory $i "memory"))
              (realloc (core func $i "realloc")))))"#
    ))
}

pub(crate) fn config(limits: GuestLimits) -> FunctionConfig {
    FunctionConfig {
        limits,
        ..FunctionConfig::named("test")
    }
}

pub(crate) fn load(wasm: &[u8], limits: GuestLimits) -> WasmFunction {
    host()
        .load_bytes(wasm, config(limits))
        .expect("the guest loads")
}

pub(crate) fn start(wasm: &[u8], limits: GuestLimits) -> Instance {
    load(wasm, limits).instantiate().expect("the guest starts")
}

pub(crate) fn load_error(wasm: &[u8]) -> LoadError {
    host()
        .load_bytes(wasm, config(impatient()))
        .expect_err("the guest is refused")
}

/// The error of one message.
pub(crate) fn failure(instance: &mut Instance, tag: u32, payload: &[u8]) -> CallError {
    instance
        .handle(tag, payload)
        .map(Vec::from_iter)
        .expect_err("the message fails")
}
