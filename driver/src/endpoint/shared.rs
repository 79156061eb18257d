//! The state that the handles of an endpoint share with its worker: two queues and a wake flag.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use selvedge_endpoint::{LaneId, SendBuffer};
use selvedge_transport::NodeId;

use super::received::{ReadableSignal, ReceivedData};
use super::waiters::Waiters;
use crate::SessionConfig;
use crate::connected::Connected;
use crate::sync::lock;
use crate::wake::{WakeFlag, WorkerHandle};

/// Handles to all workers of a driver, by number.
pub(crate) type Workers = Arc<[WorkerHandle<Arc<EndpointShared>>]>;

/// A command of the user, executed on the worker on which the endpoint lives. It is queued with the
/// endpoint, and so moves with it.
#[derive(Debug)]
pub(crate) enum EndpointCommand {
    Attach(Connected),
    Admit(LaneId),
    Close,
    CloseWithin(Duration),
    Abort,
    Migrate(usize),
    Resume,
}

/// Shared by the handles of an endpoint and its worker.
#[derive(Debug)]
pub(crate) struct EndpointShared {
    pub(crate) local: NodeId,
    pub(crate) peer: NodeId,
    /// After so many bytes consumed the worker is woken to grant credit: an eighth of the window, so that
    /// wake-ups are few and the peer never runs dry.
    pub(crate) credit_step: u64,
    pub(crate) send_buffer: Mutex<SendBuffer>,
    /// Wait for room in the send buffer, or for acknowledgements.
    pub(crate) send_waiters: Waiters,
    pub(crate) received: Mutex<ReceivedData>,
    /// Wait for messages or events.
    pub(crate) receive_waiters: Waiters,
    pub(crate) commands: Mutex<VecDeque<EndpointCommand>>,
    pub(crate) readable: ReadableSignal,
    pub(crate) wake_flag: WakeFlag,
    pub(crate) workers: Workers,
}

impl EndpointShared {
    /// The state of a new endpoint, which will live on the worker `home`.
    pub(crate) fn new(
        config: &SessionConfig,
        local: NodeId,
        peer: NodeId,
        home: usize,
        workers: Workers,
    ) -> Self {
        Self {
            local,
            peer,
            credit_step: config.receive_window / 8,
            send_buffer: Mutex::new(SendBuffer::new(config)),
            send_waiters: Waiters::default(),
            received: Mutex::new(ReceivedData::default()),
            receive_waiters: Waiters::default(),
            commands: Mutex::default(),
            readable: ReadableSignal::default(),
            wake_flag: WakeFlag::new(home),
            workers,
        }
    }

    /// Requests a turn on the worker, unless one is requested already.
    #[inline]
    pub(crate) fn wake_worker(self: &Arc<Self>) {
        if let Some(home) = self.wake_flag.set() {
            self.workers[home].wake(Arc::clone(self));
        }
    }

    /// Requests a turn if a waiter needs an answer of the peer. Call before waiting for room.
    pub(crate) fn wake_worker_if_awaited(self: &Arc<Self>, send_buffer: &SendBuffer) {
        if send_buffer.is_awaited() {
            self.wake_worker();
        }
    }

    /// Enqueues a command.
    pub(crate) fn command(self: &Arc<Self>, command: EndpointCommand) {
        lock(&self.commands).push_back(command);
        self.wake_worker();
    }
}
