//! Plans with the endpoints of their next hops, cached until the routes of their tag change.

use std::collections::HashMap;
use std::sync::Arc;

use selvedge_hub::Endpoint;

use crate::broker::flows::PeerRoutes;
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
}

/// A plan with the endpoints of its next hops.
#[derive(Debug, Default)]
pub(super) struct ResolvedPlan {
    pub(super) plan: Plan,
    /// For each next hop of the plan; `None` if the peer has left meanwhile.
    pub(super) recipients: Vec<Option<ResolvedHop>>,
}

impl ResolvedPlan {
    pub(super) fn new(plan: Plan, recipient: impl Fn(NextHop) -> Option<ResolvedHop>) -> Self {
        let recipients = plan.next_hops().iter().copied().map(recipient).collect();
        Self { plan, recipients }
    }

    /// The function of this zipper that receives one copy of each message, if it is the only recipient.
    pub(super) fn only_local_hop(&self) -> Option<&ResolvedHop> {
        match (self.plan.next_hops(), &self.recipients[..]) {
            ([NextHop::Local(_)], [Some(to)]) if self.plan.copies_max() == 1 => Some(to),
            _ => None,
        }
    }
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
