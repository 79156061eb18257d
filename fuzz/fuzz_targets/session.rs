//! A session whose peer sends arbitrary frames from the start, over transports that are attached and
//! detached: it does not panic, exceeds no limit and does not stay due.
#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge_transport::Role;

#[path = "support/subject.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod subject;
use subject::{Subject, records};

fuzz_target!(|input: &[u8]| {
    let mut subject = Subject::new(0, 7);
    for (what, bytes) in records(input) {
        apply(&mut subject, what, bytes);
        subject.settle();
    }
});

fn apply(subject: &mut Subject, what: u8, bytes: &[u8]) {
    let which = usize::from(what >> 3);
    match what % 8 {
        0 => {
            let role = [Role::Dialer, Role::Acceptor][which % 2];
            let _refused_when_closed = subject.attach(role, which / 2 % 2 == 0);
        }
        1 => drop(subject.send(which, bytes)),
        2 => subject.pause(which),
        3 => subject.take_all(),
        // Ends are rare, so that longer sequences before them are tested, too.
        4 => match which {
            31 => subject.session.close(subject.now, &mut subject.outbox),
            30 => subject.session.abort(),
            _ => subject.detach(which),
        },
        5 => subject.feed(which, bytes, false),
        _ => subject.feed(which, bytes, true),
    }
}
