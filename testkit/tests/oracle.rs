//! Exactly once and in order, over any mix of paths and faults, each drawn from a seed.
//!
//! `SEEDS=5000..6000 cargo test -p selvedge-testkit --release --test oracle` runs other seeds.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use selvedge_endpoint::{Delivery, LaneConfig, LaneId, SessionConfig};
use selvedge_testkit::{Burst, Conditions, Kind, Oracle, Path, PathId, World};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The lanes of a seed: any priority, some redundant.
fn config(rng: &mut Rng) -> SessionConfig {
    let lanes = rng.u8(1..=4);
    let lane = |_| LaneConfig {
        priority: rng.u8(0..3),
        delivery: Delivery::Reliable,
        redundant: rng.u8(0..4) == 0,
    };
    SessionConfig {
        lanes: (0..lanes).map(lane).collect(),
        message_max: 64 << 10,
        send_buffer: 1 << rng.u32(14..20),
        receive_window: 1 << rng.u32(12..18),
        ..SessionConfig::default()
    }
}

/// Any conditions, up to those that hardly any packet survives.
fn conditions(rng: &mut Rng) -> Conditions {
    let rare = |rng: &mut Rng, max: f64| {
        if rng.u8(0..3) == 0 {
            rng.f64() * max
        } else {
            0.0
        }
    };
    Conditions {
        latency: ms(rng.u64(0..60)),
        jitter: ms(if rng.bool() { rng.u64(0..30) } else { 0 }),
        loss: rare(rng, 0.3),
        burst: (rng.u8(0..4) == 0).then(|| Burst {
            begins: 0.02,
            length: 3.0 + rng.f64() * 37.0,
        }),
        reorder: rare(rng, 0.2),
        duplicate: rare(rng, 0.2),
        corrupt: rare(rng, 0.3),
        rate: rng.bool().then(|| 1 << rng.u32(17..24)),
        queue: 1 << rng.u32(14..19),
        mtu: if rng.u8(0..8) == 0 { 600 } else { usize::MAX },
        cut: false,
    }
}

fn kind(rng: &mut Rng) -> Kind {
    match rng.u8(0..4) {
        0 => Kind::Stream,
        1 => Kind::Streams,
        _ => Kind::Datagrams,
    }
}

struct Trial {
    seed: u64,
    rng: Rng,
    lanes: u8,
    world: World,
    /// The messages of side 0 and of side 1.
    oracles: [Oracle; 2],
}

impl Trial {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let config = config(&mut rng);
        let lanes = config.lanes.len();
        Self {
            seed,
            lanes: lanes as u8,
            world: World::new(&config, rng.u64(..)),
            oracles: [Oracle::new(lanes), Oracle::new(lanes)],
            rng,
        }
    }

    fn look(&mut self) {
        let seed = self.seed;
        for (from, oracle) in self.oracles.iter_mut().enumerate() {
            let checked = oracle.check_events(&self.world.sides[from]);
            let looked = oracle.look(&self.world.sides[1 - from]);
            if let Err(wrong) = checked.and(looked) {
                panic!("seed {seed}: from side {from}: {wrong}");
            }
        }
    }

    fn any_path(&mut self) -> Option<PathId> {
        let count = self.world.paths.len();
        (count > 0).then(|| self.world.paths[self.rng.usize(..count)].id())
    }

    /// One random action.
    fn act(&mut self, with_restarts: bool) {
        match self.rng.u8(0..40) {
            0..3 if self.world.paths.len() < 3 => {
                let (dialer, kind) = (self.rng.usize(0..2), kind(&mut self.rng));
                let conditions = conditions(&mut self.rng);
                self.world.connect(dialer, kind, conditions);
            }
            3 => {
                if let Some(path) = self.any_path() {
                    self.world.cut(path);
                }
            }
            4 => {
                // A partition of one direction or both, or its end, or other conditions.
                let changed = conditions(&mut self.rng);
                let cut = [self.rng.bool(), self.rng.bool()];
                let is_cut = self.rng.bool();
                let id = self.any_path();
                if let Some(path) = id.and_then(|id| self.world.path(id)) {
                    for (link, cut) in path.links.iter_mut().zip(cut) {
                        let cut = cut && is_cut;
                        link.set(Conditions { cut, ..changed });
                    }
                }
            }
            5 => {
                let side = self.rng.usize(0..2);
                let lane = LaneId::new(self.rng.u8(0..self.lanes)).expect("few lanes");
                let stalled = &mut self.world.sides[side].stalled;
                match stalled.iter().position(|known| *known == lane) {
                    Some(at) => drop(stalled.remove(at)),
                    None => stalled.push(lane),
                }
            }
            6 => {
                let by = ms(self.rng.u64(0..3000));
                self.world.leap(by);
            }
            7 if with_restarts => self.restart(),
            8..20 => {
                let time = ms(self.rng.u64(0..100));
                self.world.pass(time);
            }
            _ => {
                let (side, lane) = (self.rng.usize(0..2), self.rng.u8(0..self.lanes));
                for _ in 0..self.rng.u8(1..20) {
                    let len = 1 << self.rng.u32(3..15);
                    let len = self.rng.usize(1..len);
                    let sent = self.oracles[side].send(&mut self.world.sides[side], lane, len);
                    if !sent.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed)) {
                        break;
                    }
                }
            }
        }
    }

    fn restart(&mut self) {
        self.world.pass(Duration::ZERO);
        self.look();
        let side = self.rng.usize(0..2);
        let dead = self.world.restart(side);
        let [own, other] = &mut self.oracles;
        let (sent, received) = if side == 0 {
            (own, other)
        } else {
            (other, own)
        };
        received.look(&dead).expect("looked at already");
        received.receiver_restarted();
        sent.sender_restarted();
    }

    /// The faults stop: everything must arrive, and all memory must be released.
    fn settle(&mut self) {
        let seed = self.seed;
        for side in &mut self.world.sides {
            side.stalled.clear();
        }
        let good = Conditions {
            latency: ms(10),
            ..Conditions::default()
        };
        // Either the existing paths recover, or none is left and a new one is opened.
        let ids: Vec<_> = self.world.paths.iter().map(Path::id).collect();
        let heals = self.rng.bool();
        for id in ids {
            match self.world.path(id).filter(|_| heals) {
                Some(path) => path.set(good),
                None => self.world.cut(id),
            }
        }
        // Silent paths are ended within that time.
        self.world.pass(ms(if heals { 4000 } else { 0 }));
        if self
            .world
            .sides
            .iter()
            .any(|side| side.session.current().is_none())
        {
            let last = kind(&mut self.rng);
            self.world.connect(self.rng.usize(0..2), last, good);
        }
        let settled = self.world.run(Duration::from_secs(60), |world| {
            world
                .sides
                .iter()
                .all(|side| side.outbox.used() == 0 && side.session.unacknowledged() == 0)
        });
        self.look();
        for (from, oracle) in self.oracles.iter().enumerate() {
            let missing: Vec<_> = oracle.missing().take(5).collect();
            assert!(
                missing.is_empty(),
                "seed {seed}: from side {from}: (lane, number) {missing:?} of {} never came",
                oracle.sent()
            );
        }
        for side in &self.world.sides {
            assert_eq!(side.session.untaken(), 0, "seed {seed}: credit is kept");
        }
        assert!(
            settled,
            "seed {seed}: memory is kept 60 s after the last fault"
        );
    }
}

fn run(seed: u64, with_restarts: bool) -> u64 {
    let mut trial = Trial::new(seed);
    for _ in 0..150 {
        trial.act(with_restarts);
        trial.look();
    }
    trial.settle();
    trial.oracles.iter().map(Oracle::sent).sum()
}

fn seeds(default: Range<u64>) -> Range<u64> {
    let Ok(asked) = std::env::var("SEEDS") else {
        return default;
    };
    let bounds = asked.split_once("..").expect("SEEDS is FROM..TO");
    let number = |text: &str| text.parse().expect("SEEDS is FROM..TO");
    number(bounds.0)..number(bounds.1)
}

#[test]
fn n11_every_message_arrives_once_whatever_happens_to_paths() {
    let sent: u64 = seeds(0..1000).map(|seed| run(seed, false)).sum();
    println!("{sent} messages");
    assert!(sent > 0);
}

#[test]
fn every_message_arrives_once_or_is_reported_when_processes_restart() {
    let sent: u64 = seeds(0..1000).map(|seed| run(seed, true)).sum();
    println!("{sent} messages");
    assert!(sent > 0);
}
