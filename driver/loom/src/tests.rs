//! Workers as in `driver/src/worker`, reduced to what they do with bells, endpoints and sleep.

use std::sync::Arc;

use loom::model::Builder;
use loom::thread;

use crate::bells::{Bell, Entrance, Found};
use crate::sync::{AtomicUsize, Condvar, Mutex, Ordering, lock};

/// What producers and worker share of an endpoint.
struct Shared {
    bell: Bell,
    outbox: Mutex<usize>,
}

/// An endpoint where it lives.
struct Entry {
    shared: Arc<Shared>,
    /// Where it is told to move, the next one last.
    journey: Vec<usize>,
    served: usize,
    expected: usize,
}

/// What a poll waits for: as an eventfd, it stays rung until somebody looks.
#[derive(Default)]
struct Signals {
    woken: bool,
    stopped: bool,
}

struct Mailbox {
    entrance: Entrance<Arc<Shared>, Entry>,
    /// What stands for the channel of commands: a queue that is looked at without a lock.
    commands: AtomicUsize,
    signals: Mutex<Signals>,
    signalled: Condvar,
}

impl Mailbox {
    fn new() -> Self {
        Self {
            entrance: Entrance::new(),
            commands: AtomicUsize::new(0),
            signals: Mutex::new(Signals::default()),
            signalled: Condvar::new(),
        }
    }

    fn signal(&self, what: impl FnOnce(&mut Signals)) {
        what(&mut lock(&self.signals));
        self.signalled.notify_all();
    }

    fn wake(&self) {
        if self.entrance.must_wake() {
            self.signal(|it| it.woken = true);
        }
    }

    fn ring(&self, shared: Arc<Shared>) {
        self.entrance.ring(shared);
        self.wake();
    }

    fn command(&self) {
        self.commands.fetch_add(1, Ordering::Release);
        self.wake();
    }

    fn adopt(&self, entry: Entry) {
        let adopted = self.entrance.adopt(entry);
        assert!(adopted.is_ok(), "no worker stops before the end");
        self.wake();
    }

    /// Sleeps if there is nothing to do. Returns whether all is over.
    fn poll(&self) -> bool {
        let is_empty = || self.commands.load(Ordering::Acquire) == 0;
        self.entrance.sleep(is_empty, |may_sleep| {
            let mut signals = lock(&self.signals);
            while may_sleep && !signals.woken && !signals.stopped {
                signals = self.signalled.wait(signals).expect("nobody panics with it");
            }
            signals.woken = false;
            signals.stopped
        })
    }
}

struct Worker {
    number: usize,
    mailboxes: Arc<[Mailbox; 2]>,
    endpoint: Option<Entry>,
    /// How often bytes will have come for the endpoint, each time a message that an inbox answers.
    arrivals: usize,
}

impl Worker {
    fn run(mut self) {
        let mailboxes = Arc::clone(&self.mailboxes);
        let own = &mailboxes[self.number];
        loop {
            for entry in own.entrance.take_arrivals() {
                entry.shared.bell.settle(0);
                self.endpoint = Some(entry);
                self.serve();
            }
            let mut rung = Vec::new();
            own.entrance.take_rung(&mut rung);
            for shared in rung {
                self.answer_bell(&shared);
            }
            self.drive();
            if own.poll() {
                assert!(
                    own.entrance.shut().is_empty(),
                    "nothing is on its way at the end"
                );
                return;
            }
        }
    }

    /// The inbox sends to its own endpoint, and rings for nobody.
    fn drive(&mut self) {
        if let Some(entry) = self.endpoint.as_ref().filter(|_| self.arrivals > 0) {
            self.arrivals -= 1;
            entry.shared.bell.hold();
            *lock(&entry.shared.outbox) += 1;
            assert_eq!(entry.shared.bell.ring(), None);
            self.serve();
        }
    }

    fn answer_bell(&mut self, shared: &Arc<Shared>) {
        let place = match shared.bell.find(self.number) {
            Found::Here { place } => place,
            Found::Moved { home } => return self.mailboxes[home].ring(Arc::clone(shared)),
        };
        assert_eq!(place, 0);
        self.serve();
    }

    fn serve(&mut self) {
        let Some(mut entry) = self.endpoint.take() else {
            return;
        };
        entry.shared.bell.answer();
        entry.served += std::mem::take(&mut *lock(&entry.shared.outbox));
        match entry.journey.pop() {
            Some(home) => {
                entry.shared.bell.leave_for(home);
                self.mailboxes[home].adopt(entry);
            }
            None => {
                if entry.served == entry.expected {
                    let stop = |mailbox: &Mailbox| mailbox.signal(|it| it.stopped = true);
                    self.mailboxes.iter().for_each(stop);
                }
                self.endpoint = Some(entry);
            }
        }
    }
}

fn send(mailboxes: &[Mailbox; 2], shared: &Arc<Shared>) {
    *lock(&shared.outbox) += 1;
    if let Some(home) = shared.bell.ring() {
        mailboxes[home].ring(Arc::clone(shared));
    }
}

/// Workers, an endpoint that begins on worker 0 and moves as `journey` says, and producers of so many
/// messages each, of which the last is this thread.
fn hand_off(workers: usize, journey: &[usize], producers: &[usize]) {
    hand_off_and_answer(workers, journey, producers, 0);
}

/// The same, and so many messages of an inbox of the endpoint, on worker 0.
fn hand_off_and_answer(workers: usize, journey: &[usize], producers: &[usize], answers: usize) {
    let mailboxes = Arc::new([Mailbox::new(), Mailbox::new()]);
    let shared = Arc::new(Shared {
        bell: Bell::new(0),
        outbox: Mutex::new(0),
    });
    mailboxes[0].adopt(Entry {
        shared: Arc::clone(&shared),
        journey: journey.iter().rev().copied().collect(),
        served: 0,
        expected: producers.iter().sum::<usize>() + answers,
    });
    let mut threads = Vec::new();
    for number in 0..workers {
        let worker = Worker {
            number,
            mailboxes: Arc::clone(&mailboxes),
            endpoint: None,
            arrivals: if number == 0 { answers } else { 0 },
        };
        threads.push(thread::spawn(move || worker.run()));
    }
    let (own, others) = producers.split_last().expect("somebody sends");
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

/// Explores every order in which threads are interrupted at most so often, or as often as
/// `LOOM_MAX_PREEMPTIONS` says.
fn explore(interruptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(interruptions);
    builder.max_branches = 100_000;
    builder.check(model);
}

#[test]
fn no_message_is_stranded_while_its_endpoint_moves_there_and_back() {
    explore(Some(2), || hand_off(2, &[1, 0], &[1, 1]));
}

#[test]
fn a_message_follows_its_endpoint_however_often_threads_are_interrupted() {
    explore(Some(4), || hand_off(2, &[1], &[1]));
}

#[test]
fn a_worker_that_falls_asleep_is_woken_for_each_message() {
    explore(None, || hand_off(1, &[], &[2]));
}

#[test]
fn no_message_is_overlooked_while_an_inbox_holds_the_bell() {
    explore(Some(4), || hand_off_and_answer(1, &[], &[2], 1));
}

/// Commands are looked at without a lock: here only the fences keep order.
#[test]
fn a_worker_that_falls_asleep_is_woken_for_a_command() {
    explore(None, || {
        let mailbox = Arc::new(Mailbox::new());
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
