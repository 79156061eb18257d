//! A session whose peer says anything, from the first byte on, over transports that come and go: it does
//! not panic, holds no more than its limits, and is never due for ever.
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
        // Ends are rare, so that what comes before them is looked at, too.
        4 => match which {
            31 => subject.session.close(subject.now, &mut subject.outbox),
            30 => subject.session.abort(),
            _ => subject.detach(which),
        },
        5 => subject.feed(which, bytes, false),
        _ => subject.feed(which, bytes, true),
    }
}
