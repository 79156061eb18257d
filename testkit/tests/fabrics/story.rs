//! Fabrics drawn from a seed: their shape, their clients, and what befalls them.

use std::time::Duration;

use fastrand::Rng;
use selvedge_client::settlement::FlowLimits;
use selvedge_client::wire::settlement::SettlementLevel;
use selvedge_client::{Policy, Tag};
use selvedge_testkit::MemLink;

use crate::fabric::{Fabric, MemberEnd, Topology, ms};
use crate::member::{MemberConfig, TARGETS, Writing};

/// How long a fabric may take to be whole: the longest pause between two dials is 10 s, and a dial that was
/// lost takes 5 s.
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// How long everything may take to arrive once all faults are over and all read. What an instance that has
/// died may have received waits for the end of its lease, of 30 s.
const DRAIN_MAX: Duration = Duration::from_secs(120);

/// How long an instance that has died may keep its lease, of 30 s.
const LEASE_MAX: Duration = Duration::from_secs(40);

/// What befalls a fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    /// Slow readers only.
    Calm,
    /// Links break and are cut.
    Links,
    /// Zippers crash, and are started again.
    Crashes,
    /// Zippers end in order, and are started again.
    Restarts,
    /// A zipper and clients join.
    Joins,
    /// Instances come, leave in order, and die. For settled sources only.
    Instances,
}

impl Weather {
    const PLAIN: [Self; 5] = [
        Self::Calm,
        Self::Links,
        Self::Crashes,
        Self::Restarts,
        Self::Joins,
    ];
    const SETTLED: [Self; 6] = [
        Self::Calm,
        Self::Links,
        Self::Crashes,
        Self::Restarts,
        Self::Joins,
        Self::Instances,
    ];
}

const POLICIES: [Policy; 5] = [
    Policy::Nearest,
    Policy::RoundRobin,
    Policy::Random,
    Policy::Hash,
    Policy::All,
];

const INPUTS: [Tag; 3] = [Tag(0x10), Tag(0x11), Tag(0x12)];
const OUTPUTS: [Tag; 2] = [Tag(0x20), Tag(0x21)];

/// What a story came to: equal for equal seeds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Outcome {
    pub(crate) copies: u64,
    /// Copies that were flagged as redeliveries.
    pub(crate) redeliveries: u64,
    /// Copies that were read again without a flag, in fabrics that are being upgraded.
    pub(crate) repeated: u64,
    /// Messages that were reported as abandoned.
    pub(crate) abandoned: u64,
    pub(crate) digest: u64,
    pub(crate) story: Vec<String>,
}

struct Story {
    fabric: Fabric,
    weather: Weather,
    /// Started in the course of the story.
    late: Option<usize>,
    /// Whether no plain message may be missing but those that found no room behind a link, whatever else is
    /// reported.
    is_strict: bool,
    cuts: Vec<[usize; 2]>,
}

/// Runs the story of a seed to its end.
pub(crate) fn run(seed: u64) -> Outcome {
    let mut story = Story::new(seed);
    story.begin();
    story.unfold();
    story.mend();
    story.probe();
    let reported = story.fabric.check_outcomes();
    story.fabric.close_sources();
    let counts = story.fabric.ledger.counts;
    story.fabric.note(format!("{counts:?}, {reported:?}"));
    let Fabric { ledger, story, .. } = story.fabric;
    Outcome {
        copies: ledger.counts.copies,
        redeliveries: ledger.counts.redeliveries,
        repeated: ledger.counts.repeated,
        abandoned: reported.abandoned,
        digest: ledger.digest,
        story,
    }
}

fn pick<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())]
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let topology = pick(&mut rng, &Topology::ALL);
        // Sources without settlement remain possible, as do zippers that are to be upgraded.
        let (is_settling, level) = match rng.u8(..8) {
            0 => (false, None),
            // Once accepted, a message has the guarantees of a plain one.
            1 if seed.is_multiple_of(2) => (false, Some(SettlementLevel::Accepted)),
            1 => (false, Some(SettlementLevel::Received)),
            2..5 => (true, Some(SettlementLevel::Received)),
            _ => (true, Some(SettlementLevel::Processed)),
        };
        let weather = match is_settling {
            true => pick(&mut rng, &Weather::SETTLED),
            false => pick(&mut rng, &Weather::PLAIN),
        };
        // Most are small: a full mesh of eight costs ten times as much as one of three.
        let count = match rng.u8(..10) {
            0..6 => rng.usize(2..=4),
            6..9 => rng.usize(4..=6),
            _ => rng.usize(6..=8),
        };
        let mut fabric = Fabric::new(seed, topology, count);
        fabric.note(format!("{weather:?}"));
        if rng.bool() {
            // Known: where less than 128 KiB may fill a buffer, connections of a zipper that wait for room at
            // each other wake each other without end until an acknowledgement arrives (with 64 or 256 KiB,
            // seed 153).
            fabric.send_buffer = 1 << 20;
        }
        if let Some(level) = level {
            fabric.settle_messages(level, is_settling);
            if rng.u8(..4) == 0 {
                fabric.flow_limits = FlowLimits {
                    log_max: 256 << 10,
                    window: 64 << 10,
                };
            }
        }
        let has_failing_zippers = matches!(weather, Weather::Crashes | Weather::Restarts);
        if has_failing_zippers && !is_settling && level.is_some() {
            fabric.ledger.allow_repetition();
        }
        let is_tree = topology.is_tree(count);
        let has_one_path = is_tree || weather == Weather::Calm;
        let may_reorder = has_failing_zippers || !has_one_path;
        if may_reorder && !is_settling {
            fabric.ledger.allow_reordering();
        }
        Self {
            fabric,
            weather,
            // The others are linked without it.
            late: (weather == Weather::Joins).then_some(count - 1),
            is_strict: match weather {
                Weather::Calm => true,
                Weather::Links | Weather::Joins => is_tree,
                Weather::Crashes | Weather::Restarts | Weather::Instances => false,
            },
            cuts: Vec::new(),
        }
    }

    fn link(&mut self) -> MemLink {
        let rng = &mut self.fabric.rng;
        MemLink {
            latency: ms(rng.u64(1..30)),
            jitter: ms(rng.u64(..10)),
            loss: pick(rng, &[0.0, 0.0, 0.01, 0.05]),
        }
    }

    /// Starts the zippers and clients, and waits until all know of all.
    fn begin(&mut self) {
        for [one, other] in self.fabric.links.clone() {
            let link = self.link();
            self.fabric
                .set_link(&format!("z{one}"), &format!("z{other}"), link);
        }
        for at in (0..self.fabric.count()).filter(|at| Some(*at) != self.late) {
            self.fabric.start_zipper(at);
            if self.fabric.rng.bool() {
                let time = ms(self.fabric.rng.u64(..300));
                self.fabric.run(time);
            }
        }
        let functions = self.fabric.rng.usize(..=OUTPUTS.len());
        for (name, emits) in OUTPUTS.into_iter().enumerate().take(functions) {
            let observes = vec![pick(&mut self.fabric.rng, &INPUTS)];
            self.join_group(format!("function-{name}"), &observes, Some(emits));
        }
        for name in 0..self.fabric.rng.usize(1..=3) {
            self.join_sinks(name);
        }
        for _ in 0..self.fabric.rng.usize(1..=3) {
            self.join_one(MemberConfig {
                name: "source".into(),
                home: 0,
                others: Vec::new(),
                knows_key: false,
                observes: Vec::new(),
                target: None,
                policy: Policy::Nearest,
                emits: None,
                acknowledges: false,
                redelivers: true,
            });
        }
        self.settle();
    }

    fn join_sinks(&mut self, name: usize) {
        let rng = &mut self.fabric.rng;
        let mut observes = vec![pick(rng, &INPUTS)];
        if rng.bool() {
            observes.push(pick(rng, &OUTPUTS));
        }
        self.join_group(format!("sink-{name}"), &observes, None);
    }

    fn join_group(&mut self, name: String, observes: &[Tag], emits: Option<Tag>) {
        let policy = pick(&mut self.fabric.rng, &POLICIES);
        let target = match self.fabric.rng.u8(..3) {
            0 => Some(pick(&mut self.fabric.rng, &TARGETS)),
            _ => None,
        };
        let redelivers = self.fabric.rng.u8(..4) > 0;
        let acknowledges = self.fabric.rng.bool();
        for _ in 0..self.fabric.rng.usize(1..=2) {
            self.join_one(MemberConfig {
                name: name.clone(),
                home: 0,
                others: Vec::new(),
                knows_key: false,
                observes: observes.to_vec(),
                target,
                policy,
                emits,
                acknowledges,
                redelivers,
            });
        }
    }

    /// Joins at any zipper that is up; some move to others.
    fn join_one(&mut self, config: MemberConfig) {
        let up: Vec<_> = (0..self.fabric.count())
            .filter(|at| self.fabric.is_up(*at))
            .collect();
        let home = pick(&mut self.fabric.rng, &up);
        let knows_key = self.fabric.rng.bool();
        let mut others = Vec::new();
        if self.fabric.ledger.is_settling() && !knows_key {
            let count = self.fabric.rng.usize(..=2);
            others.extend(up.into_iter().filter(|at| *at != home).take(count));
        }
        let number = self.fabric.members().len();
        for zipper in [home].iter().chain(&others) {
            let link = self.link();
            self.fabric
                .set_link(&format!("c{number}"), &format!("z{zipper}"), link);
        }
        self.fabric.join(MemberConfig {
            home,
            others,
            knows_key,
            ..config
        });
    }

    /// Waits until the fabric is whole, and no table is under way any more.
    fn settle(&mut self) {
        if !self.fabric.run_until(WHOLE_MAX, Fabric::is_whole) {
            self.fabric.fail("the fabric does not become whole");
        }
        self.fabric.run(ms(2000));
        let now = self.fabric.processes.now();
        self.fabric.ledger.settle(now);
        self.fabric.note("whole");
    }

    fn write(&mut self, count: u32) {
        let sources: Vec<usize> = self.fabric.sources().collect();
        for number in sources {
            let rng = &mut self.fabric.rng;
            let mut tags = INPUTS.to_vec();
            rng.shuffle(&mut tags);
            tags.truncate(rng.usize(1..=2));
            let targets = match rng.u8(..3) {
                0 => vec![None, Some(pick(rng, &TARGETS))],
                _ => vec![None],
            };
            let writing = Writing {
                tags,
                targets,
                pause: ms(rng.u64(5..100)),
                len: match rng.u8(..10) {
                    0 => rng.usize(30_000..100_000),
                    _ => rng.usize(8..2000),
                },
                long_each: (rng.u8(..4) == 0).then(|| rng.u32(2..count)),
                left: rng.u32(count / 2..count),
            };
            let now = self.fabric.processes.now();
            self.fabric.member(number).write(now, writing);
        }
    }

    fn unfold(&mut self) {
        self.write(60);
        for _ in 0..self.fabric.rng.usize(4..12) {
            let time = ms(self.fabric.rng.u64(..500));
            self.fabric.run(time);
            self.fabric.check_early_outcomes();
            if self.fabric.rng.u8(..3) == 0 {
                self.change_reader();
                continue;
            }
            match self.weather {
                Weather::Calm => self.change_reader(),
                Weather::Links => self.change_link(),
                Weather::Crashes => self.crash(),
                Weather::Restarts => self.restart(),
                Weather::Joins => self.join(),
                Weather::Instances => self.change_instances(),
            }
        }
    }

    fn change_reader(&mut self) {
        let members = self.fabric.members().len();
        let number = self.fabric.rng.usize(..members);
        let (reads, pause) = match self.fabric.rng.u8(..3) {
            0 => (false, 0),
            1 => (true, self.fabric.rng.u64(1..40)),
            _ => (true, 0),
        };
        self.fabric
            .note(format!("c{number} reads: {reads}, each {pause} ms"));
        let member = self.fabric.member(number);
        member.set_reading(reads, ms(pause));
    }

    fn change_link(&mut self) {
        let [one, other] = pick(&mut self.fabric.rng, &self.fabric.links);
        let members = self.fabric.members().len();
        let number = self.fabric.rng.usize(..members);
        let home = self.fabric.members()[number].config.home;
        match self.fabric.rng.u8(..5) {
            0 => {
                self.fabric.note(format!("z{one}-z{other} breaks"));
                let (one, other) = (format!("z{one}"), format!("z{other}"));
                self.fabric.processes.net().kill(&one, &other);
            }
            1 => {
                self.fabric.note(format!("c{number}-z{home} breaks"));
                let (one, other) = (format!("c{number}"), format!("z{home}"));
                self.fabric.processes.net().kill(&one, &other);
            }
            2 | 3 => {
                self.fabric.note(format!("z{one}-z{other} is cut"));
                let now = self.fabric.processes.now();
                self.fabric.ledger.disturb(now);
                self.fabric.cut([one, other], true);
                self.cuts.push([one, other]);
            }
            _ => self.mend_links(),
        }
    }

    fn mend_links(&mut self) {
        for cut in std::mem::take(&mut self.cuts) {
            self.fabric
                .note(format!("z{}-z{} is mended", cut[0], cut[1]));
            self.fabric.cut(cut, false);
        }
    }

    fn crash(&mut self) {
        let count = self.fabric.count();
        let at = self.fabric.rng.usize(..count);
        if self.fabric.is_up(at) {
            let is_silent = self.fabric.rng.bool();
            self.fabric.crash_zipper(at, is_silent);
            let now = self.fabric.processes.now();
            self.fabric.ledger.excuse(now);
        } else {
            self.fabric.start_zipper(at);
        }
    }

    fn restart(&mut self) {
        let count = self.fabric.count();
        let at = self.fabric.rng.usize(..count);
        if self.fabric.is_up(at) {
            // Of plain sources, what they and neighbours hold for it may be lost, counted or not.
            let now = self.fabric.processes.now();
            self.fabric.ledger.excuse(now);
            let _is_delivered = self.fabric.close_zipper(at, ms(4000));
        } else {
            self.fabric.start_zipper(at);
        }
    }

    fn join(&mut self) {
        if let Some(late) = self.late.take() {
            self.fabric.start_zipper(late);
        } else {
            self.join_sinks(10 + self.fabric.members().len());
        }
    }

    /// An instance of a function or sink leaves or dies, or one joins.
    fn change_instances(&mut self) {
        let members = self.fabric.members().iter().enumerate();
        let present = members.filter(|(_, it)| !it.config.observes.is_empty() && it.is_present());
        let present: Vec<usize> = present.map(|(number, _)| number).collect();
        let Some(number) = self.fabric.rng.choice(present) else {
            return;
        };
        // A message without its output goes to another instance.
        let has_begun = self.fabric.members()[number].has_begun();
        match self.fabric.rng.u8(..4) {
            0 if !has_begun => self.fabric.end_member(number, MemberEnd::Leave),
            0 => self.fabric.end_member(number, MemberEnd::Killed),
            1 => self.fabric.end_member(number, MemberEnd::Killed),
            2 => self.fabric.end_member(number, MemberEnd::Unplugged),
            _ => {
                let config = self.fabric.members()[number].config.clone();
                self.join_one(config);
            }
        }
    }

    /// Ends all faults, and waits until nothing is written any more.
    fn mend(&mut self) {
        self.mend_links();
        for at in 0..self.fabric.count() {
            if !self.fabric.is_up(at) {
                self.fabric.start_zipper(at);
            }
        }
        for number in 0..self.fabric.members().len() {
            self.fabric.member(number).set_reading(true, Duration::ZERO);
        }
        self.settle();
        let is_done = |fabric: &Fabric| !fabric.members().iter().any(|it| it.is_writing());
        if !self.fabric.run_until(DRAIN_MAX, is_done) {
            self.fabric.fail("a client is held back for good");
        }
    }

    /// Writes some more, which must all arrive, and holds the ledger against the counters.
    fn probe(&mut self) {
        self.drain();
        let before = self.fabric.ledger.missing().len() as u64;
        let without_room = self.fabric.without_room();
        self.fabric.check_early_outcomes();
        // Messages may circulate while tables change, until the hop limit drops them; not afterwards.
        let looped = self.looped();
        if looped > 0 && self.weather == Weather::Calm {
            self.fabric.fail(format!(
                "{looped} messages circulated without a change of tables"
            ));
        }
        self.write(8);
        self.fabric.run(ms(2000));
        let is_there = move |fabric: &Fabric| {
            let is_written = !fabric.members().iter().any(|it| it.is_writing());
            let missing = fabric.ledger.missing().len() as u64;
            is_written && missing <= before + fabric.without_room() - without_room
        };
        if !self.fabric.run_until(DRAIN_MAX, is_there) {
            let missing = self.fabric.ledger.missing();
            self.fabric.fail(format!(
                "after all faults some are missing: {missing:?}, {:?}",
                self.fabric.outcomes_of_missing()
            ));
        }
        if self.looped() > looped {
            self.fabric.fail("messages circulate after all faults");
        }
        for at in 0..self.fabric.count() {
            for stats in self.fabric.stats(at) {
                // Known: zippers that were started again refuse some of what waited for them.
                let may_refuse = matches!(self.weather, Weather::Crashes | Weather::Restarts);
                if stats.malformed > 0 && !may_refuse {
                    self.fabric.fail(format!("z{at}: {stats:?}"));
                }
            }
        }
    }

    /// How many messages the hop limit has dropped.
    fn looped(&self) -> u64 {
        let stats = (0..self.fabric.count()).flat_map(|at| self.fabric.stats(at));
        stats.map(|it| it.hop_limit).sum()
    }

    /// Waits until what is missing is reported, or nothing is where nothing may be.
    fn drain(&mut self) {
        let is_strict = self.is_strict;
        let is_settled = move |fabric: &Fabric| {
            let missing = fabric.ledger.missing().len() as u64;
            let is_reported = match fabric.ledger.is_settling() {
                true => fabric.is_accounted(),
                false if is_strict => missing <= fabric.without_room(),
                false => missing <= fabric.reported(),
            };
            missing == 0 || is_reported
        };
        if !self.fabric.run_until(DRAIN_MAX, is_settled) {
            let (missing, reported) = (self.fabric.ledger.missing(), self.fabric.reported());
            self.fabric.fail(format!(
                "{} missing, {reported} reported: {missing:?}, {:?}",
                missing.len(),
                self.fabric.outcomes_of_missing()
            ));
        }
        // What is on its way still arrives, or is a duplicate.
        self.fabric.run(ms(1000));
        if self.weather == Weather::Instances {
            // Instances that have died lose their leases: otherwise messages are given to them.
            self.fabric.run(LEASE_MAX);
        }
    }
}
