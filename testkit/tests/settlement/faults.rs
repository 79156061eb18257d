//! What befalls zippers, routes and instances.

use std::time::Duration;

use crate::world::{ENTRIES, Process, World};

impl World {
    /// Instances that may have lost their lease become other ones.
    pub(crate) fn fence(&mut self) {
        let lease = self.settings.lease * 9 / 10;
        for at in 0..self.processes.len() {
            let process = &mut self.processes[at];
            if self.now < process.heard + lease {
                continue;
            }
            let (id, group) = (process.id, process.group);
            process.flow.fence();
            self.judge.died(id);
            let name = self.groups[group].name.clone();
            self.judge.lost(&name);
            self.processes.remove(at);
            self.note(format!("{id:?} is fenced"));
            self.join(group);
            return self.fence();
        }
    }

    /// A fault.
    pub(crate) fn befall(&mut self) {
        let entry = self.rng.usize(..ENTRIES);
        match self.rng.u32(..12) {
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
            _ => {
                self.is_stalled = !self.is_stalled;
                self.note(format!(
                    "the way to the source is stalled: {}",
                    self.is_stalled
                ));
            }
        }
    }

    fn crash_entry(&mut self, at: usize) {
        self.note(format!("entry {at} crashes"));
        self.entries[at] = None;
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
        let report = process.flow.report();
        self.processes.remove(index);
        self.judge.died(id);
        let name = self.groups[group].name.clone();
        self.judge.lost(&name);
        self.note(format!("{id:?} leaves"));
        self.end_routes(|it| it.instance == id);
        for at in 0..ENTRIES {
            if let Some(flow) = &mut self.entries[at] {
                if let Some(report) = &report {
                    flow.handle_report(id, report);
                }
                flow.handle_leave(self.now, id);
                flow.report();
                self.drain(at);
            }
        }
    }

    /// All faults are over, and every entry zipper reaches every instance.
    pub(crate) fn heal(&mut self) {
        self.note("all faults are over");
        self.is_stalled = false;
        self.ghosts.clear();
        if self.attached.is_none() {
            self.attach(0);
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
