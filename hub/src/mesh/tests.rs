//! When the mesh dials which address of a peer.

use std::time::Duration;

use super::*;
use crate::mesh::peer::{STAGGER, UPGRADE_INTERVAL};

const PEER: NodeId = NodeId::new([7; 32]);

const fn dial(address: usize) -> Dial {
    let peer = PEER;
    Dial { peer, address }
}

fn mesh(address_count: usize) -> (Mesh, Instant) {
    let (mut mesh, now) = (Mesh::default(), Instant::now());
    mesh.add(now, PEER, address_count, 0);
    (mesh, now)
}

/// The addresses that are dialed at that time.
fn dialed(mesh: &mut Mesh, now: Instant) -> Vec<usize> {
    std::iter::from_fn(|| mesh.poll_dial(now))
        .map(|dial| dial.address)
        .collect()
}

/// A round of dials that fails, and the pause after it.
fn failed_round(mesh: &mut Mesh, now: Instant) -> Duration {
    assert_eq!(dialed(mesh, now), [0]);
    mesh.dial_failed(now, dial(0), 1.0);
    mesh.poll_timeout().expect("it is dialed again") - now
}

#[test]
fn addresses_are_tried_in_order_with_a_stagger() {
    let (mut mesh, now) = mesh(2);
    assert_eq!(dialed(&mut mesh, now), [0]);
    assert_eq!(mesh.poll_timeout(), Some(now + STAGGER));
    assert_eq!(dialed(&mut mesh, now + STAGGER), [1]);
    assert_eq!(mesh.poll_timeout(), None, "both dials are under way");
}

#[test]
fn when_an_address_fails_the_next_is_tried_at_once() {
    let (mut mesh, now) = mesh(2);
    dialed(&mut mesh, now);
    mesh.dial_failed(now, dial(0), 0.0);
    assert_eq!(dialed(&mut mesh, now), [1]);
}

#[test]
fn n18_ten_thousand_clients_of_a_restarted_server_return_in_time_and_not_at_once() {
    const CLIENTS: usize = 10_000;
    /// How many clients the server accepts in 100 ms, and for how long it is away.
    const ACCEPTED_MAX: usize = 200;
    const AWAY: Duration = Duration::from_secs(20);
    let tick = Duration::from_millis(100);
    let (begin, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| mesh(1).0).collect();
    let (mut now, mut up, mut most) = (begin, 0, 0);
    while up < CLIENTS {
        let (mut dials, mut accepted) = (0, 0);
        for client in &mut clients {
            let Some(dial) = client.poll_dial(now) else {
                continue;
            };
            dials += 1;
            if now >= begin + AWAY && accepted < ACCEPTED_MAX {
                accepted += 1;
                client.answered(now, dial);
                client.up(now, PEER);
            } else {
                client.dial_failed(now, dial, rng.f64());
            }
        }
        up += accepted;
        if now > begin + Duration::from_secs(5) {
            most = most.max(dials);
        }
        now += tick;
        let waited = now - begin;
        assert!(waited < AWAY + Duration::from_secs(30), "{up} are up");
    }
    println!(
        "all up {:?} after the server; at most {most} in 100 ms",
        now - begin - AWAY
    );
    assert!(most <= CLIENTS / 10, "{most} dials within 100 ms");
}

#[test]
fn the_pause_doubles_after_each_failed_round() {
    let (mut mesh, mut now) = mesh(1);
    for expected in [100, 200, 400, 800] {
        let pause = failed_round(&mut mesh, now);
        assert_eq!(pause.as_millis(), expected);
        now += pause;
    }
}

#[test]
fn after_the_peer_was_up_the_pauses_begin_at_the_shortest_again() {
    let (mut mesh, mut now) = mesh(1);
    for _ in 0..4 {
        now += failed_round(&mut mesh, now);
    }
    assert_eq!(dialed(&mut mesh, now), [0]);
    assert!(mesh.answered(now, dial(0)));
    mesh.up(now, PEER);
    mesh.down(now, PEER);
    assert_eq!(failed_round(&mut mesh, now).as_millis(), 100);
}

#[test]
fn a_peer_that_dials_after_an_outage_resets_the_pauses_too() {
    let (mut mesh, mut now) = mesh(1);
    for _ in 0..4 {
        now += failed_round(&mut mesh, now);
    }
    mesh.up(now, PEER);
    mesh.down(now, PEER);
    assert_eq!(failed_round(&mut mesh, now).as_millis(), 100);
}

#[test]
fn a_better_address_is_tried_again_and_replaces_the_one_in_use() {
    let (mut mesh, now) = mesh(2);
    dialed(&mut mesh, now);
    mesh.dial_failed(now, dial(0), 0.0);
    dialed(&mut mesh, now);
    assert!(mesh.answered(now, dial(1)));
    mesh.up(now, PEER);
    let later = now + UPGRADE_INTERVAL;
    assert_eq!(mesh.poll_timeout(), Some(later));
    assert_eq!(dialed(&mut mesh, later), [0]);
    assert!(mesh.answered(now, dial(0)));
    mesh.up(later, PEER);
    assert_eq!(mesh.poll_timeout(), None, "there is no better address");
}

#[test]
fn a_standby_path_is_dialed_at_another_address_and_kept() {
    let (mut mesh, now) = (Mesh::new(true), Instant::now());
    mesh.add(now, PEER, 2, 0);
    assert_eq!(dialed(&mut mesh, now), [0]);
    assert!(mesh.answered(now, dial(0)));
    mesh.up(now, PEER);
    assert_eq!(dialed(&mut mesh, now), [1]);
    assert!(mesh.answered(now, dial(1)));
    mesh.up(now, PEER);
    mesh.standby_changed(now, PEER, true);
    assert_eq!(mesh.poll_timeout(), None, "both paths are attached");
    // Whichever path is lost is dialed again at once, and then at intervals.
    mesh.standby_changed(now, PEER, false);
    assert_eq!(dialed(&mut mesh, now), [0]);
    mesh.dial_failed(now, dial(0), 0.5);
    assert_eq!(mesh.poll_timeout(), Some(now + UPGRADE_INTERVAL));
    assert_eq!(dialed(&mut mesh, now + UPGRADE_INTERVAL), [0]);
}

#[test]
fn a_worse_address_that_answers_late_is_not_used() {
    let (mut mesh, now) = mesh(2);
    dialed(&mut mesh, now);
    dialed(&mut mesh, now + STAGGER);
    assert!(mesh.answered(now, dial(0)));
    assert!(!mesh.answered(now, dial(1)));
}

/// A mesh whose peer was up at its first address, and is down.
fn lost(address_count: usize) -> (Mesh, Instant) {
    let (mut mesh, now) = mesh(address_count);
    dialed(&mut mesh, now);
    assert!(mesh.answered(now, dial(0)));
    mesh.up(now, PEER);
    mesh.down(now, PEER);
    (mesh, now)
}

#[test]
fn a_lost_peer_is_dialed_again_at_once() {
    let (mut mesh, now) = lost(1);
    assert_eq!(dialed(&mut mesh, now), [0]);
}

#[test]
fn while_a_lost_peer_is_redialed_its_other_addresses_follow_after_the_stagger() {
    let (mut mesh, now) = lost(2);
    mesh.redialing(now, dial(0));
    assert_eq!(dialed(&mut mesh, now), [0; 0]);
    assert_eq!(mesh.poll_timeout(), Some(now + STAGGER));
    assert_eq!(dialed(&mut mesh, now + STAGGER), [1]);
    mesh.dial_failed(now + STAGGER, dial(0), 0.0);
    assert!(mesh.answered(now, dial(1)));
}

#[test]
fn a_redial_that_could_not_begin_is_left_to_the_mesh() {
    let (mut mesh, now) = lost(1);
    mesh.redialing(now, dial(0));
    mesh.dial_failed(now, dial(0), 0.0);
    assert_eq!(dialed(&mut mesh, now), [0]);
}

#[test]
fn an_address_that_answered_without_an_introduction_is_dialed_again() {
    let (mut mesh, now) = mesh(1);
    assert_eq!(dialed(&mut mesh, now), [0]);
    assert!(mesh.answered(now, dial(0)));
    let later = mesh.poll_timeout().unwrap();
    assert_eq!(dialed(&mut mesh, later - STAGGER), [0; 0]);
    assert_eq!(dialed(&mut mesh, later), [0]);
}

#[test]
fn a_peer_that_answers_and_then_refuses_is_dialed_after_growing_pauses() {
    let (mut mesh, mut now) = mesh(1);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        assert_eq!(dialed(&mut mesh, now), [0]);
        assert!(mesh.answered(now, dial(0)));
        mesh.refused(now, PEER, 1.0);
        let until = mesh.poll_timeout().unwrap();
        pauses.push((until - now).as_millis());
        now = until;
    }
    assert_eq!(pauses, [100, 200, 400, 800]);
}

#[test]
fn the_address_that_is_known_to_answer_is_dialed_first_and_the_best_one_later() {
    let (mut mesh, now) = (Mesh::default(), Instant::now());
    mesh.add(now, PEER, 3, 1);
    assert_eq!(dialed(&mut mesh, now), [1]);
    mesh.dial_failed(now, dial(1), 1.0);
    assert_eq!(dialed(&mut mesh, now), [2]);
    mesh.dial_failed(now, dial(2), 1.0);
    let later = mesh.poll_timeout().expect("another round");
    assert_eq!(dialed(&mut mesh, later), [0]);
}

#[test]
fn better_addresses_are_tried_in_turn_also_if_the_best_never_answers() {
    let (mut mesh, mut now) = (Mesh::default(), Instant::now());
    mesh.add(now, PEER, 3, 2);
    dialed(&mut mesh, now);
    assert!(mesh.answered(now, dial(2)));
    mesh.up(now, PEER);
    let mut tried = Vec::new();
    for _ in 0..4 {
        now = mesh.poll_timeout().expect("an upgrade is tried");
        for address in dialed(&mut mesh, now) {
            tried.push(address);
            mesh.dial_failed(now, dial(address), 0.5);
        }
    }
    assert_eq!(tried, [0, 1, 0, 1]);
}

#[test]
fn an_address_of_another_node_is_tried_only_while_the_peer_is_down() {
    let (mut mesh, now) = mesh(2);
    dialed(&mut mesh, now);
    mesh.answered_by_other(dial(0));
    mesh.dial_failed(now, dial(0), 0.0);
    assert_eq!(dialed(&mut mesh, now), [1]);
    assert!(mesh.answered(now, dial(1)));
    mesh.up(now, PEER);
    let later = now + UPGRADE_INTERVAL;
    assert_eq!(dialed(&mut mesh, later), [0; 0]);
    mesh.down(later, PEER);
    assert_eq!(dialed(&mut mesh, later), [0]);
}

#[test]
fn a_peer_that_closes_again_and_again_is_dialed_elsewhere_after_growing_pauses() {
    let (mut mesh, mut now) = mesh(3);
    let (mut first, mut pauses) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let address = dialed(&mut mesh, now)[0];
        first.push(address);
        assert!(mesh.answered(now, dial(address)));
        mesh.up(now, PEER);
        mesh.closed(now, PEER, 1.0);
        let until = mesh.poll_timeout().expect("it is dialed again");
        pauses.push((until - now).as_millis());
        now = until;
    }
    assert_eq!(first, [0, 1, 2, 0]);
    assert_eq!(pauses, [100, 200, 400, 800]);
    // After a connection that lasted, the pauses begin anew, at the best address.
    let address = dialed(&mut mesh, now)[0];
    assert!(mesh.answered(now, dial(address)));
    mesh.up(now, PEER);
    now += Duration::from_secs(60);
    mesh.closed(now, PEER, 1.0);
    assert_eq!(mesh.poll_timeout(), Some(now + Duration::from_millis(100)));
    let later = now + Duration::from_millis(100);
    assert_eq!(dialed(&mut mesh, later), [0]);
}
