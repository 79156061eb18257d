//! The tables that neighbours are sent, in parts and at their limits.

use super::*;
use crate::router::tests::{T, entry, function, node};
use crate::router::{FunctionSpec, Router};
use selvedge_client::tag::Tag;
use selvedge_client::wire::{DropPolicy, Policy};

#[test]
fn a_neighbour_is_sent_as_many_entries_as_it_accepts_and_others_when_there_is_room() {
    let mut router = Router::new(node(0), 7);
    let named = |prefix: &str, via: usize| -> Vec<InterestEntry> {
        let number = 0..INTEREST_MAX / 2 + 5;
        number
            .map(|n| entry(&format!("{prefix}{n}"), &[via]))
            .collect()
    };
    router.learn(node(1), named("a", 1));
    router.learn(node(2), named("b", 2));
    router.add_neighbour(node(3));
    let mut receiver = Router::new(node(3), 7);
    let mut settle = |router: &mut Router| {
        while let Some(delta) = router.next_delta(node(3), INTEREST_DELTA_LEN_MAX) {
            receiver.learn_delta(node(0), delta).expect("in order");
        }
        receiver.advance(usize::MAX);
        let known = receiver.observers(T).into_iter();
        let (a, b): (Vec<_>, Vec<_>) = known.partition(|name| name.starts_with('a'));
        (a.len(), b.len())
    };
    let half = INTEREST_MAX / 2;
    assert_eq!(settle(&mut router), (half + 5, half - 5));
    assert!(router.is_table_full(node(3)));
    let mut fewer = named("a", 1);
    fewer.truncate(half + 4);
    router.learn(node(1), fewer.clone());
    assert_eq!(settle(&mut router), (half + 4, half - 4));
    assert!(router.is_table_full(node(3)));
    fewer.truncate(half - 7);
    router.learn(node(1), fewer);
    assert_eq!(settle(&mut router), (half - 7, half + 5));
    assert!(!router.is_table_full(node(3)));
}

#[test]
fn an_entry_that_is_too_long_for_a_message_is_left_out_until_it_is_shorter() {
    let (mut router, len_max) = (Router::new(node(0), 7), 1024);
    router.add_neighbour(node(3));
    let with_tags = |count: u32| FunctionSpec {
        instance: None,
        drops: None,
        tags: (0..count).map(Tag).collect(),
        ..function("a", Policy::Nearest)
    };
    router.add_function(node(1), with_tags(10));
    router.add_function(node(2), function("b", Policy::Nearest));
    let names = |delta: Option<InterestDelta>| -> (Vec<String>, usize) {
        let delta = delta.expect("something has changed");
        let names = delta.updated.into_iter().map(|entry| entry.name);
        (names.collect(), delta.withdrawn.len())
    };
    let first = names(router.next_delta(node(3), len_max));
    assert_eq!(first, (vec!["a".into(), "b".into()], 0));
    router.add_function(node(1), with_tags(1000));
    assert_eq!(names(router.next_delta(node(3), len_max)), (vec![], 1));
    assert_eq!(router.next_delta(node(3), len_max), None);
    router.add_function(node(1), with_tags(20));
    let again = names(router.next_delta(node(3), len_max));
    assert_eq!(again, (vec!["a".into()], 0));
}

#[test]
fn a_route_that_changes_between_two_parts_of_the_first_table_is_sent() {
    let mut router = Router::new(node(0), 7);
    let roundabout = vec![entry("a", &[1]), entry("b", &[5, 4, 1])];
    router.learn(node(1), roundabout);
    // It is not advertised back to where it leads.
    router.learn(node(3), vec![entry("b", &[5, 3])]);
    let wide = FunctionSpec {
        tags: (0..50).map(Tag).collect(),
        ..function("c", Policy::Nearest)
    };
    router.add_function(node(9), wide);
    router.add_neighbour(node(3));
    let names = |router: &mut Router| -> Option<Vec<String>> {
        let delta = router.next_delta(node(3), 320)?;
        Some(delta.updated.into_iter().map(|it| it.name).collect())
    };
    assert_eq!(names(&mut router), Some(vec!["a".into()]));
    router.learn(node(3), vec![]);
    // In front of what has been considered.
    router.learn(node(2), vec![entry("_", &[2])]);
    assert_eq!(names(&mut router), Some(vec!["_".into(), "b".into()]));
    assert_eq!(names(&mut router), Some(vec!["c".into()]));
    assert_eq!(names(&mut router), None);
}

#[test]
fn a_neighbour_without_deltas_is_sent_numbered_tables_that_are_full_at_their_limit() {
    let mut router = Router::new(node(0), 7);
    let dropping = FunctionSpec {
        drops: Some(DropPolicy::Oldest),
        ..function("a", Policy::Nearest)
    };
    router.add_function(node(9), dropping);
    router.add_neighbour(node(3));
    let entry_of_a = InterestEntry {
        drops: None,
        ..router.advertise(node(3)).remove(0)
    };
    assert_eq!(router.next_table(node(3)), Some((1, vec![entry_of_a])));
    assert!(!router.is_table_full(node(3)));
    assert_eq!(router.next_table(node(3)), None);
    let many = (1..INTEREST_MAX).map(|n| entry(&format!("b{n}"), &[1]));
    router.learn(node(1), many.collect());
    let (number, table) = router.next_table(node(3)).expect("it has changed");
    assert_eq!((number, table.len()), (2, INTEREST_MAX));
    assert!(router.is_table_full(node(3)));
}
