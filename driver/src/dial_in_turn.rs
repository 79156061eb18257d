//! Dials the addresses of one name in turn, until one of them answers.

use std::sync::Arc;
use std::vec;

use selvedge_transport::{Address, DialError, DialTarget, Dialer, End, NodeId};

use crate::endpoint::Workers;
use crate::wake::{DialCallback, WorkerCommand};

/// A dial of a name, which may have several addresses, such as one of IPv6 and one of IPv4.
pub(crate) struct DialInTurn {
    pub(crate) workers: Workers,
    pub(crate) worker: usize,
    pub(crate) dialer: Arc<dyn Dialer>,
    pub(crate) peer: Option<NodeId>,
    /// The addresses that are not dialed yet.
    pub(crate) left: vec::IntoIter<Address>,
    /// The error that is reported if no address answers: that another node has answered, or the last.
    pub(crate) failure: Option<DialError>,
    pub(crate) done: DialCallback,
}

impl DialInTurn {
    /// Dials the first address. Blocks while the command queue of the worker is full.
    pub(crate) fn start(mut self, addresses: Vec<Address>) {
        self.left = addresses.into_iter();
        let workers = Arc::clone(&self.workers);
        let worker = self.worker;
        if let Some(command) = self.next_command() {
            workers[worker].send_or_drop(command);
        }
    }

    /// The command for the next address. Without one, the outcome is reported.
    fn next_command(mut self) -> Option<WorkerCommand> {
        let Some(address) = self.left.next() else {
            let none = || End::Closed.into();
            (self.done)(Err(self.failure.unwrap_or_else(none)));
            return None;
        };
        Some(WorkerCommand::Dial {
            dialer: Arc::clone(&self.dialer),
            target: DialTarget {
                address,
                peer: self.peer,
            },
            done: Box::new(move |result| match result {
                Ok(connected) => (self.done)(Ok(connected)),
                Err(error) => self.failed(error),
            }),
        })
    }

    /// Dials the next address. Called on a worker, so it does not block.
    fn failed(mut self, error: DialError) {
        let is_other_node =
            |error: &DialError| matches!(error, DialError::Ended(End::WrongPeer { .. }));
        if !self.failure.as_ref().is_some_and(is_other_node) {
            self.failure = Some(error.clone());
        }
        let workers = Arc::clone(&self.workers);
        let worker = self.worker;
        if let Some(command) = self.next_command()
            && let Some(WorkerCommand::Dial { done, .. }) =
                workers[worker].try_send_or_return(command)
        {
            // The queue of the worker is full: this address counts as failed.
            done(Err(error));
        }
    }
}
