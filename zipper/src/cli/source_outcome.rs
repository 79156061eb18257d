//! What a source reports at its end: how many messages it sent, and what became of them.

use std::fmt;

use clap::ValueEnum;
use selvedge_client::{Client, OutcomeSummary, SettlementLevel};
use serde_json::{Value, json};

/// When a message counts as settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LevelArg {
    /// Never: what a zipper loses is counted, and not sent again.
    None,
    /// When the zipper of this source has it.
    Accepted,
    /// When a function of each name has received it.
    Received,
    /// When a function of each name has processed it; a sink, when it has received it.
    #[default]
    Processed,
}

impl From<LevelArg> for Option<SettlementLevel> {
    fn from(level: LevelArg) -> Self {
        match level {
            LevelArg::None => None,
            LevelArg::Accepted => Some(SettlementLevel::Accepted),
            LevelArg::Received => Some(SettlementLevel::Received),
            LevelArg::Processed => Some(SettlementLevel::Processed),
        }
    }
}

/// What a source reports at its end.
pub(crate) struct SourceOutcome {
    pub(crate) sent: u64,
    pub(crate) bytes: usize,
    /// The name of the zipper in use.
    zipper: String,
    /// Whether everything was acknowledged in time.
    is_closed: bool,
    /// Messages without settlement that may be lost.
    uncertain: u64,
    summary: OutcomeSummary,
    is_settling: bool,
    allows_unobserved: bool,
}

impl SourceOutcome {
    /// The outcome of a client that is closed.
    pub(crate) fn new(client: &Client, level: LevelArg, allows_unobserved: bool) -> Self {
        Self {
            sent: 0,
            bytes: 0,
            zipper: client.zipper(),
            is_closed: true,
            uncertain: client.uncertain(),
            summary: client.outcomes(),
            is_settling: level != LevelArg::None,
            allows_unobserved,
        }
    }

    /// With the messages that were written, and whether everything was acknowledged in time.
    pub(crate) fn sent(self, sent: u64, bytes: usize, is_closed: bool) -> Self {
        Self {
            sent,
            bytes,
            is_closed,
            ..self
        }
    }

    /// Why the source fails, if it does.
    pub(crate) fn failure(&self) -> Option<String> {
        let total = self.summary.total();
        let (unsettled, uncertain) = (self.summary.unsettled(), self.uncertain);
        let unobserved = match self.allows_unobserved {
            true => 0,
            false => total.unobserved,
        };
        let mut reasons = Vec::new();
        for (count, reason) in [
            (
                unsettled,
                "not settled in time: whether they were processed is not known",
            ),
            (
                total.no_subscriber,
                "abandoned: no function of a name connected in time",
            ),
            (
                total.instance_lost,
                "abandoned: a function that may have processed them was lost",
            ),
            (
                unobserved,
                "not observed by any function (--allow-unobserved permits that)",
            ),
            (uncertain, "not acknowledged: they may be lost"),
        ] {
            if count > 0 {
                reasons.push(format!("{count} {reason}"));
            }
        }
        if reasons.is_empty() && self.is_closed {
            return None;
        }
        if reasons.is_empty() {
            reasons.push("the zipper did not acknowledge the end in time".to_owned());
        }
        Some(format!("of {} messages, {}", self.sent, reasons.join("; ")))
    }

    pub(crate) fn to_json(&self) -> Value {
        let total = self.summary.total();
        json!({
            "sent": self.sent, "bytes": self.bytes, "zipper": self.zipper,
            "delivered": self.failure().is_none(), "uncertain": self.uncertain,
            "settled": total.settled, "unobserved": total.unobserved,
            "abandoned": {"no_subscriber": total.no_subscriber, "instance_lost": total.instance_lost},
            "unsettled": self.summary.unsettled(),
        })
    }
}

impl fmt::Display for SourceOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            bytes,
            zipper,
            ..
        } = self;
        write!(f, "sent {sent} messages, {bytes} bytes, to zipper {zipper}")?;
        if !self.is_settling {
            return Ok(());
        }
        let total = self.summary.total();
        write!(f, ": {} settled", total.settled)?;
        for (count, what) in [
            (total.unobserved, "unobserved"),
            (total.abandoned(), "abandoned"),
            (self.summary.unsettled(), "unsettled"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}
