//! Limits of the resources that unauthenticated peers can use: time, memory, descriptors,
//! responses.

#![allow(clippy::unwrap_used, reason = "test helpers panic like tests")]

mod descriptors;
mod flood;
mod keys;
mod log_capture;
mod own_process;
mod raw_quic;
mod raw_tls;
mod slowloris;
mod test_bed;
