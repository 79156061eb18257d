//! The endpoints that live on a worker.

use std::sync::Arc;

use selvedge_transport::Instant;
use slab::Slab;

use super::connections::Connections;
use super::hosted_endpoint::{HostedEndpoint, TurnEnd};
use super::placement::Candidate;
use super::schedule::Schedule;
use crate::endpoint::EndpointShared;

/// The table of endpoints, by the index that their connections and timers refer to.
pub(super) struct EndpointTable {
    /// Boxed each: the table may be twice as long as it has entries.
    endpoints: Slab<Box<HostedEndpoint>>,
}

impl EndpointTable {
    pub(super) const fn new() -> Self {
        Self {
            endpoints: Slab::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    pub(super) fn indices(&self) -> Vec<usize> {
        self.endpoints.iter().map(|(index, _)| index).collect()
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut HostedEndpoint> {
        self.endpoints.get_mut(index).map(|it| &mut **it)
    }

    /// The work of each endpoint since the last call.
    pub(super) fn candidates(&mut self, now: Instant) -> Vec<Candidate> {
        let endpoints = self.endpoints.iter_mut();
        endpoints.map(|(key, it)| it.candidate(key, now)).collect()
    }

    /// Whether the endpoint at this index is that one.
    pub(super) fn holds(&self, index: usize, shared: &Arc<EndpointShared>) -> bool {
        let endpoint = self.endpoints.get(index);
        endpoint.is_some_and(|it| it.belongs_to(shared))
    }

    /// Adds an endpoint that is new or comes from another worker. Returns its index. It must have a turn
    /// next.
    pub(super) fn insert(
        &mut self,
        endpoint: Box<HostedEndpoint>,
        connections: &mut Connections,
    ) -> usize {
        let entry = self.endpoints.vacant_entry();
        let index = entry.key();
        entry.insert(endpoint).arrive(index, connections);
        index
    }

    /// Removes an endpoint, with its transports, that leaves for another worker.
    pub(super) fn remove_for(
        &mut self,
        worker: usize,
        index: usize,
        connections: &mut Connections,
    ) -> Option<Box<HostedEndpoint>> {
        let mut endpoint = self.endpoints.try_remove(index)?;
        endpoint.leave_for(worker, connections);
        Some(endpoint)
    }

    /// One turn of an endpoint; `readable` is the connection that may have received something, if that
    /// caused the turn. Returns the worker to which the endpoint is to move.
    pub(super) fn turn(
        &mut self,
        index: usize,
        readable: Option<usize>,
        connections: &mut Connections,
        schedule: &mut Schedule,
    ) -> Option<usize> {
        let readable = readable.and_then(|connection| {
            let (_, attachment) = connections.endpoint(connection)?;
            Some((connection, attachment))
        });
        let endpoint = self.endpoints.get_mut(index)?;
        match endpoint.turn(index, readable, connections, schedule) {
            TurnEnd::Stay => None,
            TurnEnd::Migrate(worker) => Some(worker),
            TurnEnd::Remove => {
                self.endpoints.remove(index);
                None
            }
        }
    }

    /// Handles an expired timer of an endpoint. Returns the worker to which the endpoint is to move.
    pub(super) fn on_timer(
        &mut self,
        index: usize,
        connections: &mut Connections,
        schedule: &mut Schedule,
    ) -> Option<usize> {
        let is_due = self.get_mut(index)?.on_timer(index, schedule);
        let destination = if is_due {
            self.turn(index, None, connections, schedule)
        } else {
            None
        };
        if let Some(endpoint) = self.get_mut(index) {
            endpoint.shrink_if_idle();
        }
        destination
    }

    /// The worker stops: closes an endpoint in order if its peer is connected, else at once.
    pub(super) fn wind_up(
        &mut self,
        index: usize,
        connections: &mut Connections,
        schedule: &mut Schedule,
    ) {
        match self.get_mut(index) {
            Some(endpoint) if endpoint.is_attached() => {
                endpoint.close(schedule.now);
                self.flush(index, connections, schedule);
            }
            Some(_) => self.abandon(index, connections, schedule),
            None => {}
        }
    }

    /// Ends an endpoint at once, and notifies its peer.
    pub(super) fn abandon(
        &mut self,
        index: usize,
        connections: &mut Connections,
        schedule: &mut Schedule,
    ) {
        if let Some(endpoint) = self.get_mut(index) {
            endpoint.abandon();
            self.flush(index, connections, schedule);
        }
    }

    /// Sends what the session of an endpoint has to send.
    fn flush(&mut self, index: usize, connections: &mut Connections, schedule: &mut Schedule) {
        if let Some(endpoint) = self.get_mut(index) {
            endpoint.transmit(connections, schedule);
            let end = endpoint.end_turn(index, Vec::new(), connections, schedule);
            if end == TurnEnd::Remove {
                self.endpoints.remove(index);
            }
        }
    }
}
