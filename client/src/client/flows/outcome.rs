//! What has become of the messages that a client has written.

use crate::settlement::FlowOutcome;
use crate::tag::Tag;

/// What has become of the messages of one flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowSummary {
    /// The tag of the messages.
    pub tag: Tag,
    /// Their target.
    pub target: Option<String>,
    /// Settled messages, and those that need no further care, by reason.
    pub outcome: FlowOutcome,
    /// Messages whose outcome is not known yet. The client retains them.
    pub unsettled: u64,
}

/// What has become of the messages that a client has written since it was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutcomeSummary {
    /// The flows, by tag and target.
    pub flows: Vec<FlowSummary>,
    /// The outcome of flows that were idle and are forgotten. All of their messages have an outcome.
    pub forgotten: FlowOutcome,
}

impl OutcomeSummary {
    /// The number of messages whose outcome is not known yet.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.flows.iter().map(|flow| flow.unsettled).sum()
    }

    /// The outcome of all flows.
    #[must_use]
    pub fn total(&self) -> FlowOutcome {
        let mut total = self.forgotten;
        for flow in &self.flows {
            add(&mut total, flow.outcome);
        }
        total
    }

    /// Whether every message is settled, or was written while no function observed it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.unsettled() == 0 && self.total().abandoned() == 0
    }
}

/// Adds the messages of another outcome.
pub(super) const fn add(total: &mut FlowOutcome, more: FlowOutcome) {
    total.settled += more.settled;
    total.unobserved += more.unobserved;
    total.forbidden += more.forbidden;
    total.instance_lost += more.instance_lost;
    total.instance_stalled += more.instance_stalled;
    total.no_subscriber += more.no_subscriber;
    total.too_deep += more.too_deep;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_includes_flows_that_are_forgotten() {
        let one = FlowOutcome {
            settled: 1,
            unobserved: 2,
            forbidden: 3,
            instance_lost: 4,
            instance_stalled: 5,
            no_subscriber: 6,
            too_deep: 7,
        };
        let flow = FlowSummary {
            tag: Tag(1),
            target: None,
            outcome: one,
            unsettled: 8,
        };
        let summary = OutcomeSummary {
            flows: vec![flow.clone(), flow],
            forgotten: one,
        };
        assert_eq!(summary.total().settled, 3);
        assert_eq!(summary.total().abandoned(), 3 * (3 + 4 + 5 + 6 + 7));
        assert_eq!(summary.unsettled(), 16);
        assert!(!summary.is_settled());
        assert!(OutcomeSummary::default().is_settled());
    }
}
