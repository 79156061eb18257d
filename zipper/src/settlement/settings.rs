//! The time limits of a flow.

use std::time::Duration;

use selvedge_client::settlement::LEASE;

/// The time limits of a flow.
#[derive(Debug, Clone, Copy)]
pub struct EntrySettings {
    /// How long an instance without a route keeps its messages. The same in every process of a fabric.
    pub lease: Duration,
    /// How long messages wait for the first instance of a group. The window of the source limits how many
    /// wait.
    pub await_max: Duration,
    /// How long an instance may take to answer a bind before it is bound again.
    pub bind_max: Duration,
    /// How long an instance with messages may report nothing before it is bound again: once or twice this
    /// time.
    pub silence_max: Duration,
    /// How long an instance may hold the source back without reporting anything new, before it is removed.
    pub stalled_max: Duration,
}

impl Default for EntrySettings {
    /// A lease of 30 s; 10 s for a group without instances; 2 s for the answer to a bind; 5 s without a
    /// report; 10 s for an instance that holds the source back.
    fn default() -> Self {
        Self {
            lease: LEASE,
            await_max: Duration::from_secs(10),
            bind_max: Duration::from_secs(2),
            silence_max: Duration::from_secs(5),
            stalled_max: Duration::from_secs(10),
        }
    }
}

/// Settings as a flow keeps them, in milliseconds: `bind_max` and `silence_max` are at most 65 s.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackedSettings {
    lease: u32,
    await_max: u32,
    bind_max: u16,
    silence_max: u16,
    stalled_max: u32,
}

impl PackedSettings {
    pub(super) fn new(settings: EntrySettings) -> Self {
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let short = |time: Duration| u16::try_from(time.as_millis()).unwrap_or(u16::MAX);
        Self {
            lease: millis(settings.lease),
            await_max: millis(settings.await_max),
            bind_max: short(settings.bind_max),
            silence_max: short(settings.silence_max),
            stalled_max: millis(settings.stalled_max),
        }
    }

    pub(super) const fn get(self) -> EntrySettings {
        const fn time(millis: u32) -> Duration {
            Duration::from_millis(millis as u64)
        }
        EntrySettings {
            lease: time(self.lease),
            await_max: time(self.await_max),
            bind_max: time(self.bind_max as u32),
            silence_max: time(self.silence_max as u32),
            stalled_max: time(self.stalled_max),
        }
    }
}
