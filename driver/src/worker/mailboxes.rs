//! The mailboxes of all workers, and the receiving side of one.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use mio::Poll;

use super::hosted_endpoint::HostedEndpoint;
use crate::endpoint::{EndpointShared, Workers};
use crate::wake::{Migrants, WorkerCommand, WorkerHandle};

/// Everything that can be sent to the workers of a driver: commands, wake-ups and endpoints. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Mailboxes {
    workers: Workers,
    migrants: Arc<[Migrants<HostedEndpoint>]>,
}

impl Mailboxes {
    /// The mailboxes of the workers with these polls, and the receiving side of each.
    pub(crate) fn new(polls: &[Poll]) -> std::io::Result<(Self, Vec<Intake>)> {
        let handles = polls.iter().map(|it| WorkerHandle::new(it.registry()));
        let handles: Vec<_> = handles.collect::<std::io::Result<_>>()?;
        let (handles, commands): (Vec<_>, Vec<_>) = handles.into_iter().unzip();
        let mailboxes = Self {
            workers: handles.into(),
            migrants: polls.iter().map(|_| Migrants::new()).collect(),
        };
        let intake = |(worker, commands)| Intake {
            worker,
            mailboxes: mailboxes.clone(),
            commands,
        };
        let intakes = (0..).zip(commands).map(intake).collect();
        Ok((mailboxes, intakes))
    }

    /// The handles to all workers.
    pub(crate) const fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Moves an endpoint to a worker, or returns it when the worker has stopped.
    pub(crate) fn adopt(
        &self,
        worker: usize,
        endpoint: HostedEndpoint,
    ) -> Result<(), Box<HostedEndpoint>> {
        self.migrants[worker].push(endpoint).map_err(Box::new)?;
        self.workers[worker].wake_if_asleep();
        Ok(())
    }
}

/// The receiving side of one worker's mailbox. When it is dropped, nothing is kept for the worker any more.
pub(crate) struct Intake {
    worker: usize,
    mailboxes: Mailboxes,
    commands: Receiver<WorkerCommand>,
}

impl Intake {
    /// The number of the worker.
    pub(super) const fn worker(&self) -> usize {
        self.worker
    }

    pub(super) const fn mailboxes(&self) -> &Mailboxes {
        &self.mailboxes
    }

    fn handle(&self) -> &WorkerHandle<Arc<EndpointShared>> {
        &self.mailboxes.workers[self.worker]
    }

    fn migrants(&self) -> &Migrants<HostedEndpoint> {
        &self.mailboxes.migrants[self.worker]
    }

    pub(super) fn next_command(&self) -> Option<WorkerCommand> {
        self.commands.try_recv().ok()
    }

    pub(super) fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Whether endpoints wait for a turn, or have been moved here.
    pub(super) fn has_endpoints(&self) -> bool {
        self.handle().has_pending() || !self.migrants().is_empty()
    }

    /// Moves the endpoints that wait for a turn into `into`, which is empty.
    pub(super) fn take_pending(&self, into: &mut Vec<Arc<EndpointShared>>) {
        self.handle().take_pending(into);
    }

    pub(super) fn take_migrants(&self) -> Vec<HostedEndpoint> {
        self.migrants().take()
    }

    /// Calls `poll` with `timeout`, or with zero if anything has been sent to the worker.
    pub(super) fn poll<T>(
        &self,
        timeout: Option<Duration>,
        poll: impl FnOnce(Option<Duration>) -> T,
    ) -> T {
        let is_empty = || !self.has_commands() && self.migrants().is_empty();
        self.handle().poll(timeout, is_empty, poll)
    }

    /// The worker stops: returns the endpoints that were moved here, and refuses later ones.
    pub(super) fn close(&self) -> Vec<HostedEndpoint> {
        self.migrants().close()
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.handle().abandon();
    }
}
