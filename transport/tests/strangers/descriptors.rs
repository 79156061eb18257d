//! No descriptor is left (N16).

use std::fs::File;
use std::time::Duration;

use crate::alone::alone;
use crate::scene::Scene;

/// Takes all descriptors that are left.
fn take_all() -> Vec<File> {
    let taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!taken.is_empty(), "there were none to take");
    taken
}

/// An honest peer knocks while no descriptor is left; it is let in once there are some.
fn starve(scheme: &str) {
    let mut scene = Scene::new(scheme);
    scene.turn();
    let honest = scene.dial();
    let taken = take_all();
    let (begin, asked) = (scene.now(), scene.asked);
    // Of so many turns each might ask. It is asked for an event, or at the end of a pause.
    for _ in 0..200 {
        scene.turn();
    }
    let asked = (scene.asked - asked) as u128;
    let pauses = (scene.now() - begin).as_millis() / 100;
    assert!(asked <= pauses + 20, "{asked} times in {pauses} pauses");
    assert_eq!(scene.accepted().count(), 0);
    assert!(scene.sides[honest].end.is_none(), "{:?}", scene.sides);
    drop(taken);
    scene.until("the honest one is open", |scene| {
        // A datagram that was not taken is sent again.
        scene.advance(Duration::from_millis(20));
        scene.sides[honest].is_open && scene.accepted().any(|side| side.is_open)
    });
}

#[test]
fn n16_tcp_without_descriptors_pauses_and_recovers() {
    let name = "descriptors::n16_tcp_without_descriptors_pauses_and_recovers";
    alone(name, 64, || starve("tcp"));
}

#[test]
fn n16_quic_without_descriptors_waits_and_recovers() {
    let name = "descriptors::n16_quic_without_descriptors_waits_and_recovers";
    alone(name, 64, || starve("quic"));
}

#[test]
fn n16_udp_without_descriptors_waits_and_recovers() {
    let name = "descriptors::n16_udp_without_descriptors_waits_and_recovers";
    alone(name, 64, || starve("udp"));
}

#[test]
fn n16_a_pause_is_not_cut_short_by_who_knocks() {
    let name = "descriptors::n16_a_pause_is_not_cut_short_by_who_knocks";
    alone(name, 64, || {
        let mut scene = Scene::new("tcp");
        let address = scene.address();
        scene.turn();
        let first = scene.dial();
        let later: Vec<_> = (0..5).map(|_| scene.dial()).collect();
        let taken = take_all();
        scene.until("it pauses", |scene| scene.listener.timeout().is_some());
        let pause = scene.listener.timeout();
        drop(taken);
        let stream = std::net::TcpStream::connect(address).unwrap();
        scene.until_quiet();
        // Unless the pause, of 100 ms, was over in the meantime, nobody is let in before its end.
        if pause.is_some_and(|at| scene.now() < at) {
            assert_eq!(scene.accepted().count(), 0);
        }
        scene.advance(Duration::from_millis(100));
        scene.until("all are in", |scene| scene.accepted().count() == 7);
        scene.until("the dialers are open", |scene| {
            scene.sides[first].is_open && later.iter().all(|&side| scene.sides[side].is_open)
        });
        drop(stream);
    });
}
