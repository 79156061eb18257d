//! Instances that have stalled, and are members again a lease later.

use selvedge_client::settlement::InstanceId;
use selvedge_zipper::settlement::{EntryFlow, InstanceOutputKind};

use crate::cases::{drain, instance_outputs, spec};
use crate::stalling::{Held, at};

/// A lease, in half seconds.
const LEASE: u64 = 60;

const STALLED: InstanceId = InstanceId(1);
const OTHER: InstanceId = InstanceId(2);

/// The instances that are to be bound.
fn binds(flow: &mut EntryFlow) -> Vec<InstanceId> {
    drain(flow);
    let outputs = instance_outputs(flow).into_iter();
    let binds = outputs.filter(|it| it.kind == InstanceOutputKind::Bind);
    binds.map(|it| it.instance).collect()
}

/// A group of two instances, of which one has stalled.
fn stalled() -> Held {
    let mut held = Held::with(spec(true, &[1, 2]));
    held.wait(60, 0, true).expect("it has stalled");
    held
}

/// Which instances are bound when a lease has passed.
fn returned(held: &mut Held) -> Vec<InstanceId> {
    held.flow.handle_timeout(at(held.now + LEASE - 1));
    assert_eq!(binds(&mut held.flow), [], "it may still have a lease");
    held.flow.handle_timeout(at(held.now + LEASE));
    binds(&mut held.flow)
}

#[test]
fn an_instance_that_has_stalled_is_bound_a_lease_later_and_not_when_there_is_a_new_way_to_it() {
    let mut held = stalled();
    held.flow.handle_route(at(held.now), STALLED);
    held.flow.keep_route(at(held.now), STALLED);
    held.flow.handle_route_lost(at(held.now), OTHER);
    assert_eq!(returned(&mut held), [STALLED]);
}

#[test]
fn an_instance_that_has_stalled_is_bound_once_there_is_a_way_to_it_again() {
    let mut held = stalled();
    held.flow.handle_route_lost(at(held.now), STALLED);
    assert_eq!(returned(&mut held), []);
    held.flow.handle_route(at(held.now + LEASE), STALLED);
    assert_eq!(binds(&mut held.flow), [STALLED]);
    for reports_anew in [true, false] {
        let mut held = stalled();
        held.flow.handle_route_lost(at(held.now), STALLED);
        match reports_anew {
            true => held.flow.handle_route(at(held.now), STALLED),
            false => held.flow.keep_route(at(held.now), STALLED),
        }
        assert_eq!(returned(&mut held), [STALLED]);
    }
}

#[test]
fn an_instance_that_has_stalled_does_not_return_if_its_process_ends() {
    for (instance, expected) in [(STALLED, vec![]), (OTHER, vec![STALLED])] {
        let mut held = stalled();
        held.flow.handle_death(at(held.now), instance);
        assert_eq!(returned(&mut held), expected);
    }
}

#[test]
fn an_instance_that_was_not_listed_when_it_stalled_does_not_return() {
    let mut held = Held::with(spec(true, &[1, 2]));
    held.flow.set_groups(at(held.now), &[spec(true, &[2])]);
    held.wait(60, 0, true).expect("it has stalled");
    assert_eq!(returned(&mut held), []);
}

#[test]
fn the_way_to_an_instance_is_kept_while_another_one_that_has_stalled_has_none() {
    let mut held = stalled();
    held.flow.handle_route_lost(at(held.now), STALLED);
    held.flow.handle_route(at(held.now), OTHER);
    assert_eq!(binds(&mut held.flow), [OTHER]);
    held.flow.keep_route(at(held.now), OTHER);
    assert_eq!(binds(&mut held.flow), []);
}
