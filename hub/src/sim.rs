//! Five hubs in virtual time: who dials whom, over what, when ways are cut, one-sided and both, and
//! heal. Each pair has a "QUIC" and a "TCP" between them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;
use selvedge_driver::NodeId;
use selvedge_driver::session::Config;
use selvedge_testkit::{Conditions, Kind, Oracle, World};

use crate::mesh::{Dial, Mesh};

const NODES: usize = 5;
const WAYS: [Kind; 2] = [Kind::Streams, Kind::Stream];
const TICK: Duration = Duration::from_millis(10);

/// How long a dial into nowhere takes: a handshake's limit.
const DIAL_MAX: Duration = Duration::from_secs(5);

/// When all are together again after the last fault: the longest pause of 10 s, and a dial that was
/// lost just before.
const HEALED_MAX: Duration = Duration::from_secs(15);

fn node(number: usize) -> NodeId {
    NodeId::new([number as u8; 32])
}

/// Two hubs and what lies between them.
struct Pair {
    nodes: [usize; 2],
    world: World,
    oracles: [Oracle; 2],
    /// The weather of each way, from either side.
    weather: [[Conditions; 2]; 2],
    /// Dials under way: when they end, whose, over which way.
    dials: Vec<(Duration, usize, usize)>,
    /// How many events of each side have been told.
    told: [usize; 2],
}

impl Pair {
    fn is_cut(&self, way: usize) -> bool {
        self.weather[way].iter().any(|link| link.cut)
    }

    fn set(&mut self, way: usize, cut: [bool; 2]) {
        for (link, cut) in self.weather[way].iter_mut().zip(cut) {
            link.cut = cut;
        }
        let weather = self.weather[way];
        for path in self
            .world
            .paths
            .iter_mut()
            .filter(|it| it.kind() == WAYS[way])
        {
            for (link, conditions) in path.links.iter_mut().zip(weather) {
                link.set(conditions);
            }
        }
    }

    /// Ends the dials that are due.
    fn end_dials(&mut self, now: Instant, meshes: &mut [Mesh], rng: &mut Rng) {
        let elapsed = self.world.elapsed();
        let (due, rest) = std::mem::take(&mut self.dials)
            .into_iter()
            .partition(|(at, _, _)| *at <= elapsed);
        self.dials = rest;
        let due: Vec<_> = due;
        for (_, side, way) in due {
            let mesh = &mut meshes[self.nodes[side]];
            let peer = node(self.nodes[1 - side]);
            let dial = Dial { peer, way };
            if self.is_cut(way) {
                mesh.failed(now, dial, rng.f64());
            } else if mesh.answered(dial) {
                let id = self.world.connect(side, WAYS[way], self.weather[way][0]);
                assert!(self.world.path(id).is_some());
            }
        }
    }

    /// Tells the meshes what the sessions told.
    fn tell(&mut self, now: Instant, meshes: &mut [Mesh], rng: &mut Rng) {
        use selvedge_driver::Event::{AttachFailed, Attached, Detached, Moved};
        for side in 0..2 {
            let mesh = &mut meshes[self.nodes[side]];
            let peer = node(self.nodes[1 - side]);
            let events = &self.world.sides[side].events;
            for event in &events[self.told[side]..] {
                match event {
                    Attached { .. } | Moved { .. } => mesh.up(now, peer),
                    Detached { .. } => mesh.down(now, peer),
                    AttachFailed { .. } => mesh.refused(now, peer, rng.f64()),
                    _ => {}
                }
            }
            self.told[side] = events.len();
        }
    }

    fn look(&mut self, seed: u64) {
        for (from, oracle) in self.oracles.iter_mut().enumerate() {
            let looked = oracle.look(&self.world.sides[1 - from]);
            looked.unwrap_or_else(|wrong| panic!("seed {seed}: {:?}: {wrong}", self.nodes));
        }
    }

    fn is_whole(&self) -> bool {
        let is_up = |it: &selvedge_testkit::Side| it.session.current().is_some();
        self.world.sides.iter().all(is_up) && self.oracles.iter().all(Oracle::is_complete)
    }
}

struct Sim {
    seed: u64,
    rng: Rng,
    begin: Instant,
    elapsed: Duration,
    meshes: Vec<Mesh>,
    pairs: BTreeMap<(usize, usize), Pair>,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let (begin, mut rng) = (Instant::now(), Rng::with_seed(seed));
        let mut meshes: Vec<_> = (0..NODES).map(|_| Mesh::default()).collect();
        let mut pairs = BTreeMap::new();
        for a in 0..NODES {
            for b in a + 1..NODES {
                // One of them knows the other's addresses, or both do.
                let knows = [[true, true], [true, false], [false, true]][rng.usize(..3)];
                for (own, peer, knows) in [(a, b, knows[0]), (b, a, knows[1])] {
                    meshes[own].add(begin, node(peer), if knows { WAYS.len() } else { 0 });
                }
                let link = Conditions {
                    latency: Duration::from_millis(rng.u64(1..40)),
                    ..Conditions::default()
                };
                pairs.insert(
                    (a, b),
                    Pair {
                        nodes: [a, b],
                        world: World::new(&Config::default(), rng.u64(..)),
                        oracles: [Oracle::new(1), Oracle::new(1)],
                        weather: [[link; 2]; 2],
                        dials: Vec::new(),
                        told: [0; 2],
                    },
                );
            }
        }
        Self {
            seed,
            rng,
            begin,
            elapsed: Duration::ZERO,
            meshes,
            pairs,
        }
    }

    fn tick(&mut self) {
        self.elapsed += TICK;
        let now = self.begin + self.elapsed;
        for own in 0..NODES {
            while let Some(dial) = self.meshes[own].poll_dial(now) {
                let peer = (0..NODES)
                    .find(|&it| node(it) == dial.peer)
                    .expect("a node");
                let key = (own.min(peer), own.max(peer));
                let pair = self.pairs.get_mut(&key).expect("a pair");
                let side = usize::from(own > peer);
                let takes = if pair.is_cut(dial.way) {
                    DIAL_MAX
                } else {
                    pair.weather[dial.way][0].latency * 4
                };
                pair.dials
                    .push((pair.world.elapsed() + takes, side, dial.way));
            }
        }
        for pair in self.pairs.values_mut() {
            pair.end_dials(now, &mut self.meshes, &mut self.rng);
            pair.world.pass(TICK);
            pair.tell(now, &mut self.meshes, &mut self.rng);
            pair.look(self.seed);
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.elapsed + time;
        while self.elapsed < end {
            self.tick();
        }
    }

    /// A way of some pair is cut or heals; some pair talks.
    fn act(&mut self) {
        let at = self.rng.usize(..self.pairs.len());
        let pair = self.pairs.values_mut().nth(at).expect("a pair");
        match self.rng.u8(0..4) {
            0 => {
                let cut = [self.rng.bool(), self.rng.bool()];
                pair.set(self.rng.usize(..WAYS.len()), cut);
            }
            1 => pair.set(self.rng.usize(..WAYS.len()), [false; 2]),
            _ => {
                let side = self.rng.usize(..2);
                let sent = pair.oracles[side].send(&mut pair.world.sides[side], 0, 100);
                sent.expect("it is open");
            }
        }
    }
}

#[test]
fn five_hubs_find_together_again_after_any_partition_and_lose_nothing() {
    for seed in 0..60 {
        let mut sim = Sim::new(seed);
        for _ in 0..150 {
            sim.act();
            let time = Duration::from_millis(sim.rng.u64(0..200));
            sim.pass(time);
        }
        for pair in sim.pairs.values_mut() {
            (0..WAYS.len()).for_each(|way| pair.set(way, [false; 2]));
        }
        let healed = sim.elapsed;
        while !sim.pairs.values().all(Pair::is_whole) {
            sim.tick();
            let apart = || {
                let apart = sim.pairs.values().filter(|pair| !pair.is_whole());
                apart.map(|pair| pair.nodes).collect::<Vec<_>>()
            };
            let after = sim.elapsed - healed;
            assert!(after < HEALED_MAX, "seed {seed}: {:?} are apart", apart());
        }
    }
}
