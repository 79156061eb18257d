//! What a process of a program is told, and says when it is ready.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::meter::{Meter, tell};

/// What a process is told by its command line.
#[derive(Debug, Clone, Args)]
pub(crate) struct Order {
    /// The group of programs.
    #[arg(long)]
    pub(crate) group: String,
    /// The program in it.
    #[arg(long)]
    pub(crate) program: String,
    /// Which of its processes this is, counted from 0.
    #[arg(long)]
    pub(crate) part: usize,
    /// The length of a message, in bytes.
    #[arg(long)]
    pub(crate) size: usize,
    /// Where the certificate is.
    #[arg(long)]
    pub(crate) folder: PathBuf,
    /// Where those that started before are, in their order.
    pub(crate) addresses: Vec<String>,
}

/// An order, and what to count with.
pub(crate) struct Job {
    pub(crate) order: Order,
    pub(crate) meter: Arc<Meter>,
}

impl Job {
    pub(crate) const fn size(&self) -> usize {
        self.order.size
    }

    /// What is sent.
    pub(crate) fn payload(&self) -> Vec<u8> {
        vec![7; self.order.size]
    }

    /// Where the process that started first is.
    pub(crate) fn address(&self) -> &str {
        self.order.addresses.first().map_or("", String::as_str)
    }

    /// Tells the runner that the others can begin, and where this one is.
    pub(crate) fn ready(&self, address: &str) {
        tell(&format!("ready {address}"));
    }
}

/// An address on loopback that nobody has, for peers that cannot tell which port they were given.
pub(crate) fn free_address() -> String {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    probe.local_addr().expect("it is bound").to_string()
}
