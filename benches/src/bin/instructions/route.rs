//! Messages through the router of a zipper, one after another.

use std::hint::black_box;

use selvedge_client::tag::Tag;
use selvedge_client::wire::{InterestEntry, NodeKey, Origin, Policy};
use selvedge_zipper::router::{FlowKey, FunctionSpec, Router};

use crate::counted_repeats;

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
