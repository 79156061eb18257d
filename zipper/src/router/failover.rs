//! Failover: the function that takes over the messages for a disconnected one.

use super::{Presence, Router};
use selvedge_client::wire::{NodeKey, Policy};

impl Router {
    /// A connected function of this zipper that shares the work with `node`, if `node` is disconnected.
    #[must_use]
    pub fn failover_for(&self, node: NodeKey) -> Option<NodeKey> {
        let away = self.local.get(&node)?;
        if away.presence() == Presence::Up || away.function.policy == Policy::All {
            return None;
        }
        let takes_over = |node: &&NodeKey| {
            let other = self.local.get(*node);
            other.is_some_and(|it| {
                it.presence() == Presence::Up && it.function.is_like(&away.function)
            })
        };
        let members = &self.local_groups.get(&away.key)?.members;
        members.keys().find(takes_over).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::FunctionSpec;
    use selvedge_client::tag::Tag;

    #[test]
    fn only_a_connected_instance_of_the_same_group_takes_over() {
        let of = |name: &str, policy| FunctionSpec {
            name: name.into(),
            tags: vec![Tag(5)],
            target: None,
            policy,
            instance: None,
            drops: None,
        };
        let mut targeted = of("a", Policy::Nearest);
        targeted.target = Some("t".into());
        let mut router = Router::new([0; 32], 7);
        router.add_function([1; 32], of("a", Policy::Nearest));
        router.add_function([2; 32], of("b", Policy::Nearest));
        router.add_function([3; 32], targeted);
        router.set_presence([1; 32], Presence::Away);
        assert_eq!(router.failover_for([1; 32]), None);
        router.add_function([4; 32], of("a", Policy::Nearest));
        assert_eq!(router.failover_for([1; 32]), Some([4; 32]));
        assert_eq!(router.failover_for([4; 32]), None, "it is connected");
        for node in [5, 6] {
            router.add_function([node; 32], of("c", Policy::All));
        }
        router.set_presence([5; 32], Presence::Away);
        assert_eq!(
            router.failover_for([5; 32]),
            None,
            "each instance has copies of its own"
        );
    }
}
