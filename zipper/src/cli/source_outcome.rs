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
    /// When a function of each name has processed it; a sink, when it has printed it.
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

/// The numbers of messages that no function may have processed, with the reasons.
pub(crate) fn lost_messages(summary: &OutcomeSummary) -> [(u64, &'static str); 6] {
    let total = summary.total();
    [
        (
            summary.unsettled(),
            "were not settled in time: functions may have processed them or not",
        ),
        (
            total.no_subscriber,
            "were abandoned: a function that is to receive them did not connect in time",
        ),
        (
            total.instance_stalled,
            "were abandoned: a function that is to receive them was disconnected as stalled, and may have processed \
             some of them",
        ),
        (
            total.instance_lost,
            "were abandoned: a function that may have processed them was lost",
        ),
        (
            total.forbidden,
            "were refused: this client has no permission to write their tag, and a retry does not help",
        ),
        (
            total.too_deep,
            "were refused: they had passed as many functions as the zipper permits (`limits.function_depth`), so \
             functions form a cycle",
        ),
    ]
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

    /// Settled messages. The end mark does not count.
    fn settled(&self) -> u64 {
        self.summary.total().settled.min(self.sent)
    }

    /// Why the source fails, if it does.
    pub(crate) fn failure(&self) -> Option<String> {
        let mut reasons = lost_messages(&self.summary).to_vec();
        let unobserved = self.summary.total().unobserved;
        if !self.allows_unobserved {
            reasons.push((
                unobserved,
                "were observed by no function (--allow-unobserved permits that)",
            ));
        }
        reasons.push((
            self.uncertain,
            "may be lost: the zipper has not acknowledged them",
        ));
        let sent = self.sent;
        let reasons: Vec<_> = reasons
            .into_iter()
            .filter(|&(count, _)| count > 0)
            .map(|(count, reason)| format!("{count} of {sent} messages {reason}"))
            .collect();
        match (reasons.is_empty(), self.is_closed) {
            (false, _) => Some(reasons.join("; ")),
            (true, true) => None,
            (true, false) => Some("the zipper did not acknowledge the end in time".to_owned()),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let total = self.summary.total();
        json!({
            "sent": self.sent, "bytes": self.bytes, "zipper": self.zipper,
            "delivered": self.failure().is_none(), "uncertain": self.uncertain,
            "settled": self.settled(), "unobserved": total.unobserved,
            "abandoned": {
                "no_subscriber": total.no_subscriber, "instance_stalled": total.instance_stalled,
                "instance_lost": total.instance_lost, "forbidden": total.forbidden,
                "too_deep": total.too_deep,
            },
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
        write!(f, ": {} settled", self.settled())?;
        for (count, what) in [
            (total.unobserved, "unobserved"),
            (total.abandoned() - total.forbidden, "abandoned"),
            (total.forbidden, "forbidden"),
            (self.summary.unsettled(), "unsettled"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}
