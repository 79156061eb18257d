//! Routes to instances, and their handlers.

use std::collections::VecDeque;

use selvedge_client::settlement::{
    GroupId, InstanceId, Receipt, ReceivingFlow, ReceivingReport, RouteEpoch, SequenceSet,
};
use selvedge_zipper::settlement::InstanceOutputKind;

use crate::world::World;

/// What an entry zipper sends to an instance.
#[derive(Debug)]
pub(crate) enum ToInstance {
    Bind,
    Message { sequence: u64, is_redelivery: bool },
    Ask,
    RaiseFloor(u64),
    Renew(u64),
    Stalled,
}

/// A route from an entry zipper to an instance, with what is in flight. It may outlive its end: then it
/// brings a part of what was in flight, late.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) entry: usize,
    pub(crate) group: GroupId,
    pub(crate) instance: InstanceId,
    pub(crate) epoch: RouteEpoch,
    pub(crate) down: VecDeque<ToInstance>,
    pub(crate) up: VecDeque<ReceivingReport>,
    pub(crate) is_over: bool,
}

impl Route {
    pub(crate) fn send(&mut self, sequence: u64, is_redelivery: bool) {
        self.down.push_back(ToInstance::Message {
            sequence,
            is_redelivery,
        });
    }
}

/// What an instance has of one group of the flow.
#[derive(Debug)]
pub(crate) struct Receiving {
    pub(crate) flow: ReceivingFlow,
    pub(crate) queue: VecDeque<(u64, bool)>,
    /// What the handler is busy with.
    pub(crate) begun: Option<u64>,
}

impl Receiving {
    fn remove(&mut self, dropped: &SequenceSet) {
        self.queue.retain(|it| !dropped.contains(it.0));
    }
}

impl World {
    /// Sends what an entry zipper has for instances.
    pub(crate) fn drain(&mut self, at: usize) {
        while let Some(output) = self.entries[at]
            .as_mut()
            .and_then(|flow| flow.poll_instance_output())
        {
            let (group, instance, epoch) = (output.group, output.instance, output.epoch);
            let message = match output.kind {
                InstanceOutputKind::Bind => {
                    self.routes.push(Route {
                        entry: at,
                        group,
                        instance,
                        epoch,
                        down: VecDeque::new(),
                        up: VecDeque::new(),
                        is_over: false,
                    });
                    ToInstance::Bind
                }
                InstanceOutputKind::Unbind => {
                    self.end_routes(|it| it.entry == at && it.epoch == epoch);
                    continue;
                }
                InstanceOutputKind::Ask => ToInstance::Ask,
                InstanceOutputKind::RaiseFloor(floor) => ToInstance::RaiseFloor(floor),
                InstanceOutputKind::Renew(stamp) => ToInstance::Renew(stamp),
                InstanceOutputKind::Stalled(_) => {
                    self.note_stalled(instance);
                    ToInstance::Stalled
                }
            };
            let mut routes = self.routes.iter_mut();
            let route = routes.find(|it| it.entry == at && it.epoch == epoch);
            if let Some(route) = route.filter(|it| !it.is_over) {
                route.down.push_back(message);
            }
        }
    }

    pub(crate) fn pump_routes(&mut self) {
        if self.routes.is_empty() {
            return;
        }
        for _ in 0..4 {
            let at = self.rng.usize(..self.routes.len());
            for _ in 0..self.rng.u32(..20) {
                self.pump_route(at);
            }
            self.give_room(at);
        }
        self.routes
            .retain(|it| !(it.is_over && it.down.is_empty() && it.up.is_empty()));
    }

    fn give_room(&mut self, at: usize) {
        let route = &self.routes[at];
        let (entry, group, instance) = (route.entry, route.group, route.instance);
        if route.down.len() * 2 > self.room || !self.full.remove(&(entry, group, instance)) {
            return;
        }
        let bytes = self.rng.u64(1..5000);
        if let Some(flow) = &mut self.entries[entry] {
            flow.handle_room(group, instance, bytes);
            self.drain(entry);
        }
    }

    fn pump_route(&mut self, at: usize) {
        let route = &mut self.routes[at];
        let (entry, group, id) = (route.entry, route.group, route.instance);
        let epoch = route.epoch;
        if let Some(report) = route.up.pop_front()
            && let Some(flow) = &mut self.entries[entry]
        {
            flow.handle_report(self.now, group, id, &report);
            self.drain(entry);
            self.poll_entry(entry);
        }
        let now = self.now;
        let Some(message) = self.next_on_route(at) else {
            return;
        };
        if matches!(message, ToInstance::Stalled) {
            return self.end_stalled(id);
        }
        let mut is_busy = self.rng.bool();
        let Some(process) = self.processes.iter_mut().find(|it| it.id == id) else {
            return;
        };
        is_busy |= process.busy_until > now;
        let lease = self.settings.lease;
        let receiving = process.flows.entry(group).or_insert_with(|| Receiving {
            flow: ReceivingFlow::new(lease),
            queue: VecDeque::new(),
            begun: None,
        });
        match message {
            ToInstance::Bind => {
                if let Some(dropped) = receiving.flow.bind(now, epoch) {
                    receiving.remove(&dropped);
                    self.send_reports(id, group);
                }
            }
            ToInstance::Message {
                sequence,
                is_redelivery,
            } => {
                let is_idle = receiving.queue.is_empty() && receiving.begun.is_none() && !is_busy;
                if is_idle && receiving.flow.may_process(now) {
                    let receipt = receiving.flow.receive_and_process(epoch, sequence);
                    if receipt == Receipt::New {
                        process.progress += 1;
                        self.judge
                            .handled(group, id, sequence, is_redelivery, self.now);
                    }
                } else if receiving.flow.receive(epoch, sequence) == Receipt::New {
                    receiving.queue.push_back((sequence, is_redelivery));
                }
            }
            ToInstance::Ask => {
                receiving.flow.handle_ask(epoch);
                self.send_reports(id, group);
            }
            ToInstance::RaiseFloor(floor) => receiving.flow.raise_floor(floor),
            ToInstance::Renew(stamp) => receiving.flow.handle_renew(epoch, stamp),
            ToInstance::Stalled => unreachable!("handled before"),
        }
    }

    /// What a route brings next. An instance that is busy reads no messages beyond some. Control messages have a lane
    /// of their own, so they may overtake messages.
    fn next_on_route(&mut self, at: usize) -> Option<ToInstance> {
        let (group, id) = (self.routes[at].group, self.routes[at].instance);
        let process = self.processes.iter().find(|it| it.id == id);
        let busy = process.filter(|it| it.busy_until > self.now);
        let held = busy.and_then(|it| it.flows.get(&group));
        let is_full = held.is_some_and(|it| it.queue.len() >= self.room);
        let down = &mut self.routes[at].down;
        let is_message = |it: &ToInstance| matches!(it, ToInstance::Message { .. });
        let control = down.iter().position(|it| !is_message(it));
        let next = match is_full {
            true => control?,
            false => control.filter(|_| self.rng.bool()).unwrap_or(0),
        };
        down.remove(next)
    }

    /// An instance sends what it has to report. Reports may be lost with their route.
    fn send_reports(&mut self, id: InstanceId, group: GroupId) {
        let mut processes = self.processes.iter_mut();
        let Some(process) = processes.find(|it| it.id == id) else {
            return;
        };
        let progress = process.progress;
        let Some(receiving) = process.flows.get_mut(&group) else {
            return;
        };
        while let Some(report) = receiving.flow.poll_report(self.now, progress) {
            let mut routes = self.routes.iter_mut();
            let route = routes.find(|it| it.instance == id && it.epoch == report.epoch);
            if let Some(route) = route.filter(|it| !it.is_over) {
                route.up.push_back(report);
            }
        }
    }

    /// Handlers process what is held, and instances report.
    pub(crate) fn work(&mut self) {
        let all = self.processes.iter();
        let all = all.flat_map(|it| it.flows.keys().map(|&group| (it.id, group)));
        for (id, group) in all.collect::<Vec<_>>() {
            for _ in 0..self.rng.u32(..15) {
                if !self.work_once(id, group) {
                    break;
                }
            }
            if self.rng.bool() {
                self.send_reports(id, group);
            }
        }
    }

    fn work_once(&mut self, id: InstanceId, group: GroupId) -> bool {
        let is_slow = self.rng.u8(..4) == 0;
        let mut processes = self.processes.iter_mut();
        let process = processes.find(|it| it.id == id && it.busy_until <= self.now);
        let Some(process) = process else { return false };
        let Some(receiving) = process.flows.get_mut(&group) else {
            return false;
        };
        if let Some(sequence) = receiving.begun {
            if !is_slow {
                receiving.flow.process(sequence);
                receiving.begun = None;
                process.progress += 1;
            }
            return !is_slow;
        }
        if receiving.queue.is_empty() || !receiving.flow.may_process(self.now) {
            return false;
        }
        let Some((sequence, is_redelivery)) = receiving.queue.pop_front() else {
            return false;
        };
        assert!(receiving.flow.begin(sequence), "what is queued is held");
        self.judge
            .handled(group, id, sequence, is_redelivery, self.now);
        receiving.begun = Some(sequence);
        true
    }

    /// Instances whose lease has ended stop, and those that hold messages report.
    pub(crate) fn pass_at_instances(&mut self) {
        let mut holding = Vec::new();
        for process in &mut self.processes {
            let mut has_lease = !process.flows.is_empty();
            for (&group, receiving) in &mut process.flows {
                let dropped = receiving.flow.handle_timeout(self.now);
                receiving.remove(&dropped);
                let is_permitted = receiving.flow.is_permitted(self.now);
                has_lease &= is_permitted;
                if !is_permitted {
                    self.judge.lapsed(group, process.id, self.now);
                }
                holding.push((process.id, group));
            }
            if !has_lease && self.now >= process.since + self.settings.lease {
                self.judge.lost(&self.groups[process.group].name);
            }
        }
        for (id, group) in holding {
            if self.rng.bool() {
                self.send_reports(id, group);
            }
        }
    }
}
