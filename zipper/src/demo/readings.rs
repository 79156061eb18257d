//! What this machine is doing.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use sysinfo::{Networks, System};

use crate::cli::fault::Fault;

/// Reads the counters of this machine.
#[derive(Debug)]
pub(crate) struct Readings {
    system: System,
    networks: Networks,
    seq: u64,
}

/// One look at this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) seq: u64,
    pub(crate) cpu_percent: f64,
    time_ms: u64,
    memory_used_bytes: u64,
    net_received_bytes: u64,
    net_sent_bytes: u64,
}

impl Readings {
    pub(crate) fn new() -> Result<Self, Fault> {
        let fault = |error| Fault::failed(format!("cannot read this machine's counters: {error}"));
        let mut system = System::new().map_err(fault)?;
        system.refresh_cpu_usage();
        Ok(Self {
            system,
            networks: Networks::new_with_refreshed_list().map_err(fault)?,
            seq: 0,
        })
    }

    /// The load alone, without counting it as a reading.
    pub(crate) fn look(&mut self) -> f64 {
        self.system.refresh_cpu_usage();
        f64::from(self.system.global_cpu_usage())
    }

    /// The next one. The load is that since the one before, as the library measures it: over at
    /// least 200 ms on Linux.
    pub(crate) fn next(&mut self) -> Reading {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        self.networks.refresh(false);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let total =
            |count: fn(&sysinfo::NetworkData) -> u64| self.networks.values().map(count).sum();
        self.seq += 1;
        Reading {
            seq: self.seq,
            time_ms: since.map_or(0, |since| since.as_millis() as u64),
            cpu_percent: f64::from(self.system.global_cpu_usage()),
            memory_used_bytes: self.system.used_memory(),
            net_received_bytes: total(sysinfo::NetworkData::total_received),
            net_sent_bytes: total(sysinfo::NetworkData::total_transmitted),
        }
    }
}

impl Reading {
    pub(crate) fn to_json(self) -> String {
        json!({
            "seq": self.seq,
            "time_ms": self.time_ms,
            "cpu_percent": self.cpu_percent,
            "memory_used_bytes": self.memory_used_bytes,
            "net_received_bytes": self.net_received_bytes,
            "net_sent_bytes": self.net_sent_bytes,
        })
        .to_string()
    }
}
