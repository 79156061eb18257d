//! Routes to instances, and their handlers.

use selvedge_client::settlement::Receipt;

use crate::world::{ToInstance, World};

impl World {
    pub(crate) fn pump_routes(&mut self) {
        if self.routes.is_empty() {
            return;
        }
        for _ in 0..4 {
            let at = self.rng.usize(..self.routes.len());
            for _ in 0..self.rng.u32(..20) {
                self.pump_route(at);
            }
        }
        self.routes
            .retain(|it| !(it.is_over && it.down.is_empty() && it.up.is_empty()));
    }

    fn pump_route(&mut self, at: usize) {
        let route = &mut self.routes[at];
        let (entry, id, epoch) = (route.entry, route.instance, route.epoch);
        if let Some(report) = route.up.pop_front()
            && let Some(flow) = &mut self.entries[entry]
        {
            flow.handle_report(id, &report);
            flow.report();
            self.drain(entry);
        }
        let route = &mut self.routes[at];
        let Some(message) = route.down.pop_front() else {
            return;
        };
        let Some(process) = self.processes.iter_mut().find(|it| it.id == id) else {
            return;
        };
        match message {
            ToInstance::Bind => {
                if let Some(report) = process.flow.bind(epoch)
                    && !route.is_over
                {
                    route.up.push_back(report);
                }
            }
            ToInstance::Message {
                sequence,
                is_redelivery,
            } => {
                if process.flow.receive(epoch, sequence) == Receipt::New {
                    process.queue.push_back((sequence, is_redelivery));
                }
            }
            ToInstance::RaiseFloor(floor) => process.flow.raise_floor(floor),
        }
    }

    /// Handlers process what is held, and instances report.
    pub(crate) fn work(&mut self) {
        for at in 0..self.processes.len() {
            let (group, id) = (self.processes[at].group, self.processes[at].id);
            let key = self.key(group, id);
            for _ in 0..self.rng.u32(..15) {
                let process = &mut self.processes[at];
                let Some((sequence, is_redelivery)) = process.queue.pop_front() else {
                    break;
                };
                process.flow.process(sequence);
                self.judge.handled(&key, id, sequence, is_redelivery);
            }
            let process = &mut self.processes[at];
            if self.rng.bool()
                && let Some(report) = process.flow.take_news()
            {
                let mut routes = self.routes.iter_mut();
                let route =
                    routes.find(|it| it.instance == id && it.epoch == report.epoch && !it.is_over);
                if let Some(route) = route {
                    route.up.push_back(report);
                }
            }
        }
    }
}
