//! Sources and stream functions for native programs, and the protocol between clients and zippers.
//!
//! A [`Client`] writes tagged messages and reads those whose tags it observes. It consists of a hub
//! with one peer, and contains no async runtime, WebAssembly engine or command line.
//!
//! A source writes messages:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use selvedge_client::{Client, ClientOptions, Tag, addresses};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let zippers = addresses("127.0.0.1:9000")?;
//!     let source = Client::connect(ClientOptions::source("thermometer", zippers))?;
//!     for reading in 0..100 {
//!         // Blocks while the zipper or a function is slower than this source.
//!         source.write(Tag(0x10), format!("{reading}"))?;
//!     }
//!     // Blocks until functions have processed all of them.
//!     if !source.close(Duration::from_secs(10)) {
//!         let outcomes = source.outcomes();
//!         let lost = outcomes.unsettled() + outcomes.total().abandoned();
//!         eprintln!("{lost} messages were not processed");
//!     }
//!     Ok(())
//! }
//! ```
//!
//! A function reads messages, and writes its results with another tag:
//!
//! ```no_run
//! use selvedge_client::{Client, ClientOptions, ReadError, Tag, addresses};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let zippers = addresses("127.0.0.1:9000")?;
//!     let options = ClientOptions::function("triple", vec![Tag(0x10)], zippers);
//!     let function = Client::connect(options)?;
//!     loop {
//!         let message = match function.read() {
//!             Ok(message) => message,
//!             Err(ReadError::Closed(reason)) => return Err(reason.into()),
//!             Err(error) => return Err(error.into()),
//!         };
//!         let number: f64 = std::str::from_utf8(&message.payload)?.parse()?;
//!         function.write(Tag(0x11), (3.0 * number).to_string())?;
//!     }
//! }
//! ```
#![forbid(unsafe_code)]

// For helpers that the tests within and without this crate share.
#[cfg(test)]
extern crate self as selvedge_client;

#[cfg(test)]
#[path = "../tests/support/replies.rs"]
mod replies;

mod client;
pub mod lanes;
pub mod settlement;
pub mod tag;
pub mod wire;

pub use client::{
    AcknowledgeMode, AdminClient, AdminError, Client, ClientOptions, ConnectError, Connecting,
    FlowSummary, InstanceLossPolicy, OutcomeSummary, OutgoingBatch, ReadError, ReceivedMessage,
    SlowConsumerPolicy, WriteError, addresses,
};
pub use tag::{Tag, TagError};
pub use wire::settlement::SettlementLevel;
pub use wire::{Data, Negotiated, Policy, Role};
