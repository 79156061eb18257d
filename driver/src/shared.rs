//! What an endpoint's handles and its worker share: two queues, and a bell.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::task::Waker;

use crossbeam_channel::{Receiver, Sender};
use selvedge_endpoint::{CloseReason, Event, LaneId, Message, Outbox, Stats};
use selvedge_transport::{Info, LANES_MAX, NodeId};

use crate::bells::Bell;
use crate::driver::Connected;
pub(crate) use crate::sync::lock;
use crate::worker::Mailbox;

/// Events that wait for a user who does not ask for them; older ones about transports make room.
const EVENTS_MAX: usize = 256;

/// What a user asks of an endpoint, carried to wherever it lives.
#[derive(Debug)]
pub(crate) enum Control {
    Attach(Connected),
    Close,
    Abort,
    Migrate(usize),
    Resume,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) local: NodeId,
    pub(crate) peer: NodeId,
    /// Credit is passed on when a reader has taken this much: an eighth of the window, so that
    /// wake-ups are few and the peer never runs dry.
    pub(crate) credit_step: u64,
    pub(crate) outbox: Mutex<Outbox>,
    pub(crate) sending: Waiting,
    pub(crate) received: Mutex<Received>,
    pub(crate) receiving: Waiting,
    pub(crate) control: Mutex<VecDeque<Control>>,
    pub(crate) readable: (Sender<()>, Receiver<()>),
    pub(crate) bell: Bell,
    pub(crate) mailboxes: Arc<[Mailbox]>,
}

/// What has arrived and was not taken, and how much was taken.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) messages: VecDeque<Message>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) taken: Taken,
    pub(crate) closed: Option<CloseReason>,
    pub(crate) stats: Stats,
    pub(crate) transport: Option<Info>,
}

/// Bytes taken off each lane, for which the peer gets credit.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    bytes: [u64; LANES_MAX],
    total: u64,
}

impl Taken {
    pub(crate) fn add(&mut self, message: &Message) {
        let cost = message.cost();
        self.bytes[usize::from(message.lane.number())] += cost;
        self.total += cost;
    }

    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn drain(&mut self, mut taken: impl FnMut(LaneId, u64)) {
        if self.total == 0 {
            return;
        }
        self.total = 0;
        for (number, bytes) in (0..).zip(&mut self.bytes) {
            if *bytes > 0
                && let Some(lane) = LaneId::new(number)
            {
                taken(lane, std::mem::take(bytes));
            }
        }
    }
}

impl Received {
    /// Keeps an event for the user. Those that carry messages are never dropped.
    pub(crate) fn push_event(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            let carries = |event: &Event| {
                use Event::{Closed, Dropped, PeerRestarted};
                matches!(event, PeerRestarted { .. } | Closed { .. } | Dropped { .. })
            };
            if let Some(at) = self.events.iter().position(|event| !carries(event)) {
                self.events.remove(at);
            }
        }
        self.events.push_back(event);
    }
}

/// Threads and tasks that wait for one condition.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) threads: Condvar,
    tasks: Mutex<Vec<Waker>>,
}

impl Waiting {
    /// Remembers a task until the next [`notify`](Self::notify).
    pub(crate) fn register(&self, waker: &Waker) {
        let mut tasks = lock(&self.tasks);
        if !tasks.iter().any(|known| known.will_wake(waker)) {
            tasks.push(waker.clone());
        }
    }

    pub(crate) fn notify(&self) {
        self.threads.notify_all();
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.into_iter().for_each(Waker::wake);
    }
}

impl Shared {
    /// Lets the worker know that there is something to do, once until it looks.
    pub(crate) fn ring(self: &Arc<Self>) {
        if let Some(home) = self.bell.ring() {
            self.mailboxes[home].ring(Arc::clone(self));
        }
    }

    pub(crate) fn ask(self: &Arc<Self>, control: Control) {
        lock(&self.control).push_back(control);
        self.ring();
    }
}
