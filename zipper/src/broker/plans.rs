//! Plans with the endpoints of whom they name, kept until something changes.

use std::collections::HashMap;
use std::sync::Arc;

use selvedge_hub::Endpoint;

use crate::router::{NextHop, Plan};
use selvedge_client::tag::Tag;
use selvedge_client::wire::NodeKey;

/// How many plans are kept: sources choose tags and targets as they like.
const PLANS_MAX: usize = 1024;

/// Whom a copy is handed to.
#[derive(Debug, Clone)]
pub(super) struct ResolvedHop {
    pub(super) node: NodeKey,
    /// Its own door: another endpoint of the same node has another one.
    pub(super) door: u64,
    pub(super) endpoint: Endpoint,
    /// Whether it is a function here, not a zipper that passes it on.
    pub(super) is_local: bool,
}

/// A plan, and whom it leads to.
#[derive(Debug)]
pub(super) struct ResolvedPlan {
    pub(super) plan: Plan,
    /// For each stop of the plan; none if it has left meanwhile.
    pub(super) recipients: Vec<Option<ResolvedHop>>,
}

impl ResolvedPlan {
    pub(super) fn new(plan: Plan, recipient: impl Fn(NextHop) -> Option<ResolvedHop>) -> Self {
        let recipients = plan.next_hops().iter().copied().map(recipient).collect();
        Self { plan, recipients }
    }

    /// The function here that gets one copy of each message, if nobody else gets any.
    pub(super) fn only_local_hop(&self) -> Option<&ResolvedHop> {
        match (self.plan.next_hops(), &self.recipients[..]) {
            ([NextHop::Local(_)], [Some(to)]) if self.plan.copies_max() == 1 => Some(to),
            _ => None,
        }
    }
}

/// Plans by tag and target.
#[derive(Debug)]
pub(super) struct Plans<T = Arc<ResolvedPlan>> {
    /// For each tag few targets, mostly none.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_made_once_and_few_are_kept() {
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
        for tag in 0..3 * PLANS_MAX as u32 {
            find(&mut plans, tag, Some("each its own"));
            assert!(plans.len <= PLANS_MAX);
        }
    }
}
