//! Routes on one zipper, and on random meshes of them.

use super::*;
use selvedge_client::wire::{
    INTEREST_DELTA_LEN_MAX, INTEREST_MAX, PATH_MAX, TAGS_MAX, TEXT_LEN_MAX,
};
use std::collections::BTreeSet;
use std::ops::Range;

pub(super) const T: Tag = Tag(0x10);

pub(super) fn node(n: usize) -> NodeKey {
    let mut node = [0; 32];
    node[..8].copy_from_slice(&(n as u64).to_be_bytes());
    node
}

pub(super) fn function(name: &str, policy: Policy) -> FunctionSpec {
    FunctionSpec {
        instance: None,
        drops: None,
        name: name.into(),
        tags: vec![T],
        target: None,
        policy,
    }
}

fn key(source: usize) -> FlowKey<'static> {
    FlowKey {
        tag: T,
        target: None,
        origin: Origin {
            source: node(source),
            sequence: 0,
        },
    }
}

pub(super) fn entry(name: &str, path: &[usize]) -> InterestEntry {
    InterestEntry {
        settled: None,
        drops: None,
        name: name.into(),
        tags: vec![T],
        target: None,
        policy: Policy::Nearest,
        path: path.iter().map(|&n| node(n)).collect(),
    }
}

fn router_with(functions: &[(usize, FunctionSpec)]) -> Router {
    let mut router = Router::new(node(0), 7);
    for (client, function) in functions {
        router.add_function(node(*client), function.clone());
    }
    router
}

/// How often each client of the local ones is chosen for messages of `sources` in turn.
fn counts(router: &mut Router, sources: Range<usize>) -> BTreeMap<NodeKey, usize> {
    let mut counts = BTreeMap::new();
    for source in sources {
        for client in router.route(key(source)).local {
            *counts.entry(client).or_default() += 1;
        }
    }
    counts
}

#[test]
fn every_name_gets_a_copy_and_instances_of_one_name_take_turns() {
    let (a, b) = (
        function("a", Policy::Nearest),
        function("b", Policy::Nearest),
    );
    let mut router = router_with(&[(1, a.clone()), (2, a), (3, b)]);
    let expected = BTreeMap::from([(node(1), 50), (node(2), 50), (node(3), 100)]);
    assert_eq!(counts(&mut router, 100..200), expected);
}

#[test]
fn all_means_each_instance() {
    let a = function("a", Policy::All);
    let mut router = router_with(&[(1, a.clone()), (2, a)]);
    router.learn(node(9), vec![entry("a", &[9])]);
    let routes = router.route(key(5));
    assert_eq!(routes.local, [node(1), node(2)]);
    assert_eq!(routes.forward[&node(9)].len(), 1);
}

#[test]
fn a_copy_of_a_neighbour_goes_to_one_instance_here_and_by_all_to_each() {
    let (one, all) = (
        function("one", Policy::Nearest),
        function("all", Policy::All),
    );
    let mut router = router_with(&[(1, one.clone()), (2, one), (3, all.clone()), (4, all)]);
    let mut relayed = |name: &str| {
        let here = Recipient {
            name: name.into(),
            home: node(0),
        };
        router.relay(node(9), key(5), vec![here]).local
    };
    assert_eq!([relayed("one"), relayed("one")].concat().len(), 2);
    assert_ne!(relayed("one"), relayed("one"), "they take turns");
    assert_eq!(relayed("all"), [node(3), node(4)]);
}

#[test]
fn hash_keeps_a_source_with_its_instance_and_moves_few_when_one_leaves() {
    let a = function("a", Policy::Hash);
    let mut router = router_with(&[(1, a.clone()), (2, a.clone()), (3, a)]);
    let chosen = |router: &mut Router| -> Vec<NodeKey> {
        (0..300)
            .map(|source| router.route(key(source)).local[0])
            .collect()
    };
    let before = chosen(&mut router);
    assert_eq!(before, chosen(&mut router));
    router.remove(node(2));
    for (old, new) in before.iter().zip(chosen(&mut router)) {
        assert!(*old == new || *old == node(2));
    }
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 3);
}

#[test]
fn random_reaches_each_instance() {
    let a = function("a", Policy::Random);
    let mut router = router_with(&[(1, a.clone()), (2, a)]);
    assert_eq!(counts(&mut router, 0..100).len(), 2);
}

#[test]
fn the_nearest_instance_is_here_then_at_the_nearest_zipper() {
    let mut router = Router::new(node(0), 7);
    router.learn(node(8), vec![entry("a", &[7, 8])]);
    router.learn(node(9), vec![entry("a", &[9])]);
    let routes = router.route(key(5));
    assert_eq!(
        routes.forward.keys().collect::<Vec<_>>(),
        [&node(9)],
        "{routes:?}"
    );
    router.add_function(node(1), function("a", Policy::Nearest));
    assert_eq!(router.route(key(5)).local, [node(1)]);
    router.set_presence(node(1), Presence::Away);
    assert!(
        router.route(key(5)).local.is_empty(),
        "it is away: another one"
    );
    router.remove(node(8));
    router.remove(node(9));
    assert_eq!(
        router.route(key(5)).local,
        [node(1)],
        "away, but the only one"
    );
}

#[test]
fn a_message_with_a_target_is_for_the_functions_with_that_target() {
    let mut wanting = function("a", Policy::Nearest);
    wanting.target = Some("x".into());
    let other = function("b", Policy::Nearest);
    let mut router = router_with(&[(1, wanting), (2, other)]);
    let mut targeted = key(5);
    targeted.target = Some("x");
    assert_eq!(router.route(targeted).local, [node(1)]);
    targeted.target = Some("y");
    assert!(router.route(targeted).is_empty());
    assert_eq!(router.route(key(5)).local, [node(1), node(2)]);
}

#[test]
fn functions_are_alike_if_only_their_processes_differ() {
    let one = function("a", Policy::Nearest);
    let changed = |change: fn(&mut FunctionSpec)| {
        let mut other = one.clone();
        change(&mut other);
        one.is_like(&other)
    };
    assert!(changed(|it| it.instance = Some(InstanceNotice {
        instance: InstanceId(1),
        redelivers: true,
    })));
    assert!(!changed(|it| it.name.push('b')));
    assert!(!changed(|it| it.tags.push(Tag(0x11))));
    assert!(!changed(|it| it.target = Some("x".into())));
    assert!(!changed(|it| it.policy = Policy::All));
    assert!(!changed(|it| it.drops = Some(DropPolicy::Oldest)));
}

#[test]
fn routes_are_empty_without_a_recipient_here_and_elsewhere() {
    let mut router = router_with(&[]);
    assert!(router.route(key(5)).is_empty());
    router.add_function(node(1), function("here", Policy::Nearest));
    assert!(!router.route(key(5)).is_empty());
    router.remove(node(1));
    assert!(router.route(key(5)).is_empty());
    router.learn(node(2), vec![entry("there", &[2])]);
    assert!(!router.route(key(5)).is_empty());
}

/// A message with a target is for the functions with exactly this target, byte for byte; one without is for all.
#[test]
fn m7_a_target_selects_the_functions_with_equal_targets() {
    let long = "t".repeat(TEXT_LEN_MAX);
    let almost = format!("{}u", &long[1..]);
    let targets = [
        None,
        Some("x"),
        Some("x"),
        Some("X"),
        Some(""),
        Some(" x"),
        Some(&*long),
    ];
    let functions: Vec<_> = targets
        .iter()
        .enumerate()
        .map(|(at, target)| {
            let mut function = function(&format!("f{at}"), Policy::Nearest);
            function.target = target.map(str::to_owned);
            (at + 1, function)
        })
        .collect();
    let mut router = router_with(&functions);
    let rules: [(Option<&str>, &[usize]); 9] = [
        (None, &[1, 2, 3, 4, 5, 6, 7]),
        (Some("x"), &[2, 3]),
        (Some("X"), &[4]),
        (Some(""), &[5]),
        (Some(" x"), &[6]),
        (Some("x "), &[]),
        (Some("y"), &[]),
        (Some(&long), &[7]),
        (Some(&almost), &[]),
    ];
    for (target, expected) in rules {
        let mut targeted = key(8);
        targeted.target = target;
        let expected: Vec<_> = expected.iter().map(|&at| node(at)).collect();
        assert_eq!(router.route(targeted).local, expected, "{target:?}");
    }
}

#[test]
fn what_nobody_observes_goes_nowhere() {
    let mut router = router_with(&[(1, function("a", Policy::Nearest))]);
    let mut other = key(5);
    other.tag = Tag(0x11);
    assert!(router.route(other).is_empty());
}

#[test]
fn ways_through_oneself_or_not_from_the_teller_are_ignored() {
    let mut router = Router::new(node(0), 7);
    let too_long: Vec<usize> = (1..=PATH_MAX + 1).rev().collect();
    router.learn(
        node(1),
        vec![
            entry("loop", &[5, 0, 1]),
            entry("forged", &[5]),
            entry("far", &too_long),
        ],
    );
    assert!(router.route(key(5)).is_empty());
}

#[test]
fn neighbours_are_those_that_have_introduced_themselves_or_sent_a_table() {
    let mut router = router_with(&[(3, function("here", Policy::Nearest))]);
    router.add_neighbour(node(2));
    router.learn(node(1), vec![entry("there", &[5, 1])]);
    assert_eq!(router.neighbours().collect::<Vec<_>>(), [node(1), node(2)]);
    router.remove(node(1));
    assert_eq!(router.neighbours().collect::<Vec<_>>(), [node(2)]);
}

#[test]
fn a_table_that_is_learned_again_outdates_no_route() {
    let mut router = Router::new(node(0), 7);
    let table = vec![entry("a", &[1]), entry("b", &[2, 1])];
    router.learn(node(1), table.clone());
    router.begin_learning(node(1), table);
    assert!(!router.advance(1));
    router.begin_learning(node(1), vec![entry("a", &[1]), entry("b", &[3, 1])]);
    assert!(router.advance(2), "one is withdrawn, and one is new");
    assert!(!router.advance(1));
}

#[test]
fn the_routes_of_two_neighbours_that_are_gone_at_once_are_removed() {
    let mut router = Router::new(node(0), 7);
    router.learn(node(1), vec![entry("a", &[1])]);
    router.learn(node(2), vec![entry("b", &[2])]);
    router.begin_presence(node(1), Presence::Gone);
    router.begin_presence(node(2), Presence::Gone);
    router.advance(usize::MAX);
    assert_eq!(router.routes(), 0);
}

#[test]
fn interest_learned_from_a_neighbour_is_not_returned_to_it() {
    let mut router = router_with(&[(3, function("here", Policy::Nearest))]);
    router.learn(node(1), vec![entry("there", &[1])]);
    router.add_neighbour(node(2));
    let names = |entries: Vec<InterestEntry>| -> Vec<String> {
        entries.into_iter().map(|entry| entry.name).collect()
    };
    assert_eq!(names(router.advertise(node(1))), ["here"]);
    assert_eq!(names(router.advertise(node(2))), ["here", "there"]);
}

#[test]
fn a_rotation_continues_when_its_only_instance_is_replaced() {
    let a = function("a", Policy::RoundRobin);
    let mut router = router_with(&[(1, a.clone())]);
    router.route(key(5));
    router.add_function(node(2), a.clone());
    assert_eq!(router.route(key(5)).local, [node(2)]);
    router.remove(node(2));
    router.set_presence(node(1), Presence::Away);
    router.set_presence(node(1), Presence::Up);
    router.add_function(node(2), a);
    assert_eq!(router.route(key(5)).local, [node(1)]);
}

#[test]
fn a_tag_that_is_listed_twice_is_one_copy() {
    let mut twice = function("a", Policy::All);
    twice.tags = vec![T, T];
    let mut router = router_with(&[(1, twice)]);
    let mut there = entry("a", &[9]);
    there.tags = vec![T, T];
    router.learn(node(9), vec![there]);
    let routes = router.route(key(5));
    assert_eq!(routes.local, [node(1)]);
    assert_eq!(routes.forward[&node(9)].len(), 1);
}

#[test]
fn tags_beyond_the_limit_of_an_entry_are_not_advertised() {
    let mut router = Router::new(node(0), 7);
    for client in [1, 2] {
        let tags = (0..TAGS_MAX as u32).map(|tag| Tag(tag * 2 + client as u32));
        let tags = tags.collect();
        let wide = FunctionSpec {
            instance: None,
            drops: None,
            tags,
            ..function("a", Policy::Nearest)
        };
        router.add_function(node(client), wide);
    }
    let table = router.advertise(node(9));
    assert_eq!((table.len(), table[0].tags.len()), (1, TAGS_MAX));
}

#[test]
fn deltas_out_of_order_and_tables_that_are_too_long_are_refused() {
    let mut router = Router::new(node(0), 7);
    let delta = |number, updated| InterestDelta {
        lists_instances: false,
        number,
        updated,
        withdrawn: Vec::new(),
    };
    let out_of_order = |number, last| Err(LearnError::OutOfOrder { number, last });
    assert_eq!(
        router.learn_delta(node(1), delta(2, vec![])),
        out_of_order(2, 0)
    );
    assert_eq!(router.learn_delta(node(1), delta(1, vec![])), Ok(()));
    assert_eq!(
        router.learn_delta(node(1), delta(3, vec![])),
        out_of_order(3, 1)
    );
    let many = (0..INTEREST_MAX).map(|n| entry(&n.to_string(), &[1]));
    let many = many.collect();
    assert_eq!(router.learn_delta(node(1), delta(2, many)), Ok(()));
    let one_more = vec![entry("one more", &[1])];
    assert_eq!(
        router.learn_delta(node(1), delta(3, one_more)),
        Err(LearnError::TooManyEntries)
    );
    let begun_anew = vec![entry("another", &[1])];
    assert_eq!(router.learn_delta(node(1), delta(1, begun_anew)), Ok(()));
    router.advance(usize::MAX);
    assert_eq!(router.observers(T), ["another"]);
}

/// Zippers on a random connected graph, with links that are cut.
struct RouterNet {
    routers: Vec<Router>,
    links: BTreeSet<(usize, usize)>,
    /// Whether a router is sent deltas. The others are sent whole tables.
    has_deltas: Vec<bool>,
}

impl RouterNet {
    fn new(random: &mut fastrand::Rng) -> Self {
        let size = random.usize(2..9);
        let routers = (0..size).map(|n| Router::new(node(n), 1)).collect();
        let has_deltas = (0..size).map(|_| random.bool()).collect();
        let mut links = BTreeSet::new();
        for n in 1..size {
            links.insert((random.usize(..n), n));
        }
        for _ in 0..random.usize(..size) {
            let (a, b) = (random.usize(..size), random.usize(..size));
            if a != b {
                links.insert((a.min(b), a.max(b)));
            }
        }
        let mut net = Self {
            routers,
            links,
            has_deltas,
        };
        for (a, b) in net.links.clone() {
            net.routers[a].add_neighbour(node(b));
            net.routers[b].add_neighbour(node(a));
        }
        net
    }

    /// Exchanges the interest of all routers until nothing changes.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 64, "the tables do not settle");
            let mut changed = false;
            for (a, b) in self.links.clone() {
                for (from, to) in [(a, b), (b, a)] {
                    changed |= self.advertise(from, to);
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// Sends a neighbour what has changed. Returns whether anything has.
    fn advertise(&mut self, from: usize, to: usize) -> bool {
        if !self.has_deltas[to] {
            let table = self.routers[from].next_table(node(to));
            return table.is_some_and(|(_, entries)| {
                self.routers[to].learn(node(from), entries);
                true
            });
        }
        let delta = self.routers[from].next_delta(node(to), INTEREST_DELTA_LEN_MAX);
        delta.is_some_and(|delta| {
            let to = &mut self.routers[to];
            assert_eq!(to.learn_delta(node(from), delta), Ok(()));
            to.advance(usize::MAX);
            true
        })
    }

    fn cut(&mut self, link: (usize, usize)) {
        self.links.remove(&link);
        self.routers[link.0].remove(node(link.1));
        self.routers[link.1].remove(node(link.0));
    }

    fn reachable(&self, from: usize) -> BTreeSet<usize> {
        let (mut seen, mut open) = (BTreeSet::from([from]), vec![from]);
        while let Some(at) = open.pop() {
            for &(a, b) in &self.links {
                let next = if a == at {
                    b
                } else if b == at {
                    a
                } else {
                    continue;
                };
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        seen
    }

    /// Sends a message in at `at`; returns the clients that got it, and the most hops.
    fn send(&mut self, at: usize) -> (Vec<NodeKey>, usize) {
        let (mut got, mut hops_max) = (Vec::new(), 0);
        let mut open = vec![(at, 0, self.routers[at].route(key(1000)))];
        while let Some((at, hops, routes)) = open.pop() {
            assert!(hops <= self.routers.len(), "a loop");
            assert!(routes.unreachable.is_empty());
            hops_max = hops_max.max(hops);
            got.extend(routes.local);
            for (via, recipients) in routes.forward {
                let to = u64::from_be_bytes(via[..8].try_into().expect("8 bytes")) as usize;
                assert!(self.links.contains(&(at.min(to), at.max(to))));
                let next = self.routers[to].relay(node(at), key(1000), recipients);
                open.push((to, hops + 1, next));
            }
        }
        got.sort_unstable();
        (got, hops_max)
    }
}

#[test]
fn n8_on_any_topology_each_name_gets_one_copy_and_all_gets_each_instance() {
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut net = RouterNet::new(&mut random);
        let size = net.routers.len();
        // Name `n` is run by some zippers; clients have the numbers 100 * n + zipper.
        let mut homes: Vec<BTreeSet<usize>> = Vec::new();
        for (n, policy) in [
            Policy::Nearest,
            Policy::RoundRobin,
            Policy::Hash,
            Policy::All,
        ]
        .into_iter()
        .enumerate()
        {
            let at: BTreeSet<usize> = (0..random.usize(1..3))
                .map(|_| random.usize(..size))
                .collect();
            for &home in &at {
                let client = node(100 * (n + 1) + home);
                net.routers[home].add_function(client, function(&n.to_string(), policy));
            }
            homes.push(at);
        }
        net.settle();
        for _ in 0..2 {
            for from in 0..size {
                let reachable = net.reachable(from);
                let (got, _) = net.send(from);
                for (n, at) in homes.iter().enumerate() {
                    let open = at.intersection(&reachable).count();
                    let is_of = |client: &&NodeKey| {
                        u64::from_be_bytes(client[..8].try_into().unwrap()) / 100 == n as u64 + 1
                    };
                    let expected = if n == 3 { open } else { open.min(1) };
                    assert_eq!(
                        got.iter().filter(is_of).count(),
                        expected,
                        "seed {seed}, name {n}"
                    );
                }
            }
            if let Some(&link) = net.links.iter().nth(random.usize(..net.links.len())) {
                net.cut(link);
                net.settle();
            }
            if net.links.is_empty() {
                break;
            }
        }
    }
}
