//! What a zipper sends to the source of a flow, for the tests of this crate within and without.

use selvedge_client::settlement::{GroupId, InstanceId, RecipientGroup, SequenceSet};
use selvedge_client::wire::settlement::{
    Announcement, FlowOpening, FlowProgress, SettlementMessage,
};

/// The group of every flow.
pub(crate) const GROUP: GroupId = GroupId(1);

/// One group with one instance.
pub(crate) fn recipients() -> Vec<RecipientGroup> {
    vec![RecipientGroup {
        group: GROUP,
        name: "f".into(),
        only: None,
        from: 0,
        until: None,
        members: vec![InstanceId(5)],
        uncertain_below: 0,
    }]
}

/// Announces one group with one instance.
pub(crate) fn announcement(opening: &FlowOpening) -> SettlementMessage {
    SettlementMessage::Announce(Announcement {
        label: opening.label,
        attachment: opening.offer.attachment,
        version: 1,
        groups: recipients(),
    })
}

/// The recipients of the messages below `routed` are fixed, and those below `settled` are settled.
pub(crate) fn progress(opening: &FlowOpening, routed: u64, settled: u64) -> SettlementMessage {
    let settled = SequenceSet::from(0..settled);
    let settled = (!settled.is_empty()).then_some((GROUP, settled));
    SettlementMessage::Progress(FlowProgress {
        label: opening.label,
        attachment: opening.offer.attachment,
        routed,
        declined: Vec::new(),
        settled: settled.into_iter().collect(),
        abandoned: Vec::new(),
    })
}
