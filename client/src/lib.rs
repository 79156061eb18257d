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
//!     if !source.close(Duration::from_secs(10)) {
//!         eprintln!("{} messages may be lost", source.uncertain());
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

mod client;
pub mod lanes;
pub mod settlement;
pub mod tag;
pub mod wire;

pub use client::{
    AcknowledgeMode, AdminClient, AdminError, Client, ClientOptions, ConnectError, Connecting,
    FlowSummary, InstanceLossPolicy, OutcomeSummary, OutgoingBatch, ReadError, ReceivedMessage,
    WriteError, addresses,
};
pub use tag::{Tag, TagError};
pub use wire::settlement::SettlementLevel;
pub use wire::{Data, Negotiated, Policy, Role};
