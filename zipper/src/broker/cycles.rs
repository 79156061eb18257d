//! Cycles of functions: each is reported in the log once for each function and tag.
//!
//! A function that writes what it observes itself is recognised when its recipients are looked up. A cycle of any
//! length is recognised by the number of functions that a message has passed, its depth, and is cut: the zipper at
//! which a function writes drops what has passed as many functions as are permitted. The number is part of settled
//! messages only. Other cycles go on without end unless a function ends them; and if a function writes more than one
//! message for each that it reads, the buffers fill, and the cycle stands still.

use std::collections::BTreeSet;

use selvedge_client::tag::Tag;
use selvedge_client::wire::settlement::FlowId;
use selvedge_client::wire::{NodeKey, Role};
use selvedge_hub::NodeId;

use super::{Broker, BrokerState};

/// The largest number of remembered functions and tags; more are not reported.
const CYCLES_MAX: usize = 1024;

/// The most functions that one line names.
const OBSERVERS_MAX: usize = 16;

/// Functions and tags for which a cycle was reported.
#[derive(Debug, Default)]
pub(super) struct ReportedCycles(BTreeSet<(NodeKey, Tag)>);

impl ReportedCycles {
    /// Records a function. Returns whether it is new.
    fn insert(&mut self, node: NodeKey, tag: Tag) -> bool {
        self.0.len() < CYCLES_MAX && self.0.insert((node, tag))
    }

    /// Forgets a function that has left.
    pub(super) fn remove(&mut self, node: NodeKey) {
        let first = (node, Tag(0));
        let all = self.0.range(first..=(node, Tag(u32::MAX)));
        let all: Vec<_> = all.copied().collect();
        all.iter().for_each(|it| _ = self.0.remove(it));
    }
}

impl BrokerState {
    /// Reports a client if it writes a tag that its own function observes; `observers` are the names of the functions
    /// that do. To be called when recipients are looked up, so that the cost does not depend on the number of messages.
    pub(super) fn note_writer<'a>(
        &mut self,
        node: NodeKey,
        tag: Tag,
        mut observers: impl Iterator<Item = &'a str>,
    ) {
        let Some(known) = self.known.get(&node) else {
            return;
        };
        let is_observer = known.role == Some(Role::StreamFunction)
            && observers.any(|name| name == known.name)
            && self.self_observers.insert(node, tag);
        if is_observer {
            let (peer, name) = (NodeId::new(node), &known.name);
            tracing::warn!(
                %peer, name, %tag,
                "a function writes a tag that it observes: the cycle has no end unless the function ends it, and \
                 stands still once its buffers are full"
            );
        }
    }
}

impl Broker {
    /// Reports that messages of a flow were dropped because they had passed too many functions. To be called once for
    /// each flow.
    pub(super) fn report_cut(&self, flow: &FlowId) {
        let mut state = self.lock();
        let BrokerState {
            known,
            router,
            cut_cycles,
            ..
        } = &mut *state;
        if !cut_cycles.insert(flow.source, flow.tag) {
            return;
        }
        let (tag, target) = (flow.tag, flow.target.as_deref());
        let groups = router.settled_groups(tag, target, &flow.source);
        let plan = router.unsettled_plan(tag, target);
        let names = groups.iter().map(|it| &*it.name).chain(plan.names());
        let observers: BTreeSet<&str> = names.collect();
        let observers: Vec<&str> = observers.into_iter().take(OBSERVERS_MAX).collect();
        let (peer, name) = (NodeId::new(flow.source), known.get(&flow.source));
        let name = name.map_or("", |it| &it.name);
        let (observers, depth) = (observers.join(", "), self.settings.function_depth);
        tracing::warn!(
            %peer, name, %tag, target, observers, depth,
            "functions form a cycle: messages of this function have passed as many functions as \
             `limits.function_depth` permits, and are dropped"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_reported_once_for_each_tag_until_it_has_left() {
        let mut observers = ReportedCycles::default();
        let [one, other] = [[1; 32], [2; 32]];
        assert!(observers.insert(one, Tag(7)));
        assert!(!observers.insert(one, Tag(7)));
        assert!(observers.insert(one, Tag(u32::MAX)));
        assert!(observers.insert(other, Tag(7)));
        observers.remove(one);
        assert!(observers.insert(one, Tag(7)));
        assert!(!observers.insert(other, Tag(7)));
        for tag in 0..2 * CYCLES_MAX as u32 {
            observers.insert([3; 32], Tag(tag));
            assert!(observers.0.len() <= CYCLES_MAX);
        }
    }
}
