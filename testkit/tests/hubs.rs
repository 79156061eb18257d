//! Whole hubs in virtual time: the hub's own code, drivers, endpoints and transports, without a thread
//! and without a socket. A seed determines the run.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use selvedge_driver::{Instant, Simulation};
use selvedge_hub::{Hub, HubEvent, Identity, LaneId};
use selvedge_testkit::MemNet;

const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// Each node has two addresses: its name, and its name with this suffix.
const WAYS: [&str; 2] = ["", "-too"];

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The time until all are connected after the last fault: the longest back-off of 10 s, and a dial that was lost
/// just before.
const HEALED_MAX: Duration = Duration::from_secs(16);

struct HubGroup {
    seed: u64,
    rng: Rng,
    simulation: Simulation,
    net: MemNet,
    keys: Vec<Identity>,
    hubs: Vec<Hub>,
    /// The messages sent and received between each pair.
    sent: [[u32; 4]; 4],
    got: [[u32; 4]; 4],
    /// The recorded run, with times.
    story: Vec<String>,
    begin: Instant,
}

impl HubGroup {
    fn new(seed: u64) -> Self {
        let simulation = Simulation::new(seed).expect("it begins");
        let mut rng = Rng::with_seed(seed);
        let net = MemNet::new(ms(rng.u64(1..30)));
        let keys: Vec<_> = (1..=4)
            .map(|byte| Identity::from_seed(&[byte; 32]).expect("a key"))
            .collect();
        let mut group = Self {
            seed,
            rng,
            begin: simulation.now(),
            simulation,
            net,
            keys,
            hubs: Vec::new(),
            sent: Default::default(),
            got: Default::default(),
            story: Vec::new(),
        };
        group.hubs = (0..NAMES.len()).map(|own| group.hub(own)).collect();
        group
    }

    fn hub(&self, own: usize) -> Hub {
        let (name, node) = (NAMES[own], self.keys[own].node_id());
        let mut builder = Hub::builder(self.keys[own].clone())
            .driver(self.simulation.driver())
            .dialer(self.net.dialer(name, node));
        for way in WAYS {
            let (net, name) = (self.net.clone(), format!("{name}{way}"));
            builder =
                builder.listener(move |admission| net.listener(&name, node, admission.clone()));
        }
        for peer in (0..NAMES.len()).filter(|&peer| peer != own) {
            let ways = WAYS.map(|way| format!("mem:///{}{way}", NAMES[peer]));
            let node = self.keys[peer].node_id();
            builder = builder.peer(node, &[&ways[0], &ways[1]]).expect("a peer");
        }
        builder.start().expect("it begins")
    }

    fn run(&mut self, time: Duration) {
        self.simulation.run(time, || false);
        self.look();
    }

    /// Every node reads its messages, and its events are recorded.
    fn look(&mut self) {
        let at = (self.simulation.now() - self.begin).as_millis();
        for (own, hub) in self.hubs.iter().enumerate() {
            for event in hub.events().try_iter() {
                let (what, peer) = match &event {
                    HubEvent::Up { peer } => ("up", peer),
                    HubEvent::Down { peer, .. } => ("down", peer),
                    HubEvent::Moved { peer } => ("moved", peer),
                    HubEvent::Refused { peer, .. } => ("refused", peer),
                    other => panic!("seed {}: {other:?}", self.seed),
                };
                let peer = self.keys.iter().position(|it| it.node_id() == *peer);
                let peer = NAMES[peer.expect("it is one of them")];
                self.story
                    .push(format!("{at} {}: {peer} {what}", NAMES[own]));
            }
            for from in (0..NAMES.len()).filter(|&from| from != own) {
                let endpoint = hub.endpoint(self.keys[from].node_id()).expect("a peer");
                while let Ok(message) = endpoint.try_recv() {
                    let number = message.payload.first_chunk().expect("a number");
                    let expected = &mut self.got[from][own];
                    assert_eq!(
                        u32::from_be_bytes(*number),
                        *expected,
                        "seed {}: from {} to {}",
                        self.seed,
                        NAMES[from],
                        NAMES[own]
                    );
                    *expected += 1;
                }
            }
        }
    }

    /// A random pair.
    fn two(&mut self) -> (usize, usize) {
        let one = self.rng.usize(..NAMES.len());
        let other = (one + self.rng.usize(1..NAMES.len())) % NAMES.len();
        (one, other)
    }

    fn act(&mut self) {
        let (one, other) = self.two();
        let way = WAYS[self.rng.usize(..WAYS.len())];
        let (one_at, other_at) = (
            format!("{}{way}", NAMES[one]),
            format!("{}{way}", NAMES[other]),
        );
        match self.rng.u8(0..9) {
            0 => self.net.kill(NAMES[one], &other_at),
            1 => self.net.cut(NAMES[one], &other_at, true),
            2 => self.net.cut(&other_at, NAMES[one], true),
            3 => {
                self.net.cut(NAMES[one], &other_at, true);
                self.net.cut(&one_at, NAMES[other], true);
            }
            4 => {
                // Isolated from all others.
                let others = (0..NAMES.len()).filter(|&peer| peer != one);
                others.for_each(|peer| self.cut_all(one, peer, true));
            }
            5 => self.heal(),
            _ => {
                let endpoint = self.hubs[one].endpoint(self.keys[other].node_id());
                let number = &mut self.sent[one][other];
                let payload = number.to_be_bytes().to_vec().into();
                let sent = endpoint.expect("a peer").try_send(LaneId::FIRST, payload);
                sent.expect("room");
                *number += 1;
            }
        }
    }

    fn cut_all(&self, one: usize, other: usize, is_cut: bool) {
        for way in WAYS {
            for (dialer, listener) in [(one, other), (other, one)] {
                let (dialer, listener) = (NAMES[dialer], format!("{}{way}", NAMES[listener]));
                self.net.cut(dialer, &listener, is_cut);
                self.net.cut(&listener, dialer, is_cut);
            }
        }
    }

    fn heal(&self) {
        for one in 0..NAMES.len() {
            (0..one).for_each(|other| self.cut_all(one, other, false));
        }
    }

    fn is_whole(&self) -> bool {
        let up = |hub: &Hub, own: usize| {
            let peers = (0..NAMES.len()).filter(|&peer| peer != own);
            let mut endpoints = peers.filter_map(|peer| hub.endpoint(self.keys[peer].node_id()));
            endpoints.all(|endpoint| endpoint.transport().is_some())
        };
        let mut hubs = self.hubs.iter().enumerate();
        hubs.all(|(own, hub)| up(hub, own)) && self.sent == self.got
    }
}

/// Runs a seed to its end. Returns the recorded run.
fn story(seed: u64) -> Vec<String> {
    let mut group = HubGroup::new(seed);
    for _ in 0..80 {
        group.act();
        let time = ms(group.rng.u64(0..400));
        group.run(time);
    }
    group.heal();
    let healed = group.simulation.now();
    while !group.is_whole() {
        group.run(ms(50));
        let after = group.simulation.now() - healed;
        assert!(
            after < HEALED_MAX,
            "seed {seed}: still apart\n{:#?}",
            group.story
        );
    }
    group.story
}

#[test]
fn m3_hubs_that_are_parted_in_any_way_find_together_again_and_lose_nothing() {
    let (begin, mut events) = (Instant::now(), 0);
    for seed in 0..100 {
        events += story(seed).len();
    }
    println!("{events} events of hubs in {:?}", begin.elapsed());
    assert!(events > 1000, "{events}");
}

#[test]
fn a_seed_replays_the_same_run() {
    let stories: BTreeSet<_> = (0..3).map(|_| story(7)).collect();
    assert_eq!(stories.len(), 1);
    assert_ne!(story(7), story(8));
}
