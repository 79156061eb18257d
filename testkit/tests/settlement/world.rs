//! A source, entry zippers, instances, and the connections and routes between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use selvedge_client::settlement::{AbandonReason, FlowLimits, GroupId, InstanceId, SourceFlow};
use selvedge_hub::Instant;
use selvedge_zipper::settlement::{EntryFlow, EntrySettings, GroupSpec, SourceOutput};

use crate::judge::Judge;
use crate::link::ToEntry;
use crate::routes::{Receiving, Route};

pub(crate) const ENTRIES: usize = 3;

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: InstanceId,
    pub(crate) group: usize,
    pub(crate) flows: BTreeMap<GroupId, Receiving>,
    pub(crate) since: Instant,
    /// How many messages it has processed.
    pub(crate) progress: u64,
    /// Until when its handler is busy.
    pub(crate) busy_until: Instant,
    /// The entry zippers that have a route to it.
    pub(crate) reached_by: [bool; ENTRIES],
}

#[derive(Debug)]
pub(crate) struct ObservingGroup {
    pub(crate) name: String,
    pub(crate) is_each: bool,
    pub(crate) redelivers: bool,
    pub(crate) is_always_there: bool,
    /// The only instance that receives new messages, as long as it is there.
    pub(crate) preferred: Option<InstanceId>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Instant,
    pub(crate) settings: EntrySettings,
    pub(crate) source: SourceFlow,
    pub(crate) base_sent: u64,
    /// The entry zipper of the source.
    pub(crate) attached: Option<usize>,
    /// What entry zippers send to the source is under way for long.
    pub(crate) is_stalled: bool,
    /// Until when what the source sends to an entry zipper is under way.
    pub(crate) stalled_until: [Instant; ENTRIES],
    /// What is in flight between source and entry zippers, each with the number of the attachment.
    pub(crate) to_entry: [VecDeque<(u32, ToEntry)>; ENTRIES],
    pub(crate) to_source: [VecDeque<(u32, SourceOutput)>; ENTRIES],
    pub(crate) entries: [Option<EntryFlow>; ENTRIES],
    pub(crate) groups: Vec<ObservingGroup>,
    pub(crate) processes: Vec<Process>,
    pub(crate) next_instance: u64,
    pub(crate) routes: Vec<Route>,
    /// How many messages a route holds, and the members that have refused messages.
    pub(crate) room: usize,
    pub(crate) full: BTreeSet<(usize, GroupId, InstanceId)>,
    pub(crate) judge: Judge,
    /// How many messages are written under faults, and how many were written so far.
    pub(crate) messages: u64,
    pub(crate) written: u64,
    pub(crate) story: Vec<String>,
    pub(crate) resends: u64,
    /// When the source reports next whether it waits.
    pub(crate) waiting_at: Instant,
    /// The groups of instances that have stalled, and when they return.
    pub(crate) returning: Vec<(Instant, usize)>,
    /// Whether the source may not write the tag.
    pub(crate) is_forbidden: bool,
    /// Whether entry zippers decline some messages in any case.
    pub(crate) declines: bool,
    /// Instances that are gone, and that routers still list.
    pub(crate) ghosts: Vec<(usize, InstanceId)>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let limits = FlowLimits {
            log_max: 740_000,
            window: match rng.bool() {
                true => rng.u64(700..37_000),
                false => rng.u64(37_000..200_000),
            },
        };
        let groups = (0..rng.usize(1..=3)).map(|number| ObservingGroup {
            name: format!("group{number}"),
            is_each: rng.u8(..4) == 0,
            redelivers: rng.bool(),
            is_always_there: number == 0,
            preferred: None,
        });
        let groups = groups.collect();
        let rng_room = rng.usize(2..200);
        let declines = rng.u8(..4) == 0;
        let now = Instant::from_origin(Duration::from_secs(1));
        let mut world = Self {
            messages: rng.u64(50..1500),
            rng,
            now,
            settings: EntrySettings::default(),
            source: SourceFlow::new(limits),
            base_sent: 0,
            attached: None,
            is_stalled: false,
            stalled_until: [now; ENTRIES],
            to_entry: [const { VecDeque::new() }; ENTRIES],
            to_source: [const { VecDeque::new() }; ENTRIES],
            entries: [const { None }; ENTRIES],
            groups,
            processes: Vec::new(),
            next_instance: 0,
            routes: Vec::new(),
            room: rng_room,
            full: BTreeSet::new(),
            written: 0,
            judge: Judge::default(),
            story: Vec::new(),
            resends: 0,
            waiting_at: now,
            returning: Vec::new(),
            is_forbidden: false,
            declines,
            ghosts: Vec::new(),
        };
        for group in 0..world.groups.len() {
            for _ in 0..world.rng.usize(1..=3) {
                world.join(group);
            }
        }
        world
    }

    /// Runs the story. Returns how many messages were handled.
    pub(crate) fn run(mut self) -> u64 {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.play()));
        if let Err(panic) = result {
            for line in &self.story {
                eprintln!("{line}");
            }
            eprintln!("now: {:?}", self.now);
            eprintln!("source: {:?} {:?}", self.source, self.attached);
            eprintln!("entries: {:#?}", self.entries);
            std::panic::resume_unwind(panic);
        }
        self.judge.count
    }

    fn play(&mut self) {
        self.attach(0);
        self.write_under_faults();
        self.heal();
        self.drain_source();
        self.write_without_faults();
        self.drain_source();
        self.check();
    }

    pub(crate) fn write(&mut self) {
        if self.source.push(&[0; 10], 0).is_ok() {
            self.written += 1;
        }
    }

    fn write_under_faults(&mut self) {
        let faults = self.rng.u32(0..30);
        let mut steps = 0_u64;
        while self.written < self.messages {
            self.write();
            for _ in 0..self.rng.u32(..6) {
                self.step();
            }
            steps += 1;
            if self.rng.u32(..1500) < faults {
                self.befall();
                // Faults come in bursts.
                while self.rng.u8(..5) > 1 {
                    for _ in 0..self.rng.u32(..12) {
                        self.step();
                    }
                    self.befall();
                }
            }
            assert!(steps < 200_000, "the source is blocked for ever");
        }
    }

    /// Under load without faults, requests end, also after one change of a route. A loss that was not noticed may show
    /// late: when it is the turn of that instance again.
    fn write_without_faults(&mut self) {
        let mut quiet = 0;
        for at in 0..20_000 {
            self.write();
            if at == 100
                && let Some(id) = self.processes.first().map(|it| it.id)
                && let Some(at) = self.attached
            {
                self.begin_route(at, id);
            }
            self.step();
            let requests = std::mem::take(&mut self.resends);
            quiet = if requests > 0 { 0 } else { quiet + 1 };
            if at >= 4000 && quiet >= 1500 {
                return;
            }
        }
        panic!("messages are requested for ever");
    }

    fn drain_source(&mut self) {
        let (mut steps, mut settled) = (0, 0);
        while !self.source.is_done() {
            self.step();
            steps += 1;
            let now_settled = self.judge.settled_len();
            if now_settled > settled {
                (steps, settled) = (0, now_settled);
            }
            assert!(steps < 60_000, "messages are unsettled");
        }
    }

    fn check(&self) {
        let outcome = self.source.outcome();
        let abandoned = outcome.abandoned();
        assert_eq!(
            outcome.settled + outcome.unobserved + abandoned,
            self.written
        );
        for (counted, reason) in [
            (outcome.no_subscriber, AbandonReason::NoSubscriber),
            (outcome.instance_stalled, AbandonReason::InstanceStalled),
            (outcome.instance_lost, AbandonReason::InstanceLost),
            (outcome.forbidden, AbandonReason::Forbidden),
            (outcome.too_deep, AbandonReason::TooDeep),
        ] {
            let reported = self.judge.count_of(reason);
            assert_eq!(counted, reported, "messages are counted by {reason:?}");
        }
        for key in self.judge.keys() {
            let missing = self.judge.missing(key, self.written);
            assert!(missing.is_empty(), "{key:?}: {missing:?} were lost");
        }
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        let at = self.now.since_origin();
        self.story.push(format!("{at:?} {}", what.into()));
    }

    /// Something happens, or time passes.
    pub(crate) fn step(&mut self) {
        match self.rng.u32(..10) {
            0 | 1 => self.pump_source(),
            2 | 3 => self.pump_entry(),
            4 => self.pump_to_source(),
            5 | 6 => self.pump_routes(),
            7 | 8 => self.work(),
            _ => {
                let time = self.rng.u64(1..200);
                self.pass(Duration::from_millis(time));
            }
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.report_waiting();
        self.return_stalled();
        self.pass_at_instances();
        for at in 0..ENTRIES {
            let Some(flow) = &mut self.entries[at] else {
                continue;
            };
            let timeout = flow.poll_timeout();
            if timeout.is_some_and(|timeout| timeout <= self.now) {
                flow.handle_timeout(self.now);
            }
            self.drain(at);
        }
    }

    pub(crate) fn join(&mut self, group: usize) {
        self.next_instance += 1;
        let id = InstanceId(self.next_instance);
        self.note(format!("{id:?} joins {}", self.groups[group].name));
        self.processes.push(Process {
            id,
            group,
            flows: BTreeMap::new(),
            progress: 0,
            since: self.now,
            busy_until: self.now,
            reached_by: [false; ENTRIES],
        });
        for at in 0..ENTRIES {
            self.set_groups(at);
            if self.rng.u8(..8) > 0 {
                let process = self.processes.last_mut().expect("it has joined");
                process.reached_by[at] = true;
                self.begin_route(at, id);
            }
        }
    }

    pub(crate) fn specs(&self) -> Vec<GroupSpec> {
        let mut specs = Vec::new();
        for (number, group) in self.groups.iter().enumerate() {
            let members = self.processes.iter().filter(|it| it.group == number);
            let mut members: Vec<_> = members.map(|it| it.id).collect();
            let mut others = Vec::new();
            if let Some(preferred) = group.preferred.filter(|it| members.contains(it)) {
                others.extend(members.extract_if(.., |it| *it != preferred));
            }
            if !group.is_each {
                let ghosts = self.ghosts.iter().filter(|it| it.0 == number);
                members.extend(ghosts.map(|it| it.1));
            }
            let spec = |only, members, others| GroupSpec {
                name: group.name.clone(),
                only,
                redelivers: group.redelivers || group.is_always_there,
                members,
                others,
            };
            match group.is_each {
                true => {
                    let all = members.iter().chain(&others);
                    specs.extend(all.map(|&id| spec(Some(id), vec![id], Vec::new())));
                }
                false if members.is_empty() && number == 1 => {}
                false => specs.push(spec(None, members, others)),
            }
        }
        specs
    }

    pub(crate) fn set_groups(&mut self, at: usize) {
        if let Some(mut flow) = self.entries[at].take() {
            self.update_groups(&mut flow);
            // Instances that were no members before may have become members.
            let reached = self.processes.iter().filter(|it| it.reached_by[at]);
            reached.for_each(|it| flow.keep_route(self.now, it.id));
            self.entries[at] = Some(flow);
            self.drain(at);
        }
    }

    /// What the router knows of the recipients.
    pub(crate) fn update_groups(&self, flow: &mut EntryFlow) {
        match self.is_forbidden {
            true => flow.forbid(self.now),
            false => flow.set_groups(self.now, &self.specs()),
        }
    }

    pub(crate) fn begin_route(&mut self, at: usize, id: InstanceId) {
        if let Some(flow) = &mut self.entries[at] {
            flow.handle_route(self.now, id);
            self.drain(at);
        }
    }
}
