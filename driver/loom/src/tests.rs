//! Models of workers, reduced to wake-ups, moving endpoints and sleep.

use std::sync::Arc;

use loom::model::Builder;
use loom::thread;

use crate::queue::{Location, Migrants, WakeFlag, WakeQueue};
use crate::sync::{AtomicUsize, Condvar, Mutex, Ordering, lock};

/// The shared state of an endpoint.
struct ModelShared {
    wake_flag: WakeFlag,
    send_buffer: Mutex<usize>,
}

/// An endpoint on its worker.
struct ModelEndpoint {
    shared: Arc<ModelShared>,
    /// The workers to which it moves, the next one last.
    moves: Vec<usize>,
    served: usize,
    expected: usize,
}

/// What a poll waits for: like an eventfd, it stays set until it is read.
#[derive(Default)]
struct ModelSignals {
    woken: bool,
    stopped: bool,
}

struct ModelMailbox {
    wake_queue: WakeQueue<Arc<ModelShared>>,
    migrants: Migrants<ModelEndpoint>,
    /// Represents the command channel: a queue that is checked without a lock.
    commands: AtomicUsize,
    signals: Mutex<ModelSignals>,
    signalled: Condvar,
}

impl ModelMailbox {
    fn new() -> Self {
        Self {
            wake_queue: WakeQueue::new(),
            migrants: Migrants::new(),
            commands: AtomicUsize::new(0),
            signals: Mutex::new(ModelSignals::default()),
            signalled: Condvar::new(),
        }
    }

    fn signal(&self, what: impl FnOnce(&mut ModelSignals)) {
        what(&mut lock(&self.signals));
        self.signalled.notify_all();
    }

    fn wake(&self) {
        if self.wake_queue.must_wake() {
            self.signal(|it| it.woken = true);
        }
    }

    fn wake_for(&self, shared: Arc<ModelShared>) {
        self.wake_queue.push(shared);
        self.wake();
    }

    fn command(&self) {
        self.commands.fetch_add(1, Ordering::Release);
        self.wake();
    }

    fn adopt(&self, endpoint: ModelEndpoint) {
        let adopted = self.migrants.push(endpoint);
        assert!(adopted.is_ok(), "no worker stops before the end");
        self.wake();
    }

    /// Sleeps if there is nothing to do. Returns whether the model has ended.
    fn poll(&self) -> bool {
        let is_empty = || self.commands.load(Ordering::Acquire) == 0 && self.migrants.is_empty();
        self.wake_queue.sleep(is_empty, |may_sleep| {
            let mut signals = lock(&self.signals);
            while may_sleep && !signals.woken && !signals.stopped {
                signals = self
                    .signalled
                    .wait(signals)
                    .expect("no thread panics while it holds it");
            }
            signals.woken = false;
            signals.stopped
        })
    }
}

struct ModelWorker {
    number: usize,
    mailboxes: Arc<[ModelMailbox; 2]>,
    endpoint: Option<ModelEndpoint>,
    /// How often bytes arrive for the endpoint, each time a message to which an inbox replies.
    arrivals: usize,
}

impl ModelWorker {
    fn run(mut self) {
        let mailboxes = Arc::clone(&self.mailboxes);
        let own = &mailboxes[self.number];
        loop {
            for endpoint in own.migrants.take() {
                endpoint.shared.wake_flag.settle(0);
                self.endpoint = Some(endpoint);
                self.serve();
            }
            let mut pending = Vec::new();
            own.wake_queue.take_pending(&mut pending);
            for shared in pending {
                self.serve_wake_up(&shared);
            }
            self.drive();
            if own.poll() {
                assert!(
                    own.migrants.close().is_empty(),
                    "no endpoint is moving at the end"
                );
                return;
            }
        }
    }

    /// The inbox sends on its own endpoint, without a wake-up.
    fn drive(&mut self) {
        if let Some(endpoint) = self.endpoint.as_ref().filter(|_| self.arrivals > 0) {
            self.arrivals -= 1;
            endpoint.shared.wake_flag.suppress();
            *lock(&endpoint.shared.send_buffer) += 1;
            assert_eq!(endpoint.shared.wake_flag.set(), None);
            self.serve();
        }
    }

    fn serve_wake_up(&mut self, shared: &Arc<ModelShared>) {
        let place = match shared.wake_flag.locate(self.number) {
            Location::Here { place } => place,
            Location::Moved { home } => return self.mailboxes[home].wake_for(Arc::clone(shared)),
        };
        assert_eq!(place, 0);
        self.serve();
    }

    fn serve(&mut self) {
        let Some(mut endpoint) = self.endpoint.take() else {
            return;
        };
        endpoint.shared.wake_flag.clear();
        endpoint.served += std::mem::take(&mut *lock(&endpoint.shared.send_buffer));
        match endpoint.moves.pop() {
            Some(home) => {
                endpoint.shared.wake_flag.move_to(home);
                self.mailboxes[home].adopt(endpoint);
            }
            None => {
                if endpoint.served == endpoint.expected {
                    let stop = |mailbox: &ModelMailbox| mailbox.signal(|it| it.stopped = true);
                    self.mailboxes.iter().for_each(stop);
                }
                self.endpoint = Some(endpoint);
            }
        }
    }
}

fn send(mailboxes: &[ModelMailbox; 2], shared: &Arc<ModelShared>) {
    *lock(&shared.send_buffer) += 1;
    if let Some(home) = shared.wake_flag.set() {
        mailboxes[home].wake_for(Arc::clone(shared));
    }
}

/// Runs workers, an endpoint that begins on worker 0 and makes these `moves`, and producers of so many
/// messages each, of which the last is this thread.
fn hand_off(workers: usize, moves: &[usize], producers: &[usize]) {
    hand_off_and_reply(workers, moves, producers, 0);
}

/// The same, with so many messages of an inbox of the endpoint, on worker 0.
fn hand_off_and_reply(workers: usize, moves: &[usize], producers: &[usize], replies: usize) {
    let mailboxes = Arc::new([ModelMailbox::new(), ModelMailbox::new()]);
    let shared = Arc::new(ModelShared {
        wake_flag: WakeFlag::new(0),
        send_buffer: Mutex::new(0),
    });
    mailboxes[0].adopt(ModelEndpoint {
        shared: Arc::clone(&shared),
        moves: moves.iter().rev().copied().collect(),
        served: 0,
        expected: producers.iter().sum::<usize>() + replies,
    });
    let mut threads = Vec::new();
    for number in 0..workers {
        let worker = ModelWorker {
            number,
            mailboxes: Arc::clone(&mailboxes),
            endpoint: None,
            arrivals: if number == 0 { replies } else { 0 },
        };
        threads.push(thread::spawn(move || worker.run()));
    }
    let (own, others) = producers.split_last().expect("there is a producer");
    for &messages in others {
        let (mailboxes, shared) = (Arc::clone(&mailboxes), Arc::clone(&shared));
        let produce = move || (0..messages).for_each(|_| send(&mailboxes, &shared));
        threads.push(thread::spawn(produce));
    }
    (0..*own).for_each(|_| send(&mailboxes, &shared));
    for thread in threads {
        thread.join().expect("it ends");
    }
}

/// Explores every order of threads with at most so many preemptions, or `LOOM_MAX_PREEMPTIONS`.
fn explore(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(preemptions);
    builder.max_branches = 100_000;
    builder.check(model);
}

#[test]
fn no_message_is_lost_while_its_endpoint_moves_there_and_back() {
    explore(Some(2), || hand_off(2, &[1, 0], &[1, 1]));
}

#[test]
fn a_message_follows_its_endpoint_under_four_preemptions() {
    explore(Some(4), || hand_off(2, &[1], &[1]));
}

#[test]
fn a_worker_that_goes_to_sleep_is_woken_for_each_message() {
    explore(None, || hand_off(1, &[], &[2]));
}

#[test]
fn no_message_is_missed_while_wake_ups_are_suppressed() {
    explore(Some(4), || hand_off_and_reply(1, &[], &[2], 1));
}

/// Commands are checked without a lock: only the fences order them.
#[test]
fn a_worker_that_goes_to_sleep_is_woken_for_a_command() {
    explore(None, || {
        let mailbox = Arc::new(ModelMailbox::new());
        let worker = Arc::clone(&mailbox);
        let worker = thread::spawn(move || {
            while worker.commands.load(Ordering::Acquire) == 0 {
                worker.poll();
            }
        });
        mailbox.command();
        worker.join().expect("it ends");
    });
}
