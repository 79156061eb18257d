//! What `quic://` and `udp+plain://` promise beyond the conformance suite.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests panic and print as tests do"
)]

mod figures;
mod quic_connections;
mod quic_ends;
mod quic_forgeries;
mod quic_networks;
mod relay;
mod udp;
mod world;
