//! What `quic://` promises beyond the conformance suite.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod connections;
mod ends;
mod figures;
mod world;
