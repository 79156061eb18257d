//! What `quic://` and `udp+plain://` promise beyond the conformance suite.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests panic and print as tests do"
)]

mod quic_connections;
mod quic_ends;
mod quic_figures;
mod quic_networks;
mod relay;
mod udp;
mod world;
