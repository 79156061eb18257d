//! Sessions of different versions of the protocol, and a recorded peer of version 1.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use selvedge_transport::{Instant, LaneSet, NodeId, Role, SendCapacity};

use super::Session;
use crate::version::{FeatureSet, Incompatibility, SessionOffer, VersionRange};
use crate::{AttachmentId, CloseReason, Event, LaneId, SendBuffer, SessionConfig, SessionOutput};

const ID: AttachmentId = AttachmentId(1);

const CAPACITY: SendCapacity = SendCapacity {
    frame_max: 1200,
    datagram_max: 1200,
    blocked: LaneSet::EMPTY,
    control_blocked: false,
};

/// One side with its send buffer, and what came out of it.
struct Side {
    session: Session,
    buffer: SendBuffer,
    messages: Vec<Bytes>,
    closed: Option<CloseReason>,
    attached: bool,
}

impl Side {
    fn new(now: Instant, number: u8, role: Role, offer: SessionOffer) -> Self {
        let config = SessionConfig::default();
        let (own, peer) = (NodeId::new([number; 32]), NodeId::new([3 - number; 32]));
        let incarnation = u64::from_be_bytes([number; 8]);
        let mut session = Session::new(config.clone(), own, peer, incarnation);
        session.introduction.offer = offer;
        session.attach(now, ID, role, true).unwrap();
        Self {
            session,
            buffer: SendBuffer::new(&config),
            messages: Vec::new(),
            closed: None,
            attached: false,
        }
    }

    fn send(&mut self, texts: [&'static str; 3]) {
        for text in texts {
            let sent = self
                .buffer
                .push(LaneId::FIRST, Bytes::from_static(text.as_bytes()));
            sent.unwrap();
        }
    }

    fn receive(&mut self, now: Instant, frames: Vec<Bytes>) {
        for frame in frames {
            self.session.handle_frame(now, ID, frame);
        }
        let messages: Vec<_> = self.session.take_messages().collect();
        for message in messages {
            self.session.consumed(message.lane, message.cost());
            self.messages.push(message.payload);
        }
        while let Some(output) = self.session.poll_output() {
            match output {
                // A later one brings only what was not exchanged before the end.
                SessionOutput::Event(Event::Closed { reason, .. }) => {
                    self.closed.get_or_insert(reason);
                }
                SessionOutput::Event(Event::Attached { .. }) => self.attached = true,
                _ => {}
            }
        }
    }

    fn frames(&mut self, now: Instant) -> Vec<Bytes> {
        self.session.sync_send_buffer(&mut self.buffer);
        let session = &mut self.session;
        let frames = std::iter::from_fn(|| session.poll_frame(now, ID, &CAPACITY));
        let written = frames.map(|frame| {
            let mut bytes = BytesMut::new();
            frame.write_to(&mut bytes);
            bytes.freeze()
        });
        written.collect()
    }
}

/// Two sessions that have exchanged all that they have to say.
fn recognize_peer(first: SessionOffer, second: SessionOffer) -> [Side; 2] {
    let now = Instant::from_origin(Duration::from_secs(1));
    let mut sides = [
        Side::new(now, 1, Role::Dialer, first),
        Side::new(now, 2, Role::Acceptor, second),
    ];
    sides[0].send(["a", "b", "c"]);
    sides[1].send(["d", "e", "f"]);
    for _ in 0..4 {
        for from in 0..2 {
            let frames = sides[from].frames(now);
            sides[1 - from].receive(now, frames);
        }
        sides[0].receive(now, Vec::new());
    }
    sides
}

fn incompatibility(side: &Side) -> Incompatibility {
    match side.closed {
        Some(CloseReason::Incompatible(incompatibility)) => incompatibility,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn sessions_use_the_highest_version_that_both_speak() {
    for (first, second, version) in [
        ((1, 1), (1, 2), 1),
        ((1, 3), (2, 4), 3),
        ((2, 2), (1, 9), 2),
    ] {
        let first = SessionOffer::of_versions(first.0, first.1);
        let second = SessionOffer::of_versions(second.0, second.1);
        for sides in [recognize_peer(first, second), recognize_peer(second, first)] {
            for side in &sides {
                assert_eq!(side.session.version(), Some(version));
                assert_eq!(side.messages.len(), 3);
            }
        }
    }
}

#[test]
fn sessions_without_a_common_version_name_both_ranges() {
    let (old, new) = (SessionOffer::VERSION_1, SessionOffer::of_versions(2, 3));
    let ranges = |own: SessionOffer, peer: SessionOffer| Incompatibility::Versions {
        own: own.versions,
        peer: peer.versions,
    };
    let [newer, older] = recognize_peer(new, old);
    assert_eq!(incompatibility(&newer), ranges(new, old));
    assert_eq!(incompatibility(&older), ranges(old, new));
    assert!(!newer.attached && !older.attached);
    let newest = SessionOffer::of_versions(5, 6);
    for sides in [recognize_peer(new, newest), recognize_peer(newest, new)] {
        for side in &sides {
            let Incompatibility::Versions { own, peer } = incompatibility(side) else {
                panic!("{:?}", side.closed);
            };
            let of = |min, max| VersionRange { min, max };
            assert!([(of(2, 3), of(5, 6)), (of(5, 6), of(2, 3))].contains(&(own, peer)));
        }
    }
    let text = CloseReason::Incompatible(ranges(new, old)).to_string();
    assert!(
        text.contains("version 2 to 3, the peer version 1"),
        "{text}"
    );
}

#[test]
fn a_required_feature_that_the_peer_lacks_is_refused_and_an_optional_one_ignored() {
    let with = |bits| SessionOffer {
        features: FeatureSet::new(bits),
        ..SessionOffer::VERSION_1
    };
    for sides in [
        recognize_peer(with(1), with(0)),
        recognize_peer(with(0), with(0b110)),
    ] {
        assert!(sides.iter().all(|side| side.messages.len() == 3));
    }
    for sides in [
        recognize_peer(with(1 << 6), with(0)),
        recognize_peer(with(0), with(1 << 6)),
    ] {
        assert!(sides.iter().all(|side| side.messages.is_empty()));
        let missing = Incompatibility::Features { missing: 1 };
        assert!(sides.iter().any(|side| incompatibility(side) == missing));
    }
}

/// What a session of commit ab10eec, which supported only version 1, sent to its peer, by round.
/// That commit precedes every change of the endpoint's wire format; 49ad313 has the same format. The
/// frames were recorded from two sessions of that build with the configuration, identities,
/// incarnations, messages and rounds of `a_recorded_peer_of_version_1_exchanges_messages`; `{lanes}`
/// stands for its 32 positions `00 80400000`.
const AS_DIALER: [&[&str]; 7] = [
    &["0101010101010101010100000000000000000001840000000120{lanes}"],
    &["0200", "0401000080400000"],
    &[],
    &[],
    &[MESSAGES],
    &[],
    &["0401003580400035"],
];

const AS_ACCEPTOR: [&[&str]; 7] = [
    &[],
    &["0101010101010101010100020202020202020201840000000120{lanes}"],
    &["0200", "0401000080400000"],
    &[],
    &[MESSAGES],
    &[],
    &["0401003580400035"],
];

/// "one from version 1", "two from version 1" and "three from version 1" in one frame.
const MESSAGES: &str = "030000126f6e652066726f6d2076657273696f6e20311274776f2066726f6d2076657273696f6e20311474687265652066726f6d2076657273696f6e2031";

fn recorded(round: &[&str]) -> Vec<Bytes> {
    let frames = round.iter().map(|hex| {
        let hex = hex.replace("{lanes}", &"0080400000".repeat(32));
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(byte).collect()
    });
    frames.collect()
}

#[test]
fn a_recorded_peer_of_version_1_exchanges_messages() {
    for (script, role) in [(AS_DIALER, Role::Acceptor), (AS_ACCEPTOR, Role::Dialer)] {
        for offer in [SessionOffer::SUPPORTED, SessionOffer::of_versions(1, 2)] {
            let mut now = Instant::from_origin(Duration::from_secs(1));
            let mut side = Side::new(now, 2, role, offer);
            let mut sent = BytesMut::new();
            for (round, frames) in script.iter().enumerate() {
                if round == 4 {
                    side.send(["one to version 1", "two to version 1", "three to version 1"]);
                }
                if round == 6 {
                    now += Duration::from_millis(250);
                    side.session.handle_timeout(now);
                }
                side.receive(now, recorded(frames));
                let data = side.frames(now).into_iter().filter(|frame| frame[0] == 3);
                data.for_each(|frame| sent.extend_from_slice(&frame[3..]));
            }
            assert_eq!(
                side.messages,
                [
                    "one from version 1",
                    "two from version 1",
                    "three from version 1"
                ]
            );
            // The stream of the lane, of which the peer acknowledged 53 bytes: all of them.
            let stream = b"\x10one to version 1\x10two to version 1\x12three to version 1";
            assert_eq!(&sent[..], stream);
            assert_eq!(stream.len(), 0x35);
            assert!(side.session.sending.is_drained());
            assert_eq!((side.session.version(), side.closed), (Some(1), None));
        }
    }
}
