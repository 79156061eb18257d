//! Paths that end repeatedly for the dialing side, while the other side does not notice.

use std::time::Duration;

use selvedge_endpoint::{DetachReason, LaneConfig, SessionConfig};
use selvedge_testkit::{Conditions, Kind, Oracle, PathId, World};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const LATENCY: Duration = ms(20);

/// From a dial to the first message: Hello, Hello, Ready, and the message or the data lost with the previous
/// path.
const RESUMES_IN: Duration = ms(4 * 20);

/// More than the attachments that a side holds.
const CUTS: usize = 8;

fn conditions(cut: bool) -> Conditions {
    Conditions {
        latency: LATENCY,
        cut,
        ..Conditions::default()
    }
}

struct Scene {
    world: World,
    /// By sender.
    oracles: [Oracle; 2],
    /// The last arrival, by receiver.
    last: [Duration; 2],
    /// The longest time without an arrival.
    longest: [Duration; 2],
}

impl Scene {
    fn new() -> Self {
        Self::with(&SessionConfig::default())
    }

    fn with(config: &SessionConfig) -> Self {
        Self {
            world: World::new(config, 1),
            oracles: [Oracle::new(1), Oracle::new(1)],
            last: [Duration::ZERO; 2],
            longest: [Duration::ZERO; 2],
        }
    }

    /// Sends messages in both directions for so long.
    fn talk(&mut self, time: Duration) {
        let end = self.world.elapsed() + time;
        while self.world.elapsed() < end {
            let before = [0, 1].map(|at| self.world.sides[at].received.len());
            for from in 0..2 {
                let sent = self.oracles[from].send(&mut self.world.sides[from], 0, 100);
                sent.expect("a lane");
            }
            self.world.pass(ms(4));
            let now = self.world.elapsed();
            for (at, before) in before.into_iter().enumerate() {
                self.longest[at] = self.longest[at].max(now - self.last[at]);
                if self.world.sides[at].received.len() > before {
                    self.last[at] = now;
                }
            }
        }
    }

    fn connect(&mut self, kind: Kind) -> PathId {
        self.world.connect(0, kind, conditions(false))
    }

    /// Cuts the path; only the dialing side notices.
    fn cut_silently(&mut self, id: PathId) {
        let path = self.world.path(id).expect("it is there");
        path.set(conditions(true));
        self.world.sides[0].session.detach(id, DetachReason::Local);
    }

    /// Cuts a path at each interval and opens a new one. Returns the last.
    fn cut_again_and_again(&mut self, kind: Kind, every: Duration) -> PathId {
        let mut path = self.connect(kind);
        self.talk(ms(200));
        for _ in 0..CUTS {
            self.cut_silently(path);
            path = self.connect(kind);
            self.talk(every);
        }
        path
    }
}

const KINDS: [Kind; 3] = [Kind::Streams, Kind::Stream, Kind::Datagrams];

#[test]
fn a_side_that_does_not_notice_the_cuts_follows_each_new_path_at_once() {
    for kind in KINDS {
        for every in [100, 1000] {
            let mut scene = Scene::new();
            scene.cut_again_and_again(kind, ms(every));
            // The other side drops the dead paths within this time.
            scene.talk(ms(4000));
            for at in 0..2 {
                let looked = scene.oracles[1 - at].look(&scene.world.sides[at]);
                looked.expect("exactly once");
            }
            let longest = scene.longest;
            assert!(
                longest.iter().all(|it| *it <= RESUMES_IN + ms(8)),
                "{kind:?}, a cut each {every} ms: {longest:?} without a message"
            );
        }
    }
}

/// Two paths exist at a time.
fn redundant() -> SessionConfig {
    let lane = LaneConfig {
        redundant: true,
        ..LaneConfig::default()
    };
    SessionConfig {
        lanes: vec![lane],
        ..SessionConfig::default()
    }
}

#[test]
fn a_living_spare_outlives_two_silent_cuts() {
    for kind in KINDS {
        // At once, and within the time in which the other side may detect which path lives.
        for every in [100, 400, 1500] {
            let mut scene = Scene::with(&redundant());
            let spare = scene.connect(kind);
            let path = scene.cut_again_and_again(kind, ms(every));
            scene.cut_silently(path);
            let sent = scene.oracles[0].send(&mut scene.world.sides[0], 0, 100);
            sent.expect("a lane");
            let before = scene.world.sides[1].received.len();
            scene.world.pass(2 * LATENCY);
            assert_eq!(scene.world.sides[0].session.current(), Some(spare));
            assert!(
                scene.world.sides[1].received.len() > before,
                "{kind:?}, a cut each {every} ms: nothing comes over the first path"
            );
            // The other side drops the dead paths within this time, and both continue over the remaining one.
            scene.talk(ms(4000));
            for at in 0..2 {
                assert_eq!(scene.world.sides[at].session.current(), Some(spare));
                let looked = scene.oracles[1 - at].look(&scene.world.sides[at]);
                looked.expect("exactly once");
            }
        }
    }
}

#[test]
fn of_three_paths_that_live_both_sides_come_to_keep_the_same_two() {
    for kind in KINDS {
        for dialers in [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]] {
            let mut scene = Scene::with(&redundant());
            let paths = dialers.map(|dialer| {
                let path = scene.world.connect(dialer, kind, conditions(false));
                scene.talk(ms(200));
                path
            });
            scene.talk(ms(3000));
            let left: Vec<_> = scene.world.paths.iter().map(|path| path.id()).collect();
            assert_eq!(left, paths[1..], "{kind:?}, dialed by {dialers:?}");
        }
    }
}
