//! Sources and stream functions for native programs, and the protocol that they speak with zippers.
//!
//! A [`Client`] writes tagged messages and reads those of the tags that it observes. It is made of a
//! hub and embeds no async runtime, no WebAssembly engine and no command line.
#![forbid(unsafe_code)]

mod client;
pub mod lanes;
pub mod tag;
pub mod wire;

pub use client::{
    Arrived, Client, ClientOptions, ConnectError, Connecting, Outgoing, ReadError, WriteError,
    addresses,
};
pub use tag::{Tag, TagError};
pub use wire::{Data, Policy, Role};
