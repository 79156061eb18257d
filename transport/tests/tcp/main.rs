//! Measurements of `tcp://` and `tcp+plain://`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "test helpers panic and print like tests"
)]

mod driven;
mod figures;
