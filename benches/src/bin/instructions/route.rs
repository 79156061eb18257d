//! Messages through the router of a zipper, one after another, and changes of its tables.

use std::hint::black_box;

use selvedge_client::tag::Tag;
use selvedge_client::wire::{INTEREST_DELTA_LEN_MAX, InterestEntry, NodeKey, Origin, Policy};
use selvedge_zipper::router::{FlowKey, FunctionSpec, Router};

use crate::{counted_region, counted_repeats};

const TAG: Tag = Tag(0x10);

const NEIGHBOUR: NodeKey = [200; 32];

fn key() -> FlowKey<'static> {
    let origin = Origin {
        source: [100; 32],
        sequence: 1,
    };
    FlowKey {
        tag: TAG,
        target: None,
        origin,
    }
}

fn router() -> Router {
    Router::new([0; 32], 7)
}

/// `count` local functions with different names, each of which receives a copy of every message.
fn with_functions(count: u8) -> Router {
    let mut router = router();
    for number in 1..=count {
        let function = FunctionSpec {
            instance: None,
            drops: None,
            name: format!("function-{number}"),
            tags: vec![TAG],
            target: None,
            policy: Policy::Nearest,
        };
        router.add_function([number; 32], function);
    }
    router
}

pub(crate) fn functions_100() {
    let mut router = with_functions(100);
    assert_eq!(router.route(key()).local.len(), 100);
    counted_repeats(|| router.route(black_box(key())));
}

pub(crate) fn local_1() {
    let mut router = with_functions(1);
    assert_eq!(router.route(key()).local, [[1; 32]]);
    counted_repeats(|| router.route(black_box(key())));
}

pub(crate) fn neighbour_1() {
    let mut router = router();
    let entry = InterestEntry {
        settled: None,
        drops: None,
        name: "function".into(),
        tags: vec![TAG],
        target: None,
        policy: Policy::Nearest,
        path: vec![NEIGHBOUR],
    };
    router.learn(NEIGHBOUR, vec![entry]);
    let routes = router.route(key());
    assert!(routes.local.is_empty() && routes.forward.contains_key(&NEIGHBOUR));
    counted_repeats(|| router.route(black_box(key())));
}

/// How often a change with many tags is repeated.
const CHANGES: usize = 10;

/// A function of this zipper with consecutive tags.
fn observing(name: &str, first: u32, count: u32) -> FunctionSpec {
    FunctionSpec {
        instance: None,
        drops: None,
        name: name.into(),
        tags: (first..first + count).map(Tag).collect(),
        target: None,
        policy: Policy::Nearest,
    }
}

/// Adds a function and removes it, each with the delta for a neighbour.
fn come_and_go(router: &mut Router, function: &FunctionSpec) {
    router.add_function([250; 32], function.clone());
    assert!(
        router
            .next_delta(NEIGHBOUR, INTEREST_DELTA_LEN_MAX)
            .is_some()
    );
    router.remove([250; 32]);
    assert!(
        router
            .next_delta(NEIGHBOUR, INTEREST_DELTA_LEN_MAX)
            .is_some()
    );
    assert!(!router.take_changed().is_empty());
}

/// The neighbour is sent everything.
fn advertise_all(router: &mut Router) {
    router.add_neighbour(NEIGHBOUR);
    while router
        .next_delta(NEIGHBOUR, INTEREST_DELTA_LEN_MAX)
        .is_some()
    {}
    router.take_changed();
}

/// A function with one tag comes and goes where another neighbour reaches 10,000.
pub(crate) fn change_of_10000() {
    let (mut router, other) = (router(), [201; 32]);
    let entry = |number| InterestEntry {
        settled: None,
        drops: None,
        name: format!("function-{number}"),
        tags: vec![Tag(number)],
        target: None,
        policy: Policy::Nearest,
        path: vec![other],
    };
    router.learn(other, (0..10_000).map(entry).collect());
    advertise_all(&mut router);
    let function = observing("another", 5000, 1);
    counted_repeats(|| come_and_go(&mut router, &function));
}

/// A function with the most tags comes and goes where 100 others have as many.
pub(crate) fn change_of_1024_tags() {
    let mut router = router();
    for number in 0..100 {
        let function = observing(&format!("function-{number}"), u32::from(number) * 512, 1024);
        router.add_function([number; 32], function);
    }
    advertise_all(&mut router);
    let function = observing("another", 5000, 1024);
    counted_region(|| (0..CHANGES).for_each(|_| come_and_go(&mut router, &function)));
}
