//! A whole fabric in virtual time: zippers, sources, functions and sinks, each a process of its own.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use selvedge_client::settlement::FlowLimits;
use selvedge_client::wire::settlement::SettlementLevel;
use selvedge_client::{
    AcknowledgeMode, Client, ClientOptions, InstanceLossPolicy, SlowConsumerPolicy, Tag,
};
use selvedge_driver::Simulation;
use selvedge_hub::{Address, Driver, Identity, Instant};
use selvedge_testkit::{MemLink, MemNet};
use selvedge_zipper::ZipperStats;
use selvedge_zipper::zipper::{Closing, Neighbour, Zipper, ZipperOptions, ZipperWatch};

use crate::ledger::{Ledger, target_name};
use crate::member::{Connection, Member, MemberConfig};

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// How the zippers are linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topology {
    Chain,
    Ring,
    Star,
    Mesh,
    /// Two rings with one zipper in common.
    DoubleRing,
}

impl Topology {
    pub(crate) const ALL: [Self; 4] = [Self::Chain, Self::Ring, Self::Star, Self::Mesh];

    /// Pairs of linked zippers, of which there are `count`.
    fn links(self, count: usize) -> Vec<[usize; 2]> {
        let chain = (1..count).map(|at| [at - 1, at]);
        match self {
            Self::Chain => chain.collect(),
            Self::Ring if count > 2 => chain.chain([[0, count - 1]]).collect(),
            Self::Ring => chain.collect(),
            Self::DoubleRing => chain
                .chain([[0, count / 2], [count / 2, count - 1]])
                .collect(),
            Self::Star => (1..count).map(|at| [0, at]).collect(),
            Self::Mesh => (0..count)
                .flat_map(|one| (one + 1..count).map(move |other| [one, other]))
                .collect(),
        }
    }

    /// Whether there is one path between any two zippers.
    pub(crate) const fn is_tree(self, count: usize) -> bool {
        matches!(self, Self::Chain | Self::Star) || count < 3
    }
}

/// How a client ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberEnd {
    Leave,
    Killed,
    Unplugged,
}

/// What the processes of a fabric run on.
pub(crate) struct Processes {
    rng: Rng,
    net: MemNet,
    /// The first runs nothing, and keeps the time.
    simulations: Vec<Simulation>,
    /// By the place of its simulation.
    ids: Vec<u64>,
    next: u64,
}

impl Processes {
    fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            net: MemNet::new(ms(1)),
            simulations: vec![Simulation::new(seed).expect("it begins")],
            ids: vec![0],
            next: 1,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.simulations[0].now()
    }

    pub(crate) const fn net(&self) -> &MemNet {
        &self.net
    }

    pub(crate) fn start(&mut self) -> (u64, Arc<Driver>) {
        let seed = self.rng.u64(..);
        let simulation = self.simulations[0].beside(seed).expect("it begins");
        let (id, driver) = (self.next, simulation.driver());
        self.simulations.push(simulation);
        self.ids.push(id);
        self.next += 1;
        (id, driver)
    }

    /// Ends a process as a kill does.
    pub(crate) fn kill(&mut self, id: u64) {
        let at = self.ids.iter().position(|it| *it == id);
        let at = at.expect("it runs");
        self.ids.remove(at);
        drop(self.simulations.remove(at));
    }
}

#[derive(Default)]
enum Life {
    #[default]
    Down,
    Up(u64, Zipper),
    Closing(u64, Closing),
}

struct ZipperNode {
    name: String,
    key: Identity,
    neighbours: Vec<usize>,
    /// Those of its neighbours that it dials.
    dials: Vec<usize>,
    life: Life,
    /// For its counters, of each of its lives.
    watches: Vec<ZipperWatch>,
}

/// The zippers of a fabric with their clients, and what happened to them.
pub(crate) struct Fabric {
    pub(crate) seed: u64,
    pub(crate) rng: Rng,
    pub(crate) processes: Processes,
    pub(crate) ledger: Ledger,
    zippers: Vec<ZipperNode>,
    pub(crate) links: Vec<[usize; 2]>,
    members: Vec<Member>,
    begin: Instant,
    pub(crate) story: Vec<String>,
    /// Whether the story is printed as it goes, by `FABRIC_STORY=1`.
    is_verbose: bool,
    /// Bytes that a zipper buffers for each peer.
    pub(crate) send_buffer: u64,
    /// How long a function may hold a source back.
    pub(crate) stalled_max: Duration,
    /// When the messages that clients write are settled; not at all if `None`.
    pub(crate) level: Option<SettlementLevel>,
    /// How much clients retain for each flow.
    pub(crate) flow_limits: FlowLimits,
    /// What becomes of messages for functions that join and have no room.
    pub(crate) slow_consumer: SlowConsumerPolicy,
}

fn key(group: u8, number: usize) -> Identity {
    let mut seed = [group; 32];
    seed[0] = number as u8;
    Identity::from_seed(&seed).expect("a key")
}

pub(crate) fn address(name: &str) -> Address {
    format!("mem:///{name}").parse().expect("an address")
}

impl Fabric {
    /// Zippers that have not been started, with their links.
    pub(crate) fn new(seed: u64, topology: Topology, count: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        let processes = Processes::new(rng.u64(..));
        let links = topology.links(count);
        let mut zippers: Vec<_> = (0..count)
            .map(|at| ZipperNode {
                name: format!("z{at}"),
                key: key(1, at),
                neighbours: Vec::new(),
                dials: Vec::new(),
                life: Life::Down,
                watches: Vec::new(),
            })
            .collect();
        for &[one, other] in &links {
            zippers[one].neighbours.push(other);
            zippers[other].neighbours.push(one);
            let both = rng.u8(..3) == 0;
            let dialer = if rng.bool() { one } else { other };
            zippers[dialer].dials.push(one + other - dialer);
            if both {
                zippers[one + other - dialer].dials.push(dialer);
            }
        }
        Self {
            seed,
            begin: processes.now(),
            processes,
            rng,
            ledger: Ledger::default(),
            zippers,
            links,
            members: Vec::new(),
            story: vec![format!("{topology:?} of {count}")],
            is_verbose: std::env::var_os("FABRIC_STORY").is_some(),
            send_buffer: 16 << 20,
            stalled_max: Duration::from_secs(10),
            level: None,
            flow_limits: FlowLimits::default(),
            slow_consumer: SlowConsumerPolicy::Hold,
        }
    }

    /// Has clients settle what they write. Otherwise, and if not all zippers are upgraded, some of them are
    /// of a version without features, and the fabric gives the guarantees of plain messages.
    pub(crate) fn settle_messages(&mut self, level: SettlementLevel, are_all_upgraded: bool) {
        self.note(format!("{level:?}, all upgraded: {are_all_upgraded}"));
        self.level = Some(level);
        if are_all_upgraded {
            self.ledger.expect_settlement();
        }
    }

    pub(crate) fn note(&mut self, what: impl std::fmt::Display) {
        let at = (self.processes.now() - self.begin).as_millis();
        let what = format!("{at} {what}");
        if self.is_verbose {
            eprintln!("seed {}: {what}", self.seed);
        }
        self.story.push(what);
    }

    pub(crate) fn count(&self) -> usize {
        self.zippers.len()
    }

    pub(crate) fn set_link(&mut self, one: &str, other: &str, link: MemLink) {
        let seed = self.rng.u64(..);
        self.processes.net.set_link(one, other, link, seed);
    }

    pub(crate) fn start_zipper(&mut self, at: usize) {
        self.note(format!("z{at} starts"));
        let (process, driver) = self.processes.start();
        let own = &self.zippers[at];
        let (name, node) = (own.name.clone(), own.key.node_id());
        let net = self.processes.net.clone();
        net.plug_in(&name);
        let mut options = ZipperOptions::new(name.clone(), own.key.clone());
        options.dialers.push(net.dialer(&name, node));
        let listen = move |admission: &_| net.listener(&name, node, Clone::clone(admission));
        options.listeners.push(Arc::new(listen));
        options.driver = Some(driver);
        options.send_buffer = self.send_buffer;
        options.stalled_max = self.stalled_max;
        if !self.ledger.is_settling() && (self.seed + at as u64).is_multiple_of(3) {
            // As a zipper that has not been upgraded yet.
            options.features = 0;
        }
        let neighbour = |peer: &usize| Neighbour {
            node: self.zippers[*peer].key.node_id(),
            addresses: match own.dials.contains(peer) {
                true => vec![address(&self.zippers[*peer].name)],
                false => Vec::new(),
            },
        };
        options.mesh = own.neighbours.iter().map(neighbour).collect();
        let zipper = Zipper::start(options).expect("it starts");
        let own = &mut self.zippers[at];
        own.watches.push(zipper.watch());
        own.life = Life::Up(process, zipper);
    }

    pub(crate) fn is_up(&self, at: usize) -> bool {
        matches!(self.zippers[at].life, Life::Up(..))
    }

    /// Ends a zipper without any farewell: its host loses its power, or only the process is killed.
    pub(crate) fn crash_zipper(&mut self, at: usize, is_silent: bool) {
        self.note(format!("z{at} crashes, silently: {is_silent}"));
        let own = &mut self.zippers[at];
        if is_silent {
            self.processes.net.unplug(&own.name);
        }
        match std::mem::take(&mut own.life) {
            Life::Up(process, zipper) => {
                self.processes.kill(process);
                drop(zipper);
            }
            Life::Closing(process, closing) => {
                self.processes.kill(process);
                drop(closing);
            }
            Life::Down => {}
        }
    }

    /// Begins to end a zipper in order, as on SIGTERM.
    pub(crate) fn begin_close(&mut self, at: usize, timeout: Duration) {
        self.note(format!("z{at} closes"));
        let own = &mut self.zippers[at];
        own.life = match std::mem::take(&mut own.life) {
            Life::Up(process, zipper) => Life::Closing(process, zipper.begin_close(timeout)),
            life => life,
        };
    }

    /// Ends a zipper in order, and waits for it. Returns whether it has delivered everything.
    pub(crate) fn close_zipper(&mut self, at: usize, timeout: Duration) -> bool {
        self.begin_close(at, timeout);
        loop {
            self.run(ms(20));
            let Life::Closing(process, closing) = &mut self.zippers[at].life else {
                return false;
            };
            if let Some(is_delivered) = closing.poll() {
                self.processes.kill(*process);
                self.zippers[at].life = Life::Down;
                self.note(format!("z{at} has closed, delivered: {is_delivered}"));
                return is_delivered;
            }
        }
    }

    /// Adds a client and begins to connect it; returns its number.
    pub(crate) fn join(&mut self, config: MemberConfig) -> usize {
        let number = self.members.len();
        self.note(format!("c{number} joins: {config:?}"));
        let (process, driver) = self.processes.start();
        let (name, key) = (format!("c{number}"), key(2, number));
        let home = &self.zippers[config.home];
        let zippers = [config.home]
            .into_iter()
            .chain(config.others.iter().copied());
        let mut options = ClientOptions {
            policy: config.policy,
            ..ClientOptions::function(
                config.name.clone(),
                config.observes.clone(),
                zippers.map(|at| address(&self.zippers[at].name)).collect(),
            )
        };
        options.level = self.level;
        options.target = config.target.map(target_name);
        options.flow_limits = self.flow_limits;
        options.slow_consumer = self.slow_consumer;
        options.acknowledge = match config.acknowledges {
            true => AcknowledgeMode::ByCall,
            false => AcknowledgeMode::OnRead,
        };
        options.on_instance_loss = match config.redelivers {
            true => InstanceLossPolicy::Redeliver,
            false => InstanceLossPolicy::Report,
        };
        if config.observes.is_empty() {
            options.role = selvedge_client::Role::Source;
        }
        options.node = config.knows_key.then(|| home.key.node_id());
        let dialer = self.processes.net.dialer(&name, key.node_id());
        options.dialers.push(dialer);
        options.identity = Some(key);
        options.driver = Some(driver);
        let connecting = Client::start(options).expect("it begins");
        let connection = Connection::Connecting(connecting);
        self.ledger.join(number, &config);
        let member = Member::new(number, process, config, connection);
        self.members.push(member);
        number
    }

    /// A client leaves in order, or dies: its host loses its power, or only the process is killed.
    pub(crate) fn end_member(&mut self, number: usize, how: MemberEnd) {
        self.note(format!("c{number} ends: {how:?}"));
        let member = &mut self.members[number];
        self.ledger
            .leave(number, &member.config, how == MemberEnd::Leave);
        match how {
            MemberEnd::Leave => return member.leave(),
            MemberEnd::Killed => {}
            MemberEnd::Unplugged => self.processes.net.unplug(&format!("c{number}")),
        }
        self.processes.kill(member.process);
        member.die();
    }

    pub(crate) fn member(&mut self, number: usize) -> &mut Member {
        &mut self.members[number]
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Lets time pass, while clients read and write.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.processes.now() + time;
        loop {
            let now = self.processes.now();
            let next = self.members.iter().filter_map(Member::next).min();
            let until = next.map_or(end, |at| at.clamp(now, end));
            let (members, ledger) = (&mut self.members, &mut self.ledger);
            let mut failed = None;
            let clock = self.processes.simulations[0].driver();
            let mut act = || {
                let now = clock.now();
                let mut has_acted = false;
                for member in members.iter_mut() {
                    match member.act(now, ledger) {
                        Ok(acted) => has_acted |= acted,
                        Err(why) => failed = Some(why),
                    }
                }
                has_acted
            };
            let simulations = &mut self.processes.simulations;
            let has_acted = Simulation::run_together(simulations, until - now, &mut act) || act();
            if let Some(why) = failed {
                self.fail(why);
            }
            if !has_acted && self.processes.now() >= end {
                return;
            }
        }
    }

    /// Runs until `done`, at most for `limit`; returns whether it is.
    pub(crate) fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.processes.now() + limit;
        while !done(self) {
            if self.processes.now() >= end {
                return false;
            }
            self.run(ms(50));
        }
        true
    }

    /// Whether a client is connected, or gone. A client may not have noticed that its zipper has crashed.
    fn is_attached(&self, number: usize) -> bool {
        let (member, node) = (&self.members[number], key(2, number).node_id());
        let mut zippers = self.zippers.iter();
        !member.is_present()
            || member.is_connected()
                && zippers.any(|it| match &it.life {
                    Life::Up(_, zipper) => {
                        let endpoint = zipper.neighbour(node);
                        endpoint.is_some_and(|it| it.transport().is_some())
                    }
                    _ => false,
                })
    }

    /// Whether each zipper knows every group, and each client is connected.
    pub(crate) fn is_whole(&self) -> bool {
        let groups = self.ledger.groups();
        // One that has not been started yet is not missed.
        let mut begun = self.zippers.iter().filter(|it| !it.watches.is_empty());
        (0..self.members.len()).all(|number| self.is_attached(number))
            && begun.all(|own| match &own.life {
                Life::Up(_, zipper) => {
                    let mesh = own.neighbours.iter().all(|&peer| {
                        let peer = &self.zippers[peer];
                        let endpoint = zipper.neighbour(peer.key.node_id());
                        peer.watches.is_empty()
                            || endpoint.is_some_and(|it| it.transport().is_some())
                    });
                    let knows = |(tag, name): &(Tag, String)| zipper.observers(*tag).contains(name);
                    mesh && groups.iter().all(knows)
                }
                _ => false,
            })
    }

    /// The counters of a zipper, one for each of its lives.
    pub(crate) fn stats(&self, at: usize) -> Vec<ZipperStats> {
        self.zippers[at]
            .watches
            .iter()
            .map(ZipperWatch::stats)
            .collect()
    }

    /// How many messages all zippers and clients have reported as not delivered.
    pub(crate) fn reported(&self) -> u64 {
        let zippers = (0..self.zippers.len()).flat_map(|at| self.stats(at));
        let lost = |it: ZipperStats| it.unobserved + it.unreachable + it.undelivered + it.hop_limit;
        let uncertain = self.members.iter().map(Member::uncertain);
        let plain: u64 = zippers.map(lost).chain(uncertain).sum();
        plain + self.without_room() + self.not_settled() * self.ledger.groups().len() as u64
    }

    /// How many messages may be missing since a recipient behind a link, or the link, had no room. A copy
    /// between zippers may be for each group.
    pub(crate) fn without_room(&self) -> u64 {
        let zippers = (0..self.zippers.len()).flat_map(|at| self.stats(at));
        let copies: u64 = zippers.map(|it| it.no_room).sum();
        copies * self.ledger.groups().len() as u64
    }

    /// Cuts a link, or mends it.
    pub(crate) fn cut(&self, [one, other]: [usize; 2], is_cut: bool) {
        let (one, other) = (&self.zippers[one].name, &self.zippers[other].name);
        self.processes.net.cut(one, other, is_cut);
        self.processes.net.cut(other, one, is_cut);
    }

    pub(crate) fn fail(&self, why: impl std::fmt::Display) -> ! {
        let stats: Vec<_> = (0..self.zippers.len()).map(|at| self.stats(at)).collect();
        panic!(
            "seed {}: {why}\n{:#?}\n{stats:?}\nreplay: FABRIC_SEEDS={}..{} cargo test -p \
             selvedge-testkit --test fabrics",
            self.seed,
            self.story,
            self.seed,
            self.seed + 1
        )
    }
}
