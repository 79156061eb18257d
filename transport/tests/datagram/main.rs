//! Tests of `quic://`, `udp://` and `udp+plain://` beyond the conformance suite.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "test helpers panic and print like tests"
)]

mod figures;
mod quic_connections;
mod quic_ends;
mod quic_forgeries;
mod quic_networks;
mod relay;
mod test_bed;
mod udp;
