//! What an endpoint's handles and its worker share: two queues, and a bell.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use selvedge_endpoint::{CloseReason, EndpointStats, Event, LaneId, SendBuffer};
use selvedge_transport::{Info, NodeId};

use crate::bells::Bell;
use crate::driver::Connected;
use crate::queue::Queue;
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
    pub(crate) outbox: Mutex<SendBuffer>,
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
    pub(crate) messages: Queue,
    pub(crate) events: VecDeque<Event>,
    pub(crate) taken: Taken,
    pub(crate) closed: Option<CloseReason>,
    pub(crate) stats: EndpointStats,
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
    #[inline]
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
        self.messages.shrink();
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

/// Threads and tasks that wait for one condition on what lies behind one lock.
///
/// Who waits says so before it looks, or under that lock; who notifies has held the lock since. So
/// each sees the other, and mostly there is nobody: then [`notify`](Self::notify) makes no system
/// call, which a bare condition variable would.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    asleep: AtomicUsize,
    has_tasks: AtomicBool,
    threads: Condvar,
    tasks: Mutex<Vec<Waker>>,
}

impl Waiting {
    /// Sleeps until the next [`notify`](Self::notify), or for no reason.
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.asleep.fetch_add(1, Ordering::Relaxed);
        let waited = self.threads.wait(guard);
        self.asleep.fetch_sub(1, Ordering::Relaxed);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`wait`](Self::wait), at most for `timeout`.
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        self.asleep.fetch_add(1, Ordering::Relaxed);
        let waited = self.threads.wait_timeout(guard, timeout);
        self.asleep.fetch_sub(1, Ordering::Relaxed);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Remembers a task until the next [`notify`](Self::notify). To be called before it looks.
    pub(crate) fn register(&self, waker: &Waker) {
        let mut tasks = lock(&self.tasks);
        if !tasks.iter().any(|known| known.will_wake(waker)) {
            tasks.push(waker.clone());
        }
        self.has_tasks.store(true, Ordering::Relaxed);
    }

    /// Wakes all. What they wait for was changed under the lock before.
    pub(crate) fn notify(&self) {
        if self.asleep.load(Ordering::Relaxed) > 0 {
            self.threads.notify_all();
        }
        if self.has_tasks.load(Ordering::Relaxed) {
            let mut tasks = lock(&self.tasks);
            self.has_tasks.store(false, Ordering::Relaxed);
            let woken = std::mem::take(&mut *tasks);
            drop(tasks);
            woken.into_iter().for_each(Waker::wake);
        }
    }
}

impl Shared {
    /// Lets the worker know that there is something to do, once until it looks.
    #[inline]
    pub(crate) fn ring(self: &Arc<Self>) {
        if let Some(home) = self.bell.ring() {
            self.mailboxes[home].ring(Arc::clone(self));
        }
    }

    /// Has the worker look if somebody waits for what the peer must be asked for. To be called before
    /// waiting for room.
    pub(crate) fn ring_if_awaited(self: &Arc<Self>, outbox: &SendBuffer) {
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
    fn each_change_wakes_the_thread_and_the_task_that_wait_for_it() {
        let (turn, waiting) = (Mutex::new(0_u32), Waiting::default());
        let (waker, woken) = counted();
        std::thread::scope(|scope| {
            let pass = |from: u32| {
                let mut turn = lock(&turn);
                while *turn % 2 != from {
                    turn = waiting.wait(turn);
                }
                *turn += 1;
                drop(turn);
                waiting.notify();
            };
            scope.spawn(move || (0..2000).for_each(|_| pass(1)));
            (0..2000).for_each(|_| pass(0));
        });
        assert_eq!(*lock(&turn), 4000);
        waiting.notify();
        waiting.register(&waker);
        assert_eq!(woken.load(Ordering::Relaxed), 0);
        waiting.notify();
        waiting.notify();
        assert_eq!(woken.load(Ordering::Relaxed), 1);
    }

    /// A waker, and how often it was used.
    fn counted() -> (Waker, Arc<AtomicUsize>) {
        struct Counted(Arc<AtomicUsize>);
        impl std::task::Wake for Counted {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let woken = Arc::<AtomicUsize>::default();
        (Arc::new(Counted(Arc::clone(&woken))).into(), woken)
    }

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
