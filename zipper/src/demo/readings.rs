//! Readings of this machine: CPU, memory and network.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use sysinfo::{Networks, System};

use crate::cli::error::CommandError;

/// Takes readings of this machine.
#[derive(Debug)]
pub(crate) struct Readings {
    system: System,
    networks: Networks,
    seq: u64,
}

/// One reading of this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MachineReading {
    pub(crate) seq: u64,
    pub(crate) cpu_percent: f64,
    time_ms: u64,
    memory_used_bytes: u64,
    net_received_bytes: u64,
    net_sent_bytes: u64,
}

impl Readings {
    pub(crate) fn new() -> Result<Self, CommandError> {
        let failed = |error| {
            CommandError::system(format!("cannot read the counters of this machine: {error}"))
        };
        let mut system = System::new().map_err(failed)?;
        system.refresh_cpu_usage();
        Ok(Self {
            system,
            networks: Networks::new_with_refreshed_list().map_err(failed)?,
            seq: 0,
        })
    }

    /// Measures the CPU load only; it does not count as a reading.
    pub(crate) fn measure_load(&mut self) -> f64 {
        self.system.refresh_cpu_usage();
        f64::from(self.system.global_cpu_usage())
    }

    /// Takes the next reading. Its CPU load covers the time since the previous one; the library
    /// measures it over at least 200 ms on Linux.
    pub(crate) fn next(&mut self) -> MachineReading {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        self.networks.refresh(false);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let total =
            |count: fn(&sysinfo::NetworkData) -> u64| self.networks.values().map(count).sum();
        self.seq += 1;
        MachineReading {
            seq: self.seq,
            time_ms: since.map_or(0, |since| since.as_millis() as u64),
            cpu_percent: f64::from(self.system.global_cpu_usage()),
            memory_used_bytes: self.system.used_memory(),
            net_received_bytes: total(sysinfo::NetworkData::total_received),
            net_sent_bytes: total(sysinfo::NetworkData::total_transmitted),
        }
    }
}

impl MachineReading {
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
