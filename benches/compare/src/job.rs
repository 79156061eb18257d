//! The order of a process of a program, and its report that it is ready.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::meter::{Meter, print_line};

/// The order of a process, from its command line.
#[derive(Debug, Clone, Args)]
pub(crate) struct Order {
    /// The group of programs.
    #[arg(long)]
    pub(crate) group: String,
    /// The program of the group.
    #[arg(long)]
    pub(crate) program: String,
    /// The index of the process in the program.
    #[arg(long)]
    pub(crate) part: usize,
    /// The length of a message, in bytes.
    #[arg(long)]
    pub(crate) size: usize,
    /// The folder of the certificate.
    #[arg(long)]
    pub(crate) folder: PathBuf,
    /// The addresses of the processes that started before, in order.
    pub(crate) addresses: Vec<String>,
}

/// An order and a meter.
pub(crate) struct Job {
    pub(crate) order: Order,
    pub(crate) meter: Arc<Meter>,
}

impl Job {
    pub(crate) const fn size(&self) -> usize {
        self.order.size
    }

    /// The payload.
    pub(crate) fn payload(&self) -> Vec<u8> {
        vec![7; self.order.size]
    }

    /// The address of the process that started first.
    pub(crate) fn address(&self) -> &str {
        self.order.addresses.first().map_or("", String::as_str)
    }

    /// The address that was reported last: of the far end of a chain of routers, where its sinks connect. Without
    /// a chain it is that of [`address`](Self::address).
    pub(crate) fn far_address(&self) -> &str {
        self.order.addresses.last().map_or("", String::as_str)
    }

    /// Reports to the runner that this process is ready, and its address.
    pub(crate) fn ready(&self, address: &str) {
        print_line(&format!("ready {address}"));
    }
}

/// A free address on loopback, for peers that do not report their port.
pub(crate) fn free_address() -> String {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    probe.local_addr().expect("it is bound").to_string()
}
