//! Plans with the endpoints of their next hops, cached until the routes of their tag change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use selvedge_hub::Endpoint;

use crate::broker::flows::PeerRoutes;
use crate::broker::outlet::Outlet;
use crate::broker::{Broker, ConnectedPeer};
use crate::router::{NextHop, Plan};
use selvedge_client::tag::Tag;
use selvedge_client::wire::NodeKey;

/// The largest number of cached plans: sources choose tags and targets freely.
const PLANS_MAX: usize = 1024;

/// A peer to which copies are sent.
#[derive(Debug, Clone)]
pub(super) struct ResolvedHop {
    pub(super) node: NodeKey,
    /// The id of its connection: another endpoint of the same node has another id.
    pub(super) connection: u64,
    pub(super) endpoint: Endpoint,
    /// The routes on which this zipper sends to the peer.
    pub(super) routes: Arc<PeerRoutes>,
    /// Whether the peer is a function of this zipper, not a neighbour.
    pub(super) is_local: bool,
    /// For a function of this zipper with a drop policy.
    pub(super) outlet: Option<Arc<Outlet>>,
    /// How many messages were dropped for want of room at the peer.
    pub(super) dropped: Arc<AtomicU64>,
}

/// A plan with the endpoints of its next hops.
#[derive(Debug, Default)]
pub(super) struct ResolvedPlan {
    pub(super) plan: Plan,
    /// For each next hop of the plan; `None` if the peer has left meanwhile.
    pub(super) recipients: Vec<Option<ResolvedHop>>,
    /// For each next hop, whether all messages to it are for functions that drop messages.
    pub(super) drops: Vec<bool>,
}

impl ResolvedPlan {
    pub(super) fn new(plan: Plan, recipient: impl Fn(NextHop) -> Option<ResolvedHop>) -> Self {
        let recipients = plan.next_hops().iter().copied().map(recipient).collect();
        let next_hops = 0..plan.next_hops().len();
        Self {
            drops: next_hops.map(|at| plan.drops_at(at)).collect(),
            plan,
            recipients,
        }
    }

    /// The function of this zipper that receives one copy of each message, if it is the only recipient and
    /// has no drop policy.
    pub(super) fn only_local_hop(&self) -> Option<&ResolvedHop> {
        match (self.plan.next_hops(), &self.recipients[..]) {
            ([NextHop::Local(_)], [Some(to)]) if self.plan.copies_max() == 1 => {
                Some(to).filter(|to| to.outlet.is_none())
            }
            _ => None,
        }
    }
}

impl Broker {
    pub(super) fn resolve(&self, next_hop: NextHop) -> Option<ResolvedHop> {
        resolve(&self.lock().known, next_hop)
    }

    /// The function that takes over from a full one that is disconnected: otherwise its senders would
    /// block until it returns or is given up.
    pub(super) fn failover_for(&self, full: &ResolvedHop) -> Option<ResolvedHop> {
        let state = self.lock();
        let other = state.router.failover_for(full.node)?;
        resolve(&state.known, NextHop::Local(other))
    }
}

/// The endpoint of a next hop; `None` if the peer has left.
pub(super) fn resolve(
    known: &BTreeMap<NodeKey, ConnectedPeer>,
    next_hop: NextHop,
) -> Option<ResolvedHop> {
    let (node, is_local) = match next_hop {
        NextHop::Local(node) => (node, true),
        NextHop::Via(node) => (node, false),
    };
    let ConnectedPeer {
        connection,
        endpoint,
        routes,
        outlet,
        dropped,
        ..
    } = known.get(&node)?;
    Some(ResolvedHop {
        node,
        connection: *connection,
        endpoint: endpoint.clone(),
        routes: Arc::clone(routes),
        is_local,
        outlet: outlet.clone().filter(|_| is_local),
        dropped: Arc::clone(dropped),
    })
}

/// Cached plans by tag and target.
#[derive(Debug)]
pub(super) struct Plans<T = Arc<ResolvedPlan>> {
    /// Most tags are used with few targets or none.
    by_tag: HashMap<Tag, Vec<(Option<String>, T)>>,
    len: usize,
}

impl<T> Default for Plans<T> {
    fn default() -> Self {
        Self {
            by_tag: HashMap::new(),
            len: 0,
        }
    }
}

impl<T: Clone> Plans<T> {
    pub(super) fn find_or_make(
        &mut self,
        tag: Tag,
        target: Option<&str>,
        make: impl FnOnce() -> T,
    ) -> T {
        let known = self.by_tag.get(&tag).into_iter().flatten();
        if let Some((_, plan)) = known.into_iter().find(|(of, _)| of.as_deref() == target) {
            return plan.clone();
        }
        if self.len >= PLANS_MAX {
            *self = Self::default();
        }
        let plan = make();
        let of_tag = self.by_tag.entry(tag).or_default();
        of_tag.push((target.map(str::to_owned), plan.clone()));
        self.len += 1;
        plan
    }

    /// Drops the plans for a tag.
    pub(super) fn remove(&mut self, tag: Tag) {
        self.len -= self.by_tag.remove(&tag).map_or(0, |plans| plans.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_made_once_and_the_cache_is_limited() {
        let (mut plans, mut source) = (Plans::default(), 0);
        let mut find = |plans: &mut Plans<u32>, tag, target| {
            plans.find_or_make(Tag(tag), target, || {
                source += 1;
                source
            })
        };
        assert_eq!(find(&mut plans, 1, None), 1);
        assert_eq!(find(&mut plans, 1, Some("t")), 2);
        assert_eq!(find(&mut plans, 2, Some("t")), 3);
        assert_eq!(find(&mut plans, 1, Some("t")), 2);
        assert_eq!(find(&mut plans, 1, None), 1);
        plans.remove(Tag(1));
        assert_eq!((find(&mut plans, 1, None), plans.len), (4, 2));
        assert_eq!(find(&mut plans, 2, Some("t")), 3);
        for tag in 0..3 * PLANS_MAX as u32 {
            find(&mut plans, tag, Some("a new one each"));
            assert!(plans.len <= PLANS_MAX);
        }
    }
}
