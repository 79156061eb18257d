//! A session whose peer says anything: it does not panic, and holds no more than its limits.
#![no_main]

use std::time::{Duration, Instant};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use selvedge_endpoint::{AttachmentId, Config, LaneId, Outbox, Session};
use selvedge_transport::{LaneSet, NodeId, Role, Room};

/// A lane's window, and the longest message.
const SMALL: usize = 4096;

fuzz_target!(|frames: Vec<(u8, &[u8])>| {
    let config = Config {
        message_max: SMALL,
        receive_window: SMALL as u64,
        send_buffer: SMALL as u64,
        ..Config::default()
    };
    let mut now = Instant::now();
    let mut outbox = Outbox::new(&config);
    let (local, peer) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
    let mut session = Session::new(config, local, peer, 7);
    let mut received = 0;
    for (n, (choice, frame)) in frames.into_iter().enumerate() {
        let id = AttachmentId(u64::from(choice % 3));
        match choice / 3 % 8 {
            0 => drop(session.attach(now, AttachmentId(n as u64), Role::Dialer, true)),
            1 => {
                drop(outbox.push(LaneId::FIRST, Bytes::copy_from_slice(frame)));
                session.exchange(&mut outbox);
            }
            2 => {
                now += Duration::from_millis(u64::from(choice));
                session.handle_timeout(now);
            }
            _ => session.handle_frame(now, id, Bytes::copy_from_slice(frame)),
        }
        let room = Room {
            frame_max: 1200,
            datagram_max: 1200,
            blocked: LaneSet::EMPTY,
            control_blocked: false,
        };
        while session.poll_frame(now, id, &room).is_some() {}
        while session.poll_output().is_some() {}
        received += session.take_messages().map(|it| it.payload.len()).sum::<usize>();
        // Nothing is given back to the peer: it may send one window and one message more.
        assert!(received <= 2 * SMALL, "{received} bytes");
    }
});
