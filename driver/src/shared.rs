//! What an endpoint's handles and its worker share: two queues, and a bell.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::task::Waker;

use crossbeam_channel::{Receiver, Sender, bounded};
use selvedge_endpoint::{CloseReason, Event, LaneId, Message, Outbox, Stats};
use selvedge_transport::{Info, NodeId};

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
    pub(crate) readable: Readable,
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
    pub(crate) transport: Option<Arc<Info>>,
}

/// Bytes taken off each lane, for which the peer gets credit.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Up to the last lane that anything was taken off.
    bytes: Vec<u64>,
    total: u64,
}

impl Taken {
    pub(crate) fn add(&mut self, lane: LaneId, cost: u64) {
        let lane = usize::from(lane.number());
        if self.bytes.len() <= lane {
            self.bytes.resize(lane + 1, 0);
        }
        self.bytes[lane] += cost;
        self.total += cost;
    }

    pub(crate) fn merge(&mut self, other: &mut Self) {
        let lanes = self.bytes.len().max(other.bytes.len());
        self.bytes.resize(lanes, 0);
        for (bytes, more) in self.bytes.iter_mut().zip(&mut other.bytes) {
            *bytes += std::mem::take(more);
        }
        self.total += std::mem::take(&mut other.total);
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
    /// Gives back memory that past traffic has left in empty queues.
    pub(crate) fn shrink(&mut self) {
        if self.messages.is_empty() {
            self.messages.shrink_to_fit();
        }
        if self.events.is_empty() {
            self.events.shrink_to_fit();
        }
    }

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

/// The channel of those who select over endpoints: made when it is first asked for, since it takes
/// 640 bytes, a tenth of what an idle endpoint may.
#[derive(Debug, Default)]
pub(crate) struct Readable(OnceLock<(Sender<()>, Receiver<()>)>);

impl Readable {
    pub(crate) fn receiver(&self) -> &Receiver<()> {
        let (_, receiver) = self.0.get_or_init(|| {
            let (sender, receiver) = bounded(1);
            // What came before it was there was not signalled.
            let _has_room = sender.try_send(());
            (sender, receiver)
        });
        receiver
    }

    /// To be called behind the lock under which messages or events were put in: who made the channel
    /// and looked there before is seen here, and who makes it later finds the signal in it.
    pub(crate) fn signal(&self) {
        if let Some((sender, _)) = self.0.get() {
            // A full channel says already what this would.
            let _already_signalled = sender.try_send(());
        }
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

    /// Has the worker look if somebody waits for what the peer must be asked for. To be called before
    /// waiting for room.
    pub(crate) fn ring_if_awaited(self: &Arc<Self>, outbox: &Outbox) {
        if outbox.is_awaited() {
            self.ring();
        }
    }

    pub(crate) fn ask(self: &Arc<Self>, control: Control) {
        lock(&self.control).push_back(control);
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_merged_is_credit_for_lanes_that_nothing_was_taken_off_before() {
        let take = |taken: &mut Taken, lane| {
            taken.add(LaneId::new(lane).unwrap(), 5);
        };
        let (mut all, mut more) = (Taken::default(), Taken::default());
        take(&mut all, 0);
        take(&mut more, 0);
        take(&mut more, 2);
        all.merge(&mut more);
        assert_eq!((all.total(), more.total()), (15, 0));
        let mut credit = Vec::new();
        all.drain(|lane, bytes| credit.push((lane.number(), bytes)));
        assert_eq!(credit, [(0, 10), (2, 5)]);
    }
}
