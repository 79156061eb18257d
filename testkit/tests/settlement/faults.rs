//! What befalls zippers, routes and instances.

use std::time::Duration;

use selvedge_client::settlement::InstanceId;
use selvedge_hub::Instant;

use crate::routes::Route;
use crate::world::{ENTRIES, Process, World};

impl World {
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

    /// A fault.
    pub(crate) fn befall(&mut self) {
        let entry = self.rng.usize(..ENTRIES);
        match self.rng.u32(..20) {
            0 => self.crash_entry(entry),
            1 => {
                // The entry zipper that it leaves may not know.
                self.attach(entry);
            }
            2..=4 => self.flip_route(entry),
            5 => self.end_process(),
            6 => {
                let group = self.rng.usize(..self.groups.len());
                self.join(group);
            }
            7 => self.change_route(entry),
            8 => {
                let time = self.rng.u64(1..60);
                self.pass(Duration::from_secs(time));
            }
            9 => self.leave(),
            10 => self.lose_in_route(),
            11 => self.change_policy(),
            12 => self.strand(entry),
            14 => {
                self.is_forbidden = !self.is_forbidden;
                self.change_permission();
            }
            16 => self.change_preferred(),
            17 | 18 => self.block_any(),
            13 => {
                let time = Duration::from_secs(self.rng.u64(1..40));
                self.note(format!("the way to entry {entry} is stalled for {time:?}"));
                self.stalled_until[entry] = self.now + time;
            }
            _ => {
                self.is_stalled = !self.is_stalled;
                self.note(format!(
                    "the way to the source is stalled: {}",
                    self.is_stalled
                ));
            }
        }
    }

    /// A route loses what it carries from now on. The entry zipper is informed, or not.
    fn lose_in_route(&mut self) {
        if self.routes.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.routes.len());
        let route = &self.routes[at];
        let (entry, group, id, epoch) = (route.entry, route.group, route.instance, route.epoch);
        self.note(format!("the route {epoch:?} to {id:?} loses messages"));
        self.end_routes(|it| it.entry == entry && it.epoch == epoch);
        let (is_noticed, lacks_room) = (self.rng.bool(), epoch.route.is_multiple_of(2));
        if let Some(flow) = self.entries[entry].as_mut().filter(|_| is_noticed) {
            flow.handle_loss(self.now, (group, id), epoch, lacks_room);
            self.drain(entry);
        }
    }

    /// The source moves away from an instance that has messages: the next entry zipper does not reach it, and
    /// the former one does.
    fn strand(&mut self, next: usize) {
        let index = self.rng.usize(..self.processes.len().max(1));
        if index >= self.processes.len() || self.attached == Some(next) {
            return;
        }
        let time = Duration::from_secs(self.rng.u64(20..60));
        let process = &mut self.processes[index];
        process.busy_until = self.now + time;
        let (id, is_reached) = (process.id, process.reached_by[next]);
        process.reached_by[next] = false;
        self.note(format!(
            "{id:?} is busy for {time:?}, and out of reach of entry {next}"
        ));
        if is_reached && let Some(flow) = &mut self.entries[next] {
            flow.handle_route_lost(self.now, id);
            self.drain(next);
        }
        for _ in 0..self.rng.u32(..200) {
            self.write();
            self.step();
        }
        self.attach(next);
        // Long enough for the lease to end.
        let end = self.now + time;
        while self.now < end {
            if self.rng.u8(..4) == 0 {
                self.write();
            }
            self.step();
            self.pass(Duration::from_millis(50));
        }
    }

    /// The instances of a group receive every message each, or share them.
    fn change_policy(&mut self) {
        let at = self.rng.usize(..self.groups.len());
        let group = &mut self.groups[at];
        if group.is_always_there {
            return;
        }
        group.is_each = !group.is_each;
        let note = format!("{} is for each: {}", group.name, group.is_each);
        self.note(note);
        for entry in 0..ENTRIES {
            self.set_groups(entry);
        }
    }

    /// Zippers are informed whether the source may write the tag.
    fn change_permission(&mut self) {
        self.note(format!("the source is forbidden: {}", self.is_forbidden));
        for entry in 0..ENTRIES {
            self.set_groups(entry);
        }
    }

    /// One of the instances of a group receives all new messages, or none is preferred any more.
    fn change_preferred(&mut self) {
        let at = self.rng.usize(..self.groups.len());
        let instances = self.processes.iter().filter(|it| it.group == at);
        let instances: Vec<_> = instances.map(|it| it.id).collect();
        let preferred = self.rng.choice(&instances).copied();
        self.groups[at].preferred = preferred.filter(|_| self.rng.u8(..4) > 0);
        let group = &self.groups[at];
        let note = format!("{} prefers {:?}", group.name, group.preferred);
        self.note(note);
        for entry in 0..ENTRIES {
            self.set_groups(entry);
        }
    }

    fn crash_entry(&mut self, at: usize) {
        self.note(format!("entry {at} crashes"));
        self.entries[at] = None;
        self.to_entry[at].clear();
        self.to_source[at].clear();
        self.end_routes(|it| it.entry == at);
        if self.attached == Some(at) {
            let next = self.rng.usize(..ENTRIES);
            self.attach(next);
        }
    }

    fn flip_route(&mut self, at: usize) {
        if self.processes.is_empty() {
            return;
        }
        let index = self.rng.usize(..self.processes.len());
        let process = &mut self.processes[index];
        let id = process.id;
        process.reached_by[at] = !process.reached_by[at];
        if process.reached_by[at] {
            self.note(format!("entry {at} reaches {id:?}"));
            return self.begin_route(at, id);
        }
        self.note(format!("entry {at} loses {id:?}"));
        self.end_routes(|it| it.entry == at && it.instance == id);
        if let Some(flow) = &mut self.entries[at] {
            flow.handle_route_lost(self.now, id);
            self.drain(at);
        }
    }

    fn change_route(&mut self, at: usize) {
        let reached = self.processes.iter().filter(|it| it.reached_by[at]);
        let reached: Vec<_> = reached.map(|it| it.id).collect();
        if let Some(&id) = self.rng.choice(&reached) {
            self.note(format!("entry {at} takes another route to {id:?}"));
            self.begin_route(at, id);
        }
    }

    fn end_process(&mut self) {
        let index = self.rng.usize(..self.processes.len().max(1));
        if index >= self.processes.len() {
            return;
        }
        let Process { id, group, .. } = self.processes.remove(index);
        self.ghosts.clear();
        if self.rng.bool() {
            self.ghosts.push((group, id));
        }
        self.note(format!("{id:?} dies"));
        self.judge.died(id);
        let name = self.groups[group].name.clone();
        self.judge.lost(&name);
        self.end_routes(|it| it.instance == id);
        // Its zipper notices at once, or it loses its lease.
        let is_noticed = self.rng.bool();
        for at in 0..ENTRIES {
            if let Some(flow) = &mut self.entries[at] {
                match is_noticed {
                    true => flow.handle_death(self.now, id),
                    false => flow.handle_route_lost(self.now, id),
                }
                self.drain(at);
            }
        }
        if self.rng.bool() || self.groups[group].is_always_there {
            self.join(group);
        }
    }

    /// An instance leaves in order: its last report arrives, and it processes nothing more.
    fn leave(&mut self) {
        let index = self.rng.usize(..self.processes.len().max(1));
        let Some(process) = self.processes.get_mut(index) else {
            return;
        };
        let (id, group) = (process.id, process.group);
        let is_reached = self
            .attached
            .is_some_and(|at| process.reached_by[at] && self.entries[at].is_some());
        if self.groups[group].is_always_there || !is_reached {
            return;
        }
        let mut reports = Vec::new();
        for (&group, receiving) in &mut process.flows {
            if let Some(sequence) = receiving.begun {
                receiving.flow.process(sequence);
            }
            receiving.flow.leave();
            while let Some(report) = receiving.flow.poll_report(self.now, process.progress) {
                reports.push((group, report));
            }
        }
        self.processes.remove(index);
        self.judge.died(id);
        let name = self.groups[group].name.clone();
        self.judge.lost(&name);
        self.note(format!("{id:?} leaves"));
        self.end_routes(|it| it.instance == id);
        for at in 0..ENTRIES {
            if let Some(flow) = &mut self.entries[at] {
                for (group, report) in &reports {
                    flow.handle_report(self.now, *group, id, report);
                }
                flow.handle_leave(self.now, id);
                self.drain(at);
            }
        }
    }

    /// An instance stops reading for long, or for ever.
    fn block_any(&mut self) {
        let instances = self.processes.iter().map(|it| it.id);
        let instances: Vec<_> = instances.collect();
        if let Some(&id) = self.rng.choice(&instances) {
            let until = match self.rng.u8(..4) {
                0 => Instant::FAR_FUTURE,
                _ => self.now + Duration::from_secs(self.rng.u64(5..120)),
            };
            self.block(id, until);
        }
    }

    pub(crate) fn block(&mut self, id: InstanceId, until: Instant) {
        self.note(format!("{id:?} is blocked until {until:?}"));
        let process = self.processes.iter_mut().find(|it| it.id == id);
        process.expect("it is there").busy_until = until;
    }

    /// An entry zipper has given up an instance that does not proceed.
    pub(crate) fn note_stalled(&mut self, id: InstanceId) {
        self.note(format!("{id:?} has stalled"));
        self.judge.stalled(id, self.now);
        if let Some(process) = self.processes.iter().find(|it| it.id == id) {
            self.judge.lost(&self.groups[process.group].name);
        }
    }

    /// The zipper of an instance disconnects it: it is another one when it proceeds.
    pub(crate) fn end_stalled(&mut self, id: InstanceId) {
        let Some(at) = self.processes.iter().position(|it| it.id == id) else {
            return;
        };
        self.note(format!("{id:?} is disconnected"));
        let Process {
            group, busy_until, ..
        } = self.processes.remove(at);
        self.judge.died(id);
        self.returning.push((busy_until, group));
        self.end_routes(|it| it.instance == id);
        for entry in 0..ENTRIES {
            if let Some(flow) = &mut self.entries[entry] {
                flow.handle_route_lost(self.now, id);
                self.drain(entry);
            }
            self.set_groups(entry);
        }
    }

    pub(crate) fn return_stalled(&mut self) {
        let now = self.now;
        let due = self.returning.extract_if(.., |it| now >= it.0);
        for (_, group) in due.collect::<Vec<_>>() {
            self.join(group);
        }
    }

    /// All faults are over, and every entry zipper reaches every instance.
    pub(crate) fn heal(&mut self) {
        self.note("all faults are over");
        self.is_stalled = false;
        self.is_forbidden = false;
        self.stalled_until = [self.now; ENTRIES];
        self.room = usize::MAX;
        self.ghosts.clear();
        for (_, group) in std::mem::take(&mut self.returning) {
            self.join(group);
        }
        if self.attached.is_none() {
            self.attach(0);
        }
        for process in &mut self.processes {
            process.busy_until = self.now;
        }
        // Routers do not list what has left.
        for entry in 0..ENTRIES {
            self.set_groups(entry);
        }
        for index in 0..self.processes.len() {
            for at in 0..ENTRIES {
                let (id, reached) = (
                    self.processes[index].id,
                    self.processes[index].reached_by[at],
                );
                if !reached {
                    self.processes[index].reached_by[at] = true;
                    self.begin_route(at, id);
                }
            }
        }
    }
}
