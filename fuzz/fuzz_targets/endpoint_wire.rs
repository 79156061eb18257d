//! A peer that has introduced itself as it should and then sends any frames: over a transport that
//! loses none, and over one that may.
//!
//! The session does not panic, holds no more than its limits, is never due for ever; and unless it was
//! closed, an honest process in the peer's place is served as if nothing had happened.
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
            serves_another(subject);
        }
    }
});

/// A session that has just exchanged greetings with an honest peer.
fn introduced(dialer: usize, reliable: bool) -> Subject {
    let mut sides = [Subject::new(0, 7), Subject::new(1, 8)];
    let wire = connect(&mut sides, dialer, reliable).expect("both are open");
    let is_ready = |side: &Subject| side.session.current().is_some();
    let met = talk(&mut sides, wire, |sides| sides.iter().all(is_ready));
    assert!(met, "they never met");
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

/// The peer's process dies, and an honest one takes its place.
fn serves_another(mut subject: Subject) {
    subject.detach(0);
    subject.settle();
    subject.take_all();
    let mut sides = [subject, Subject::new(1, 99)];
    let wire = connect(&mut sides, 1, true).expect("both are open");
    let is_ready = |side: &Subject| side.session.current().is_some();
    let met = talk(&mut sides, wire, |sides| sides.iter().all(is_ready));
    assert!(met, "they never met again");
    assert!(sides[1].send(0, TOKEN), "an empty outbox refuses");
    // What was never sent to the dead one goes to this one first, and then there is room.
    talk(&mut sides, wire, |sides| {
        sides[0].session.unacknowledged() == 0
    });
    assert!(sides[0].send(0, TOKEN), "the outbox is never emptied");
    let heard = talk(&mut sides, wire, |sides| {
        sides.iter().all(|it| it.heard_token)
    });
    assert!(
        heard,
        "an honest peer is not served after what the other one said"
    );
}
