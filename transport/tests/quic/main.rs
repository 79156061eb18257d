//! What `quic://` promises beyond the conformance suite.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests panic and print as tests do"
)]

mod connections;
mod ends;
mod figures;
mod networks;
mod relay;
mod world;
