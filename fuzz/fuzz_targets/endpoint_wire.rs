//! A peer that completes its introduction and then sends arbitrary frames, over a reliable and over an
//! unreliable transport.
//!
//! The session does not panic, exceeds no limit and does not stay due. Unless it was closed, an honest
//! process that takes the peer's place can then exchange messages.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "support/subject.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod subject;
use subject::{Subject, TOKEN, connect, records, talk};

fuzz_target!(|input: &[u8]| {
    let Some((&flags, input)) = input.split_first() else {
        return;
    };
    for reliable in [true, false] {
        let mut subject = introduced(usize::from(flags & 1), reliable);
        for (what, frame) in records(input) {
            apply(&mut subject, what, frame);
            subject.settle();
        }
        if !subject.session.is_closed() {
            serves_an_honest_peer(subject);
        }
    }
});

/// A session whose introduction with an honest peer is complete.
fn introduced(dialer: usize, reliable: bool) -> Subject {
    let mut sides = [Subject::new(0, 7), Subject::new(1, 8)];
    let wire = connect(&mut sides, dialer, reliable).expect("both are open");
    let is_ready = |side: &Subject| side.session.current().is_some();
    let met = talk(&mut sides, wire, |sides| sides.iter().all(is_ready));
    assert!(met, "the introduction did not complete");
    let [subject, _] = sides;
    subject
}

fn apply(subject: &mut Subject, what: u8, frame: &[u8]) {
    match what % 8 {
        0 => drop(subject.send(usize::from(what >> 3), frame)),
        1 => subject.pause(usize::from(what >> 3)),
        2 => subject.take_all(),
        3 => subject.feed(0, frame, false),
        _ => subject.feed(0, frame, true),
    }
}

/// The peer's process ends, and an honest one takes its place.
fn serves_an_honest_peer(mut subject: Subject) {
    subject.detach(0);
    subject.settle();
    subject.take_all();
    let mut sides = [subject, Subject::new(1, 99)];
    let wire = connect(&mut sides, 1, true).expect("both are open");
    let is_ready = |side: &Subject| side.session.current().is_some();
    let met = talk(&mut sides, wire, |sides| sides.iter().all(is_ready));
    assert!(met, "the second introduction did not complete");
    assert!(
        sides[1].send(0, TOKEN),
        "an empty send buffer refuses a message"
    );
    // Messages that were not sent to the old process are sent first; then there is room.
    talk(&mut sides, wire, |sides| {
        sides[0].session.unacknowledged() == 0
    });
    assert!(sides[0].send(0, TOKEN), "the send buffer is never emptied");
    let is_served = talk(&mut sides, wire, |sides| {
        sides.iter().all(|it| it.received_token)
    });
    assert!(
        is_served,
        "an honest peer is not served after the frames of the other one"
    );
}
