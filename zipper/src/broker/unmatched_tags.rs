//! Which kinds of messages come and nobody observes: whoever runs the zipper is to hear of each, once.

use std::collections::BTreeMap;

use selvedge_client::tag::Tag;

/// How many kinds are remembered: sources choose tags and targets as they like. Of more nobody hears
/// until one of these is observed; they are counted like all others.
const KINDS_MAX: usize = 64;

/// Kinds of which a message has come while nobody observed them. Filled when a plan is made, so that
/// no message pays for it.
#[derive(Debug, Default)]
pub(super) struct UnmatchedTags {
    /// By tag and target; whether it was told of.
    kinds: BTreeMap<(Tag, Option<String>), bool>,
}

impl UnmatchedTags {
    /// A message of that kind has come, the first since the routes have changed.
    pub(super) fn note(&mut self, tag: Tag, target: Option<&str>, is_observed: bool) {
        let kind = (tag, target.map(str::to_owned));
        if is_observed {
            self.kinds.remove(&kind);
        } else if self.kinds.len() < KINDS_MAX {
            self.kinds.entry(kind).or_insert(false);
        }
    }

    /// Those that were not told of since they were last observed.
    pub(super) fn take_unreported(&mut self) -> Vec<String> {
        let take_unreported = self.kinds.iter_mut().filter(|(_, is_told)| !**is_told);
        take_unreported
            .map(|((tag, target), is_told)| {
                *is_told = true;
                match target {
                    Some(target) => format!("{tag} for {target:?}"),
                    None => tag.to_string(),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::broker::{Broker, Settings};
    use crate::router::FunctionSpec;
    use selvedge_client::wire::Policy;
    use selvedge_hub::Clock;

    #[test]
    fn each_kind_is_told_of_once_until_it_was_observed_again() {
        let broker = Broker::new(Settings {
            name: "z".into(),
            node: [1; 32],
            token: None,
            mesh: BTreeSet::new(),
            clock: Clock::default(),
            seed: 1,
        });
        let tag = Tag(0x10);
        let take_unreported = |target| {
            broker.plan(tag, target);
            broker.lock().unmatched_tags.take_unreported()
        };
        assert_eq!(take_unreported(None), [tag.to_string()]);
        assert_eq!(take_unreported(Some("t")), [format!("{tag} for \"t\"")]);
        assert_eq!(take_unreported(None), [""; 0]);
        let function = FunctionSpec {
            name: "f".into(),
            tags: vec![tag],
            target: None,
            policy: Policy::Nearest,
        };
        broker.reroute(|router| router.add_function([2; 32], function));
        assert_eq!(take_unreported(None), [""; 0]);
        broker.reroute(|router| router.remove([2; 32]));
        assert_eq!(take_unreported(None), [tag.to_string()]);
    }

    #[test]
    fn few_kinds_are_remembered() {
        let mut unmatched_tags = UnmatchedTags::default();
        for number in 0..3 * KINDS_MAX as u32 {
            unmatched_tags.note(Tag(number), None, false);
        }
        assert_eq!(unmatched_tags.take_unreported().len(), KINDS_MAX);
        unmatched_tags.note(Tag(0), None, true);
        unmatched_tags.note(Tag(KINDS_MAX as u32), None, false);
        assert_eq!(
            unmatched_tags.take_unreported(),
            [Tag(KINDS_MAX as u32).to_string()]
        );
    }
}
