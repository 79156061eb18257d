//! Whether what a source presents can be true.

use std::collections::BTreeSet;

use selvedge_client::settlement::{FlowOffer, GroupOffer, RecipientGroup};

/// The source has presented numbers that contradict each other, or are too large. A retry does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the source presents a flow that cannot exist")]
pub struct InvalidOffer;

/// Above these, counting on would overflow.
const SEQUENCE_MAX: u64 = 1 << 62;
const GROUP_MAX: u32 = 1 << 31;

pub(super) fn is_valid(offer: &FlowOffer) -> bool {
    let FlowOffer {
        live_from,
        sent_max,
        groups_end,
        ..
    } = *offer;
    let mut numbers = BTreeSet::new();
    let is_valid_group = |it: &GroupOffer| {
        let RecipientGroup {
            group,
            from,
            uncertain_below,
            ..
        } = it.recipients;
        let members: BTreeSet<_> = it.recipients.members.iter().collect();
        numbers.insert(group)
            && group.0 < groups_end
            && members.len() == it.recipients.members.len()
            && from <= sent_max
            && it.floor <= sent_max
            && uncertain_below <= sent_max
            && it.settled.last().is_none_or(|last| last < sent_max)
    };
    live_from <= sent_max
        && sent_max <= SEQUENCE_MAX
        && groups_end <= GROUP_MAX
        && offer.groups.iter().all(is_valid_group)
}
