//! What strangers may cost a listener: time, memory, descriptors, answers. Limits before trust.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod alone;
mod descriptors;
mod flood;
mod journal;
mod keys;
mod raw_quic;
mod raw_tls;
mod scene;
mod slowloris;
