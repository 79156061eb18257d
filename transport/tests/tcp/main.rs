//! What `tcp://` and `tcp+plain://` promise beyond the conformance suite.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests panic and print as tests do"
)]

mod figures;
mod lone;
