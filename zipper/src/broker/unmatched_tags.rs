//! Tags without an observer: each is reported in the log once, so that an operator notices it.

use std::collections::BTreeMap;

use selvedge_client::tag::Tag;

/// The largest number of remembered tags: sources choose tags and targets freely. More are counted, but
/// not reported until one of these is observed.
const UNMATCHED_MAX: usize = 64;

/// Tags and targets of messages that no function observes. Recorded when a plan is made, so that the
/// cost does not depend on the number of messages.
#[derive(Debug, Default)]
pub(super) struct UnmatchedTags {
    /// By tag and target; whether it has been reported.
    tags: BTreeMap<(Tag, Option<String>), bool>,
}

impl UnmatchedTags {
    /// Records the first message of that tag and target since the routes have changed.
    pub(super) fn note(&mut self, tag: Tag, target: Option<&str>, is_observed: bool) {
        let key = (tag, target.map(str::to_owned));
        if is_observed {
            self.tags.remove(&key);
        } else if self.tags.len() < UNMATCHED_MAX {
            self.tags.entry(key).or_insert(false);
        }
    }

    /// The unmatched tags that have not been reported since they were last observed.
    pub(super) fn take_unreported(&mut self) -> Vec<String> {
        let take_unreported = self
            .tags
            .iter_mut()
            .filter(|(_, is_reported)| !**is_reported);
        take_unreported
            .map(|((tag, target), is_reported)| {
                *is_reported = true;
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

    use super::*;
    use crate::broker::Broker;
    use crate::router::FunctionSpec;
    use selvedge_client::wire::Policy;

    #[test]
    fn each_kind_is_reported_of_once_until_it_was_observed_again() {
        let broker = Broker::for_tests();
        let tag = Tag(0x10);
        let take_unreported = |target| {
            broker.plan([2; 32], tag, target);
            broker.lock().unmatched_tags.take_unreported()
        };
        assert_eq!(take_unreported(None), [tag.to_string()]);
        assert_eq!(take_unreported(Some("t")), [format!("{tag} for \"t\"")]);
        assert_eq!(take_unreported(None), [""; 0]);
        let function = FunctionSpec {
            instance: None,
            drops: None,
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
    fn a_limited_number_of_tags_is_remembered() {
        let mut unmatched_tags = UnmatchedTags::default();
        for number in 0..3 * UNMATCHED_MAX as u32 {
            unmatched_tags.note(Tag(number), None, false);
        }
        assert_eq!(unmatched_tags.take_unreported().len(), UNMATCHED_MAX);
        unmatched_tags.note(Tag(0), None, true);
        unmatched_tags.note(Tag(UNMATCHED_MAX as u32), None, false);
        assert_eq!(
            unmatched_tags.take_unreported(),
            [Tag(UNMATCHED_MAX as u32).to_string()]
        );
    }
}
