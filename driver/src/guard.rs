//! Keeps a panic of the user's code from ending the thread that calls it.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls code of the user. A panic is logged, and affects nothing but this call.
pub(crate) fn guarded(what: &'static str, call: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(call)).is_err() {
        tracing::error!("{what} panicked; what it was called for is lost");
    }
}
