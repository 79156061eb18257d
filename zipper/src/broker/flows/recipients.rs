//! The recipients of a flow, as the router knows them.

use std::collections::BTreeSet;
use std::sync::Arc;

use selvedge_client::settlement::InstanceId;
use selvedge_client::wire::settlement::FlowId;
use selvedge_client::wire::{NodeKey, Policy};

use crate::broker::plans::{ResolvedHop, ResolvedPlan};
use crate::broker::{Broker, BrokerState, resolve};
use crate::router::SettledGroup;
use crate::settlement::GroupSpec;

/// An instance, and the next hop to it.
#[derive(Debug)]
pub(super) struct FoundInstance {
    pub(super) instance: InstanceId,
    /// The name of the function.
    pub(super) name: Arc<str>,
    /// The zipper to which it is connected.
    pub(super) home: NodeKey,
    pub(super) to: ResolvedHop,
}

/// The recipients of a flow.
#[derive(Debug, Default)]
pub(super) struct FlowRecipients {
    pub(super) groups: Vec<GroupSpec>,
    pub(super) instances: Vec<FoundInstance>,
    /// The functions that do not settle, if there are any.
    pub(super) unsettled: Option<Arc<ResolvedPlan>>,
    /// Whether the source may not write the tag.
    pub(super) is_forbidden: bool,
}

impl Broker {
    /// The recipients of a flow. If its source may not write the tag, there are no groups, and the instances are
    /// those that may have messages from before.
    pub(super) fn flow_recipients(&self, flow: &FlowId) -> FlowRecipients {
        let (tag, target) = (flow.tag, flow.target.as_deref());
        let access = self.access_of(&flow.source).unwrap_or_default();
        let is_forbidden = !access.permissions.write.contains(tag);
        let mut state = self.lock();
        let BrokerState {
            router,
            known,
            unmatched_tags,
            ..
        } = &mut *state;
        let groups = router.settled_groups(tag, target, &flow.source);
        let mut found = FlowRecipients {
            is_forbidden,
            ..FlowRecipients::default()
        };
        let has_groups = !groups.is_empty();
        let mut seen = BTreeSet::new();
        for group in groups {
            for member in group.members.iter().chain(&group.others) {
                if let Some(to) = resolve(known, member.next_hop)
                    && seen.insert(member.instance)
                {
                    found.instances.push(FoundInstance {
                        instance: member.instance,
                        name: Arc::clone(&group.name),
                        home: member.home,
                        to,
                    });
                }
            }
            if !is_forbidden {
                add_specs(&group, &mut found.groups);
            }
        }
        if is_forbidden {
            return found;
        }
        let plan = router.unsettled_plan(tag, target);
        let is_observed = has_groups || !plan.next_hops().is_empty();
        unmatched_tags.note(tag, target, is_observed);
        if !plan.next_hops().is_empty() {
            let plan = ResolvedPlan::new(plan, |next_hop| resolve(known, next_hop));
            found.unsettled = Some(plan.into());
        }
        let groups = found.groups.iter().map(|group| &*group.name);
        let unsettled = found.unsettled.iter().flat_map(|it| it.plan.names());
        state.note_writer(flow.source, tag, groups.chain(unsettled));
        found
    }
}

/// By [`Policy::All`], each instance is a group of its own.
fn add_specs(group: &SettledGroup, specs: &mut Vec<GroupSpec>) {
    let spec = |only: Option<InstanceId>, members: Vec<InstanceId>| GroupSpec {
        name: group.name.to_string(),
        only,
        redelivers: group.redelivers,
        members,
        others: group.others.iter().map(|it| it.instance).collect(),
    };
    let members = group.members.iter().map(|it| it.instance);
    if group.policy == Policy::All {
        specs.extend(members.map(|it| spec(Some(it), vec![it])));
    } else {
        specs.push(spec(None, members.collect()));
    }
}
