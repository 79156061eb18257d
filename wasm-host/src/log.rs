//! Log lines of guests: limited in bytes, escaped, and passed to `tracing`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The `tracing` target of every line that a guest writes.
const TARGET: &str = "guest";

/// The level of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    /// The level for a core guest's number. Unknown numbers are errors, so that no line is lost.
    pub(crate) fn from_number(level: u32) -> Self {
        match level {
            0 => Self::Trace,
            1 => Self::Debug,
            2 => Self::Info,
            3 => Self::Warn,
            _ => Self::Error,
        }
    }
}

/// The log of one instance. It is kept when the guest is recycled, so that a guest cannot get a new
/// burst by trapping.
#[derive(Debug)]
pub(crate) struct GuestLog {
    function: Arc<str>,
    bytes_per_second: u64,
    ticks_per_second: u64,
    // Rarely locked and uncontended: only the thread of the call writes.
    bucket: Mutex<TokenBucket>,
}

/// The bytes that may be written: refilled continuously, up to those of one second.
#[derive(Debug)]
struct TokenBucket {
    bytes_left: u64,
    filled_at: u64,
    dropped: u64,
    dropped_unreported: u64,
}

impl GuestLog {
    pub(crate) fn new(function: Arc<str>, bytes_per_second: u32, tick: Duration) -> Self {
        let ticks_per_second = (1_000_000_000 / tick.as_nanos()).max(1);
        let bytes_per_second = u64::from(bytes_per_second);
        Self {
            function,
            bytes_per_second,
            ticks_per_second: u64::try_from(ticks_per_second).unwrap_or(1),
            bucket: Mutex::new(TokenBucket {
                bytes_left: bytes_per_second,
                filled_at: 0,
                dropped: 0,
                dropped_unreported: 0,
            }),
        }
    }

    pub(crate) fn function(&self) -> &Arc<str> {
        &self.function
    }

    /// Lines dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.bucket().dropped
    }

    pub(crate) fn write(&self, now: u64, level: Level, message: &str) {
        let lost = {
            let mut bucket = self.bucket();
            self.fill(&mut bucket, now);
            let bytes = message.len() as u64;
            if bytes > bucket.bytes_left {
                bucket.dropped += 1;
                bucket.dropped_unreported += 1;
                return;
            }
            bucket.bytes_left -= bytes;
            std::mem::take(&mut bucket.dropped_unreported)
        };
        let function = &*self.function;
        if lost > 0 {
            tracing::warn!(target: TARGET, function, lost, "log lines over the limit were dropped");
        }
        let line = EscapedLine(message);
        match level {
            Level::Trace => tracing::trace!(target: TARGET, function, "{line}"),
            Level::Debug => tracing::debug!(target: TARGET, function, "{line}"),
            Level::Info => tracing::info!(target: TARGET, function, "{line}"),
            Level::Warn => tracing::warn!(target: TARGET, function, "{line}"),
            Level::Error => tracing::error!(target: TARGET, function, "{line}"),
        }
    }

    fn fill(&self, bucket: &mut TokenBucket, now: u64) {
        let ticks = now.saturating_sub(bucket.filled_at);
        let bytes = ticks.saturating_mul(self.bytes_per_second) / self.ticks_per_second;
        if bytes > 0 {
            bucket.bytes_left = bucket
                .bytes_left
                .saturating_add(bytes)
                .min(self.bytes_per_second);
            bucket.filled_at = now;
        }
    }

    fn bucket(&self) -> MutexGuard<'_, TokenBucket> {
        // The counters are valid at each step, so a poisoned lock is usable.
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guest's text with control characters escaped, so that a guest can neither forge lines of the
/// operator's log nor control a terminal.
struct EscapedLine<'a>(&'a str);

impl std::fmt::Display for EscapedLine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::fmt::Write as _;
        for character in self.0.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_over_the_rate_are_dropped_and_counted_until_time_refills_the_bucket() {
        let log = GuestLog::new("f".into(), 10, Duration::from_millis(100));
        log.write(0, Level::Info, "12345678");
        log.write(0, Level::Info, "123");
        assert_eq!(log.dropped(), 1);
        log.write(1, Level::Info, "123");
        assert_eq!(log.dropped(), 1, "a tenth of a second adds one byte");
        log.write(1000, Level::Info, "1234567890");
        log.write(1000, Level::Info, "1");
        assert_eq!(
            log.dropped(),
            2,
            "an hour adds the bytes of one second, and no more"
        );
    }

    #[test]
    fn a_guest_cannot_forge_lines_or_control_a_terminal() {
        let line = EscapedLine("a\nERROR fake\u{1b}[2J \"quoted\" é").to_string();
        assert_eq!(line, "a\\nERROR fake\\u{1b}[2J \"quoted\" é");
    }
}
