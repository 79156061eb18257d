//! What a change of the routes costs a router, with the deltas for two neighbours.
#![allow(missing_docs, reason = "criterion makes a public function")]

use criterion::{Criterion, criterion_group, criterion_main};
use selvedge_client::tag::Tag;
use selvedge_client::wire::{INTEREST_DELTA_LEN_MAX, InterestEntry, NodeKey, Policy};
use selvedge_zipper::router::{FunctionSpec, Presence, Router};

/// The neighbour by which most functions are reached.
const VIA: NodeKey = [201; 32];

/// Neighbours that learn of changes.
const OTHERS: [NodeKey; 2] = [[202; 32], [203; 32]];

const CLIENT: NodeKey = [250; 32];

fn function(name: &str, first: u32, tags: u32) -> FunctionSpec {
    FunctionSpec {
        instance: None,
        drops: None,
        name: name.into(),
        tags: (first..first + tags).map(Tag).collect(),
        target: None,
        policy: Policy::Nearest,
    }
}

/// A router that reaches functions at a neighbour, each with a tag of its own.
fn knowing(functions: u32) -> Router {
    let mut router = Router::new([0; 32], 7);
    let entry = |number| InterestEntry {
        settled: None,
        drops: None,
        name: format!("function-{number}"),
        tags: vec![Tag(number)],
        target: None,
        policy: Policy::Nearest,
        path: vec![VIA],
    };
    router.learn(VIA, (0..functions).map(entry).collect());
    OTHERS.into_iter().for_each(|it| router.add_neighbour(it));
    advertise(&mut router);
    router
}

/// A router with local functions with 1,024 tags each, half of which the next one observes, too.
fn with_tags(functions: u8) -> Router {
    let mut router = knowing(0);
    for number in 0..functions {
        let spec = function(&format!("wide-{number}"), u32::from(number) * 512, 1024);
        router.add_function([number; 32], spec);
    }
    advertise(&mut router);
    router
}

fn advertise(router: &mut Router) {
    for neighbour in OTHERS {
        while router
            .next_delta(neighbour, INTEREST_DELTA_LEN_MAX)
            .is_some()
        {}
    }
    router.take_changed();
}

fn table_change(c: &mut Criterion) {
    let mut group = c.benchmark_group("a function comes and goes");
    for known in [10, 10_000] {
        let (mut router, spec) = (knowing(known), function("another", known / 2, 1));
        group.bench_function(format!("1 tag, {known} known"), |b| {
            b.iter(|| {
                router.add_function(CLIENT, spec.clone());
                advertise(&mut router);
                router.remove(CLIENT);
                advertise(&mut router);
            });
        });
    }
    for others in [1, 100] {
        let (mut router, spec) = (with_tags(others), function("another", 5000, 1024));
        group.bench_function(format!("1,024 tags, {others} others with as many"), |b| {
            b.iter(|| {
                router.add_function(CLIENT, spec.clone());
                advertise(&mut router);
                router.remove(CLIENT);
                advertise(&mut router);
            });
        });
    }
    group.finish();
    let mut group = c.benchmark_group("disconnects and returns");
    let (mut router, spec) = (with_tags(100), function("another", 5000, 1024));
    router.add_function(CLIENT, spec);
    group.bench_function("a function with 1,024 tags", |b| {
        b.iter(|| {
            router.set_presence(CLIENT, Presence::Away);
            advertise(&mut router);
            router.set_presence(CLIENT, Presence::Up);
            advertise(&mut router);
        });
    });
    let mut router = knowing(10_000);
    group.bench_function("a neighbour with 10,000 functions", |b| {
        b.iter(|| {
            router.set_presence(VIA, Presence::Away);
            advertise(&mut router);
            router.set_presence(VIA, Presence::Up);
            advertise(&mut router);
        });
    });
    group.finish();
}

criterion_group!(benches, table_change);
criterion_main!(benches);
