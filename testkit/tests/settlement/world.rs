//! A source, entry zippers, instances, and the connections and routes between them.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use selvedge_client::settlement::{
    FlowLimits, FlowOffer, FlowOutcome, InstanceId, ReceivingFlow, ReceivingReport, RouteEpoch,
    SourceFlow, SourceMessage,
};
use selvedge_hub::Instant;
use selvedge_zipper::settlement::{EntryFlow, EntryOutput, EntrySettings, GroupSpec};

use crate::judge::{GroupKey, Judge};

pub(crate) const ENTRIES: usize = 3;

/// What the source sends to its entry zipper.
#[derive(Debug)]
pub(crate) enum ToEntry {
    Offer(FlowOffer),
    Message(SourceMessage),
    Confirm(u64),
    Base(u64),
}

/// What an entry zipper sends to an instance.
#[derive(Debug)]
pub(crate) enum ToInstance {
    Bind,
    Message { sequence: u64, is_redelivery: bool },
    RaiseFloor(u64),
}

/// A route from an entry zipper to an instance, with what is in flight. It may outlive its end: then it
/// brings a part of what was in flight, late.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) entry: usize,
    pub(crate) instance: InstanceId,
    pub(crate) epoch: RouteEpoch,
    pub(crate) down: VecDeque<ToInstance>,
    pub(crate) up: VecDeque<ReceivingReport>,
    pub(crate) is_over: bool,
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: InstanceId,
    pub(crate) group: usize,
    pub(crate) flow: ReceivingFlow,
    pub(crate) queue: VecDeque<(u64, bool)>,
    /// When the entry zipper of the source reached it last.
    pub(crate) heard: Instant,
    /// The entry zippers that have a route to it.
    pub(crate) reached_by: [bool; ENTRIES],
}

#[derive(Debug)]
pub(crate) struct ObservingGroup {
    pub(crate) name: String,
    pub(crate) is_each: bool,
    pub(crate) redelivers: bool,
    pub(crate) is_always_there: bool,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Instant,
    pub(crate) settings: EntrySettings,
    pub(crate) source: SourceFlow,
    pub(crate) base_sent: u64,
    /// The entry zipper of the source, with what is in flight between the two.
    pub(crate) attached: Option<usize>,
    /// Whether that zipper has received the offer: before, it may serve an earlier attachment.
    pub(crate) is_offered: bool,
    /// What the entry zipper sends to the source is under way for long.
    pub(crate) is_stalled: bool,
    pub(crate) to_entry: VecDeque<ToEntry>,
    pub(crate) to_source: VecDeque<EntryOutput>,
    pub(crate) entries: [Option<EntryFlow>; ENTRIES],
    pub(crate) groups: Vec<ObservingGroup>,
    pub(crate) processes: Vec<Process>,
    pub(crate) next_instance: u64,
    pub(crate) routes: Vec<Route>,
    pub(crate) judge: Judge,
    /// How many messages are written under faults, and how many were written so far.
    pub(crate) messages: u64,
    pub(crate) written: u64,
    pub(crate) story: Vec<String>,
    pub(crate) resends: u64,
    /// Instances that are gone, and that routers still list.
    pub(crate) ghosts: Vec<(usize, InstanceId)>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let limits = FlowLimits {
            log_max: 740_000,
            window: rng.u64(700..37_000),
        };
        let groups = (0..rng.usize(1..=3)).map(|number| ObservingGroup {
            name: format!("group{number}"),
            is_each: rng.u8(..4) == 0,
            redelivers: rng.bool(),
            is_always_there: number == 0,
        });
        let groups = groups.collect();
        let now = Instant::from_origin(Duration::from_secs(1));
        let mut world = Self {
            messages: rng.u64(50..1500),
            rng,
            now,
            settings: EntrySettings {
                lease: Duration::from_secs(30),
                await_max: Duration::from_secs(10),
            },
            source: SourceFlow::new(limits),
            base_sent: 0,
            attached: None,
            is_offered: false,
            is_stalled: false,
            to_entry: VecDeque::new(),
            to_source: VecDeque::new(),
            entries: [const { None }; ENTRIES],
            groups,
            processes: Vec::new(),
            next_instance: 0,
            routes: Vec::new(),
            written: 0,
            judge: Judge::default(),
            story: Vec::new(),
            resends: 0,
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

    fn write(&mut self) {
        if self.source.push(Bytes::from_static(&[0; 10])).is_ok() {
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

    /// Under load without faults, requests end, also after one change of a route.
    fn write_without_faults(&mut self) {
        for at in 0..4000 {
            self.write();
            if at == 100
                && let Some(id) = self.processes.first().map(|it| it.id)
                && let Some(at) = self.attached
            {
                self.begin_route(at, id);
            }
            if at == 2500 {
                self.resends = 0;
            }
            self.step();
        }
        assert_eq!(self.resends, 0, "messages are requested for ever");
    }

    fn drain_source(&mut self) {
        for _ in 0..60_000 {
            if self.source.is_done() {
                return;
            }
            self.step();
        }
        panic!("messages are unsettled");
    }

    fn check(&self) {
        let FlowOutcome {
            settled,
            unobserved,
            abandoned,
        } = self.source.outcome();
        assert_eq!(settled + unobserved + abandoned, self.written);
        let reported = self.judge.abandoned.values();
        let reported: BTreeSet<u64> = reported.flat_map(|it| it.ranges().flatten()).collect();
        let reported = reported.len() as u64;
        assert_eq!(abandoned, reported, "abandoned messages are counted");
        let groups = self.groups.iter();
        for group in groups.filter(|it| it.is_always_there && !it.is_each) {
            let missing = self
                .judge
                .missing(&(group.name.clone(), None), self.written);
            assert!(missing.is_empty(), "{}: {missing:?} were lost", group.name);
        }
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        let at = self.now.since_origin();
        self.story.push(format!("{at:?} {}", what.into()));
    }

    /// Something happens, or time passes.
    fn step(&mut self) {
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
        for process in &mut self.processes {
            if self.attached.is_some_and(|at| process.reached_by[at]) {
                process.heard = self.now;
            }
        }
        self.fence();
        for at in 0..ENTRIES {
            let Some(flow) = &mut self.entries[at] else {
                continue;
            };
            if flow
                .poll_timeout()
                .is_some_and(|timeout| timeout <= self.now)
            {
                flow.handle_timeout(self.now);
                flow.report();
            }
            self.drain(at);
        }
    }

    pub(crate) fn key(&self, group: usize, id: InstanceId) -> GroupKey {
        let group = &self.groups[group];
        (group.name.clone(), group.is_each.then_some(id))
    }

    pub(crate) fn join(&mut self, group: usize) {
        self.next_instance += 1;
        let id = InstanceId(self.next_instance);
        self.note(format!("{id:?} joins {}", self.groups[group].name));
        let mut reached_by = [false; ENTRIES];
        reached_by.fill_with(|| self.rng.u8(..8) > 0);
        self.processes.push(Process {
            id,
            group,
            flow: ReceivingFlow::default(),
            queue: VecDeque::new(),
            heard: self.now,
            reached_by,
        });
        for (at, is_reached) in reached_by.into_iter().enumerate() {
            self.set_groups(at);
            if is_reached {
                self.begin_route(at, id);
            }
        }
    }

    fn specs(&self) -> Vec<GroupSpec> {
        let mut specs = Vec::new();
        for (number, group) in self.groups.iter().enumerate() {
            let members = self.processes.iter().filter(|it| it.group == number);
            let mut members: Vec<_> = members.map(|it| it.id).collect();
            if !group.is_each {
                let ghosts = self.ghosts.iter().filter(|it| it.0 == number);
                members.extend(ghosts.map(|it| it.1));
            }
            let spec = |only, members| GroupSpec {
                name: group.name.clone(),
                only,
                redelivers: group.redelivers || group.is_always_there,
                members,
            };
            match group.is_each {
                true => specs.extend(members.iter().map(|&id| spec(Some(id), vec![id]))),
                false if members.is_empty() && number == 1 => {}
                false => specs.push(spec(None, members)),
            }
        }
        specs
    }

    fn set_groups(&mut self, at: usize) {
        let specs = self.specs();
        if let Some(flow) = &mut self.entries[at] {
            flow.set_groups(self.now, &specs);
            self.drain(at);
        }
    }

    pub(crate) fn begin_route(&mut self, at: usize, id: InstanceId) {
        if let Some(flow) = &mut self.entries[at] {
            flow.handle_route(self.now, id);
            self.drain(at);
        }
    }

    /// A route ends, and may bring a part of what is in flight later.
    pub(crate) fn end_routes(&mut self, is_concerned: impl Fn(&Route) -> bool) {
        for route in self
            .routes
            .iter_mut()
            .filter(|it| !it.is_over && is_concerned(it))
        {
            route.is_over = true;
            route.down.truncate(self.rng.usize(..=route.down.len()));
            route.up.truncate(self.rng.usize(..=route.up.len()));
        }
    }

    /// The source attaches to an entry zipper that knows nothing of it.
    pub(crate) fn attach(&mut self, at: usize) {
        self.note(format!("the source attaches to entry {at}"));
        self.to_entry.clear();
        self.to_source.clear();
        self.attached = Some(at);
        self.is_offered = false;
        self.is_stalled = false;
        self.base_sent = 0;
        let offer = self.source.attach();
        self.to_entry.push_back(ToEntry::Offer(offer));
    }

    fn pump_source(&mut self) {
        if self.source.base() > self.base_sent && self.rng.bool() {
            self.base_sent = self.source.base();
            self.to_entry.push_back(ToEntry::Base(self.base_sent));
        }
        for _ in 0..self.rng.u32(..20) {
            let Some(message) = self.source.poll_message() else {
                return;
            };
            self.to_entry.push_back(ToEntry::Message(message));
        }
    }

    fn pump_entry(&mut self) {
        let Some(at) = self.attached else { return };
        for _ in 0..self.rng.u32(..30) {
            let Some(message) = self.to_entry.pop_front() else {
                break;
            };
            if let ToEntry::Offer(offer) = message {
                let flow = EntryFlow::new(self.now, self.settings, offer);
                let mut flow = flow.expect("a valid offer");
                flow.set_groups(self.now, &self.specs());
                self.entries[at] = Some(flow);
                self.is_offered = true;
                let reached = self.processes.iter().filter(|it| it.reached_by[at]);
                for id in reached.map(|it| it.id).collect::<Vec<_>>() {
                    self.begin_route(at, id);
                }
                continue;
            }
            let Some(flow) = &mut self.entries[at] else {
                break;
            };
            match message {
                ToEntry::Message(SourceMessage::Live { sequence, .. }) => {
                    assert!(flow.handle_live(sequence), "in order");
                }
                ToEntry::Message(SourceMessage::Resent {
                    group,
                    token,
                    sequence,
                    ..
                }) => flow.handle_resent(group, token, sequence),
                ToEntry::Message(SourceMessage::ResendEnd { group, token, .. }) => {
                    flow.handle_resend_end(group, token);
                }
                ToEntry::Confirm(version) => flow.handle_confirmed(version),
                ToEntry::Base(base) => flow.handle_base(base),
                ToEntry::Offer(_) => unreachable!("handled above"),
            }
            self.drain(at);
        }
        let is_reporting = self.rng.u8(..3) > 0;
        if let Some(flow) = &mut self.entries[at]
            && is_reporting
        {
            flow.report();
            self.drain(at);
        }
    }

    /// Does what an entry zipper requires.
    pub(crate) fn drain(&mut self, at: usize) {
        while let Some(output) = self.entries[at].as_mut().and_then(EntryFlow::poll_output) {
            let (instance, epoch, message) = match output {
                EntryOutput::Bind {
                    instance, epoch, ..
                } => {
                    self.end_routes(|it| it.entry == at && it.instance == instance);
                    self.routes.push(Route {
                        entry: at,
                        instance,
                        epoch,
                        down: VecDeque::new(),
                        up: VecDeque::new(),
                        is_over: false,
                    });
                    (instance, epoch, ToInstance::Bind)
                }
                EntryOutput::Deliver {
                    instance,
                    epoch,
                    sequence,
                    is_redelivery,
                    ..
                } => {
                    let message = ToInstance::Message {
                        sequence,
                        is_redelivery,
                    };
                    (instance, epoch, message)
                }
                EntryOutput::RaiseFloor {
                    instance,
                    epoch,
                    floor,
                } => (instance, epoch, ToInstance::RaiseFloor(floor)),
                to_source => {
                    if self.attached == Some(at) && self.is_offered {
                        self.to_source.push_back(to_source);
                    }
                    continue;
                }
            };
            let mut routes = self.routes.iter_mut();
            let route = routes.find(|it| {
                it.entry == at && it.instance == instance && it.epoch == epoch && !it.is_over
            });
            if let Some(route) = route {
                route.down.push_back(message);
            }
        }
    }

    fn pump_to_source(&mut self) {
        if self.is_stalled {
            return;
        }
        for _ in 0..self.rng.u32(..20) {
            let Some(message) = self.to_source.pop_front() else {
                return;
            };
            match message {
                EntryOutput::Announce(recipients) => {
                    self.judge.announced(&recipients.groups);
                    let version = self.source.handle_recipients(recipients);
                    self.to_entry.push_back(ToEntry::Confirm(version));
                }
                EntryOutput::Routed(routed) => self.source.handle_routed(routed).expect("routed"),
                EntryOutput::Settled { group, messages } => {
                    self.judge.settled(group, &messages);
                    self.source
                        .handle_settled(group, &messages)
                        .expect("settled");
                }
                EntryOutput::Abandoned {
                    group, messages, ..
                } => {
                    self.judge.abandoned(group, &messages);
                    self.source
                        .handle_abandoned(group, &messages)
                        .expect("abandoned");
                }
                EntryOutput::Resend(request) => {
                    self.resends += 1;
                    self.source.handle_resend(request).expect("a request")
                }
                other => panic!("not for the source: {other:?}"),
            }
        }
    }
}
