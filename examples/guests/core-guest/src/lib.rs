//! The core ABI of `wasm-host/ABI.md`, made safe for guests written in Rust.
//!
//! A guest that links this crate exports `memory` and `alloc`; it still has to export `handle`, and
//! may export `observe_count` and `observe_at`. All `unsafe` of the guests is here.

use std::cell::RefCell;

thread_local! {
    /// Where the host writes each message. Kept, so that a message costs no allocation.
    static INPUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Room for a message of `len` bytes, for the host to fill before it calls `handle`. The same room is
/// given every time.
#[unsafe(no_mangle)]
pub extern "C" fn alloc(len: usize) -> *mut u8 {
    INPUT.with_borrow_mut(|input| {
        if input.len() < len {
            input.resize(len, 0);
        }
        input.as_mut_ptr()
    })
}

/// Reads the message that the host has written: the first `len` bytes of what [`alloc`] gave.
pub fn with_input<R>(len: usize, read: impl FnOnce(&[u8]) -> R) -> R {
    INPUT.with_borrow(|input| read(&input[..len]))
}

/// Writes a message for every function that observes `tag`.
pub fn emit(tag: u32, payload: &[u8]) {
    // SAFETY: the host reads `len` bytes at the pointer before it returns, and keeps neither.
    // The result is always 0: a breach of a limit ends the call.
    unsafe { host::emit(tag, payload.as_ptr(), payload.len()) };
}

/// The value of a setting, if the operator set it and it is UTF-8.
pub fn config(key: &str) -> Option<String> {
    let mut value = vec![0; 64];
    loop {
        // SAFETY: the host reads the key and writes at most `value.len()` bytes before it returns.
        let len =
            unsafe { host::config_get(key.as_ptr(), key.len(), value.as_mut_ptr(), value.len()) };
        let len = usize::try_from(len).ok()?;
        if len <= value.len() {
            value.truncate(len);
            return String::from_utf8(value).ok();
        }
        value.resize(len, 0);
    }
}

/// Writes a line for the operator. Levels: 0 trace, 1 debug, 2 info, 3 warn, 4 error.
pub fn log(level: u32, message: &str) {
    // SAFETY: the host reads the message before it returns, and does not keep the pointer.
    unsafe { host::log(level, message.as_ptr(), message.len()) };
}

#[cfg(target_arch = "wasm32")]
mod host {
    #[link(wasm_import_module = "selvedge")]
    unsafe extern "C" {
        pub(crate) fn emit(tag: u32, payload: *const u8, len: usize) -> i32;
        pub(crate) fn log(level: u32, message: *const u8, len: usize);
        pub(crate) fn config_get(key: *const u8, len: usize, value: *mut u8, cap: usize) -> i32;
    }
}

/// Elsewhere there is no host: the guests' own tests call their plain functions.
#[cfg(not(target_arch = "wasm32"))]
mod host {
    pub(crate) unsafe fn emit(_: u32, _: *const u8, _: usize) -> i32 {
        0
    }

    pub(crate) unsafe fn log(_: u32, _: *const u8, _: usize) {}

    pub(crate) unsafe fn config_get(_: *const u8, _: usize, _: *mut u8, _: usize) -> i32 {
        -1
    }
}
