//! What the process uses, as `/proc` shows it.

use std::time::{Duration, Instant, SystemTime};

/// When the process began to serve.
#[derive(Debug)]
pub(super) struct ProcessUsage {
    began: Instant,
    began_at: SystemTime,
}

/// The use of resources at one time.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProcessSample {
    pub(super) uptime: Duration,
    /// Since 1970.
    pub(super) began_at: Duration,
    /// `None` where `/proc` does not show it.
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_files: Option<u64>,
}

impl ProcessUsage {
    pub(super) fn begin() -> Self {
        Self {
            began: Instant::now(),
            began_at: SystemTime::now(),
        }
    }

    pub(super) fn sample(&self) -> ProcessSample {
        let began_at = self.began_at.duration_since(SystemTime::UNIX_EPOCH);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        ProcessSample {
            uptime: self.began.elapsed(),
            began_at: began_at.unwrap_or_default(),
            resident_bytes: resident_bytes(&status),
            open_files: std::fs::read_dir("/proc/self/fd")
                .ok()
                .map(|files| files.count() as u64),
        }
    }
}

/// The resident memory in the content of `/proc/self/status`: `VmRSS:     19532 kB`.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_status() {
        let status = "VmHWM:\t   20000 kB\nVmRSS:\t   19532 kB\n";
        assert_eq!(resident_bytes(status), Some(19532 * 1024));
        for unknown in ["", "VmRSS:\t19532 MB\n", "VmRSS:\n"] {
            assert_eq!(resident_bytes(unknown), None);
        }
    }
}
