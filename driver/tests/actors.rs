//! The actors of a driver: on one thread, one at a time, and each for itself.

use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use selvedge_driver::{Actor, ActorHandle, Driver, DriverConfig, Instant, Next};

const PATIENCE: Duration = Duration::from_secs(20);

enum Command {
    Report(u32),
    Wake { after: Duration },
    Panic,
    End,
}

/// Reports what it handles, and 0 when its time has come.
struct Reporter {
    reports: Sender<(u32, ThreadId)>,
    is_new: bool,
}

impl Actor for Reporter {
    type Command = Command;

    fn handle(&mut self, now: Instant, command: Option<Command>) -> Next {
        let own = std::thread::current().id();
        let report = |number| self.reports.send((number, own)).expect("it is read");
        match command {
            Some(Command::Report(number)) => report(number),
            Some(Command::Wake { after }) => return Next::At(now + after),
            Some(Command::Panic) => panic!("a test asked for it"),
            Some(Command::End) => return Next::End,
            None if std::mem::take(&mut self.is_new) => {}
            None => report(0),
        }
        Next::Command
    }
}

fn spawn(driver: &Driver) -> (ActorHandle<Command>, Receiver<(u32, ThreadId)>) {
    let (reports, read) = unbounded();
    let actor = driver.spawn_actor("reporter", |_| Reporter {
        reports,
        is_new: true,
    });
    (actor.expect("there is a thread"), read)
}

fn driver() -> Arc<Driver> {
    Arc::new(Driver::new(DriverConfig::default()).expect("threads"))
}

fn number(reports: &Receiver<(u32, ThreadId)>) -> u32 {
    reports.recv_timeout(PATIENCE).expect("it reports").0
}

#[test]
fn all_actors_of_a_driver_have_one_thread_and_handle_their_commands_in_order() {
    let driver = driver();
    let actors: Vec<_> = (0..100).map(|_| spawn(&driver)).collect();
    for number in 1..=200 {
        for (actor, _) in &actors {
            actor.sender().send(Command::Report(number));
        }
    }
    let mut threads = Vec::new();
    for (_, reports) in &actors {
        for expected in 1..=200 {
            let (number, thread) = reports.recv_timeout(PATIENCE).expect("it reports");
            assert_eq!(number, expected);
            threads.push(thread);
        }
    }
    threads.dedup();
    assert_eq!(threads.len(), 1);
}

#[test]
fn an_actor_is_called_when_its_time_has_come_beside_one_that_has_commands_without_a_pause() {
    let driver = driver();
    let (busy, busy_reports) = spawn(&driver);
    let (waiting, reports) = spawn(&driver);
    let after = Duration::from_millis(20);
    waiting.sender().send(Command::Wake { after });
    while reports.is_empty() {
        busy.sender().send(Command::Report(1));
        assert_eq!(number(&busy_reports), 1);
    }
    assert_eq!(number(&reports), 0);
    // A command replaces the time.
    waiting.sender().send(Command::Wake {
        after: PATIENCE * 9,
    });
    waiting.sender().send(Command::Report(5));
    assert_eq!(number(&reports), 5);
}

#[test]
fn an_actor_that_panics_ends_alone() {
    let driver = driver();
    let (mut failing, failing_reports) = spawn(&driver);
    let (other, reports) = spawn(&driver);
    failing.sender().send(Command::Panic);
    failing.join();
    failing.sender().send(Command::Report(1));
    assert!(failing_reports.recv().is_err(), "it was dropped");
    other.sender().send(Command::Report(2));
    assert_eq!(number(&reports), 2);
}

#[test]
fn an_actor_ends_when_it_returns_that_and_when_nobody_can_send_to_it() {
    let driver = driver();
    let (mut actor, reports) = spawn(&driver);
    actor.sender().send(Command::End);
    actor.join();
    assert!(reports.recv().is_err(), "it was dropped");
    let (abandoned, reports) = spawn(&driver);
    let sender = abandoned.sender().clone();
    drop(abandoned);
    sender.send(Command::Report(3));
    assert_eq!(number(&reports), 3);
    drop(sender);
    assert!(reports.recv().is_err(), "it was dropped");
}

#[test]
fn an_actor_may_own_the_last_handle_of_its_driver() {
    struct Owner {
        _driver: Arc<Driver>,
        ended: Sender<()>,
    }
    impl Actor for Owner {
        type Command = Command;

        fn handle(&mut self, _now: Instant, command: Option<Command>) -> Next {
            command.map_or(Next::Command, |_| Next::End)
        }
    }
    impl Drop for Owner {
        fn drop(&mut self) {
            self.ended.send(()).expect("it is read");
        }
    }
    let (ended, read) = unbounded();
    let driver = driver();
    let actor = driver.spawn_actor("owner", |_| Owner {
        _driver: Arc::clone(&driver),
        ended,
    });
    let actor = actor.expect("there is a thread");
    drop(driver);
    actor.sender().send(Command::End);
    read.recv_timeout(PATIENCE).expect("it is dropped");
}
