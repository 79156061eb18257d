//! The instances of settled flows, and how zippers learn of them.

use super::*;
use crate::router::FunctionSpec;
use selvedge_client::wire::{DropPolicy, INTEREST_DELTA_LEN_MAX, InterestEntry};

const T: Tag = Tag(0x10);
const SOURCE: NodeKey = [99; 32];

fn function(name: &str, policy: Policy, instance: Option<u64>) -> FunctionSpec {
    FunctionSpec {
        name: name.into(),
        tags: vec![T],
        target: None,
        policy,
        instance: instance.map(|number| InstanceNotice {
            instance: InstanceId(number),
            redelivers: true,
        }),
        drops: None,
    }
}

fn entry(name: &str, policy: Policy, path: &[u8], instances: Option<&[u64]>) -> InterestEntry {
    InterestEntry {
        name: name.into(),
        tags: vec![T],
        target: None,
        policy,
        path: path.iter().map(|n| [*n; 32]).collect(),
        settled: instances.map(|list| ListedInstances {
            redelivers: false,
            instances: list.iter().copied().map(InstanceId).collect(),
            away: Vec::new(),
        }),
        drops: None,
    }
}

/// The name of each group with its members and others.
type Groups = Vec<(String, Vec<u64>, Vec<u64>)>;

fn groups(router: &Router) -> Groups {
    let numbers = |list: &[SettledMember]| list.iter().map(|it| it.instance.0).collect();
    let groups = router.settled_groups(T, None, &SOURCE).into_iter();
    let listed = groups.map(|it| {
        (
            it.name.to_string(),
            numbers(&it.members),
            numbers(&it.others),
        )
    });
    listed.collect()
}

fn names(plan: &Plan) -> Vec<(String, NodeKey)> {
    let mut random = fastrand::Rng::with_seed(1);
    let selected = plan.select(&SOURCE, &mut random);
    selected.map(|it| (it.name.to_owned(), it.node)).collect()
}

fn only(name: &str, members: &[u64], others: &[u64]) -> Groups {
    vec![(name.into(), members.to_vec(), others.to_vec())]
}

#[test]
fn new_messages_go_to_the_nearest_instances_and_the_others_are_known() {
    let mut router = Router::new([0; 32], 7);
    let near = entry("f", Policy::Nearest, &[1], Some(&[5, 4]));
    let far = entry("f", Policy::Nearest, &[2, 1], Some(&[6, 5]));
    router.learn([1; 32], vec![near, far]);
    assert_eq!(groups(&router), only("f", &[4, 5], &[6]));
    let of = |router: &Router| router.settled_groups(T, None, &SOURCE).remove(0);
    let (via, group) = (NextHop::Via([1; 32]), of(&router));
    let ends = |it: &SettledMember| (it.home, it.next_hop);
    assert_eq!(ends(&group.members[1]), ([1; 32], via), "its nearest home");
    assert_eq!(ends(&group.others[0]), ([2; 32], via));
    assert!(!group.redelivers);
    router.add_function([8; 32], function("f", Policy::Nearest, Some(9)));
    assert_eq!(groups(&router), only("f", &[9], &[4, 5, 6]));
    let group = of(&router);
    let here = ([0; 32], NextHop::Local([8; 32]));
    assert_eq!(ends(&group.members[0]), here);
    assert!(group.redelivers, "a function of this zipper decides");
    router.set_presence([8; 32], Presence::Away);
    assert_eq!(groups(&router), only("f", &[4, 5], &[6, 9]));
}

#[test]
fn hash_selects_one_instance_that_depends_on_the_source_and_remains_when_others_leave() {
    let mut router = Router::new([0; 32], 7);
    let spread = |router: &Router| -> Vec<InstanceId> {
        let groups = (0..100).map(|n| router.settled_groups(T, None, &[n; 32]).remove(0));
        groups.map(|it| it.members[0].instance).collect()
    };
    let all = [1, 2, 3, 4, 5];
    router.learn([1; 32], vec![entry("f", Policy::Hash, &[1], Some(&all))]);
    let before = spread(&router);
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 5);
    router.learn(
        [1; 32],
        vec![entry("f", Policy::Hash, &[1], Some(&all[1..]))],
    );
    let kept = before.iter().zip(spread(&router));
    assert!(
        kept.clone()
            .all(|(before, after)| before.0 == 1 || *before == after)
    );
    let group = router.settled_groups(T, None, &SOURCE).remove(0);
    assert_eq!((group.members.len(), group.others.len()), (1, 3));
}

#[test]
fn functions_without_an_instance_have_a_plan_of_their_own() {
    let mut router = Router::new([0; 32], 7);
    for (client, name, policy, instance) in [
        (1, "old", Policy::Nearest, None),
        (2, "new", Policy::Nearest, Some(1)),
        (3, "mixed", Policy::Nearest, None),
        (4, "mixed", Policy::Nearest, Some(2)),
        (5, "taps", Policy::All, None),
        (6, "taps", Policy::All, Some(3)),
    ] {
        router.add_function([client; 32], function(name, policy, instance));
    }
    let expected = [("old", 1), ("taps", 5)].map(|(name, client)| (name.into(), [client; 32]));
    let plan = router.unsettled_plan(T, None);
    assert_eq!(names(&plan), expected);
    assert_eq!(plan.names().collect::<Vec<_>>(), ["old", "taps"]);
    let settled = ["mixed", "new", "taps"].map(str::to_owned);
    let found: Vec<_> = groups(&router).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(found, settled);
    assert_eq!(router.plan(T, None).copies_max(), 5);
}

#[test]
fn an_instance_is_listed_as_disconnected_until_it_is_gone() {
    let mut router = Router::new([0; 32], 7);
    router.add_settling_neighbour([1; 32]);
    router.add_function([8; 32], function("f", Policy::Nearest, Some(9)));
    let sent = |router: &mut Router| {
        let delta = router.next_delta([1; 32], INTEREST_DELTA_LEN_MAX)?;
        assert!(delta.lists_instances);
        let settled = delta.updated.into_iter().next()?.settled;
        Some(settled.map(|it| (it.instances, it.away)))
    };
    let listed = (vec![InstanceId(9)], Vec::new());
    assert_eq!(sent(&mut router), Some(Some(listed)));
    router.set_presence([8; 32], Presence::Away);
    let listed = (Vec::new(), vec![InstanceId(9)]);
    assert_eq!(sent(&mut router), Some(Some(listed)));
    assert_eq!(router.local_instance(InstanceId(9)), Some([8; 32]));
    assert_eq!(groups(&router), only("f", &[9], &[]), "its messages wait");
    router.set_presence([8; 32], Presence::Gone);
    assert_eq!(sent(&mut router), Some(None));
    assert_eq!(router.local_instance(InstanceId(9)), None);
    assert_eq!(groups(&router), []);
}

#[test]
fn messages_wait_for_disconnected_instances_if_there_are_no_others() {
    let mut router = Router::new([0; 32], 7);
    let mut one = entry("f", Policy::RoundRobin, &[1], Some(&[4]));
    let mut two = entry("f", Policy::RoundRobin, &[2, 1], Some(&[]));
    two.settled.as_mut().unwrap().away = vec![InstanceId(4), InstanceId(5)];
    router.learn([1; 32], vec![one.clone(), two.clone()]);
    assert_eq!(groups(&router), only("f", &[4], &[5]));
    let home = |router: &Router| router.settled_groups(T, None, &SOURCE)[0].members[0].home;
    assert_eq!(home(&router), [1; 32], "it has moved");
    one.settled = Some(ListedInstances::default());
    router.learn([1; 32], vec![one.clone(), two.clone()]);
    assert_eq!(groups(&router), only("f", &[4, 5], &[]));
    assert_eq!(home(&router), [2; 32]);
    (one.policy, two.policy) = (Policy::All, Policy::All);
    one.settled.as_mut().unwrap().instances = vec![InstanceId(6)];
    router.learn([1; 32], vec![one, two]);
    assert_eq!(
        groups(&router),
        only("f", &[6, 4, 5], &[]),
        "each gets each message"
    );
}

#[test]
fn neighbours_without_settlement_do_not_learn_of_instances() {
    let mut router = Router::new([0; 32], 7);
    router.add_neighbour([1; 32]);
    router.add_function([8; 32], function("f", Policy::Nearest, None));
    let delta = router.next_delta([1; 32], INTEREST_DELTA_LEN_MAX).unwrap();
    assert!(!delta.lists_instances);
    router.add_function([8; 32], function("f", Policy::Nearest, Some(9)));
    assert_eq!(router.next_delta([1; 32], INTEREST_DELTA_LEN_MAX), None);
    assert_eq!(router.next_table([1; 32]), None);
}

#[test]
fn instances_for_which_a_message_has_no_room_are_left_out() {
    let mut router = Router::new([0; 32], 7);
    router.add_settling_neighbour([1; 32]);
    let all: Vec<u64> = (0..1024).collect();
    router.learn([2; 32], vec![entry("f", Policy::Nearest, &[2], Some(&all))]);
    let mut listed = |len_max| {
        router.add_settling_neighbour([1; 32]);
        let delta = router.next_delta([1; 32], len_max).unwrap();
        let settled = delta.updated.into_iter().next()?.settled;
        Some(settled.map(|it| it.instances.len()))
    };
    assert_eq!(listed(INTEREST_DELTA_LEN_MAX), Some(Some(1024)));
    assert_eq!(listed(1000), Some(Some(113)));
    assert_eq!(listed(100), Some(None));
    assert_eq!(listed(90), None);
}

#[test]
fn a_delta_is_not_longer_than_asked_for_because_of_the_instances_that_it_lists() {
    let mut router = Router::new([0; 32], 7);
    router.add_settling_neighbour([1; 32]);
    let all: Vec<u64> = (0..1024).collect();
    let named = |name| entry(name, Policy::Nearest, &[2], Some(&all));
    router.learn([2; 32], vec![named("f"), named("g")]);
    let mut names = || {
        let delta = router.next_delta([1; 32], INTEREST_DELTA_LEN_MAX)?;
        let names = delta.updated.into_iter().map(|it| it.name);
        Some(names.collect::<Vec<_>>())
    };
    assert_eq!(names(), Some(vec!["f".into()]));
    assert_eq!(names(), Some(vec!["g".into()]));
    assert_eq!(names(), None);
}

#[test]
fn a_route_to_a_home_is_found_for_any_target_where_instances_are_listed() {
    let mut router = Router::new([0; 32], 7);
    let mut targeted = entry("f", Policy::Nearest, &[3, 2], Some(&[1]));
    targeted.target = Some("t".into());
    let untargeted = entry("f", Policy::Nearest, &[4, 2], Some(&[2]));
    router.learn([2; 32], vec![targeted, untargeted]);
    let unlisted = entry("g", Policy::Nearest, &[3, 1], None);
    let listed = entry("g", Policy::Nearest, &[5, 1], Some(&[3]));
    router.learn([1; 32], vec![unlisted, listed]);
    let towards = |name, home| router.next_hop_towards(name, [home; 32]);
    assert_eq!(towards("f", 3), Some(NextHop::Via([2; 32])));
    assert_eq!(towards("f", 4), Some(NextHop::Via([2; 32])));
    assert_eq!(towards("g", 5), Some(NextHop::Via([1; 32])));
    assert_eq!(towards("g", 3), None, "its zipper does not know labels");
    assert_eq!(towards("g", 4), None);
    assert_eq!(towards("e", 3), None);
}

#[test]
fn functions_with_a_drop_policy_do_not_settle_and_sources_wait_only_for_others() {
    let mut router = Router::new([0; 32], 7);
    let dropping = |name: &str| FunctionSpec {
        drops: Some(DropPolicy::Oldest),
        ..function(name, Policy::Nearest, None)
    };
    router.add_function([10; 32], dropping("tap"));
    router.learn(
        [1; 32],
        vec![
            InterestEntry {
                drops: Some(DropPolicy::Newest),
                ..entry("tap far", Policy::Nearest, &[1], None)
            },
            entry("far", Policy::Nearest, &[1], Some(&[5])),
        ],
    );
    let old = entry("old", Policy::Nearest, &[2], None);
    router.learn([2; 32], vec![old]);
    assert_eq!(groups(&router), only("far", &[5], &[]));
    let waits = |plan: &Plan| -> Vec<(NextHop, bool)> {
        let hops = plan.next_hops().iter().copied().enumerate();
        hops.map(|(at, hop)| (hop, !plan.drops_at(at))).collect()
    };
    let (here, link, other) = (
        NextHop::Local([10; 32]),
        NextHop::Via([1; 32]),
        NextHop::Via([2; 32]),
    );
    let plan = router.unsettled_plan(T, None);
    assert_eq!(waits(&plan), [(other, true), (here, false), (link, false)]);
    // Of plain data, what the same neighbour gets for another function waits.
    let plan = router.plan(T, None);
    assert_eq!(waits(&plan), [(link, true), (other, true), (here, false)]);
    // One function that holds is enough for a name to be advertised as one that does.
    let advertised = |router: &Router| {
        let table = router.advertise([3; 32]).into_iter();
        let tap = table.filter(|it| it.name == "tap").map(|it| it.drops);
        tap.collect::<Vec<_>>()
    };
    assert_eq!(advertised(&router), [Some(DropPolicy::Oldest)]);
    router.add_function([11; 32], function("tap", Policy::Nearest, None));
    assert_eq!(advertised(&router), [None]);
    router.remove([11; 32]);
    router.add_function([10; 32], function("tap", Policy::Nearest, None));
    assert_eq!(advertised(&router), [None]);
    router.add_function([10; 32], dropping("tap"));
    assert_eq!(advertised(&router), [Some(DropPolicy::Oldest)]);
}
