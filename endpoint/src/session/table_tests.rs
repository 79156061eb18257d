//! Every state of a session against everything that can happen to it, as a table that is kept beside
//! this file: a change of behaviour shows as a change of `table.txt`.
//!
//! `BLESS=1 cargo test -p selvedge-endpoint --lib table` writes it anew.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use selvedge_transport::{Frame, FrameHeader, Instant, LaneSet, NodeId, Role, SendCapacity};

use super::{Life, Session};
use crate::config::SessionConfig;
use crate::event::{AttachmentId, DetachReason, Event, SessionOutput};
use crate::lane::LaneId;
use crate::send_buffer::SendBuffer;
use crate::version::SessionOffer;
use crate::wire::{self, CloseCode, Hello, LanePosition, PacketAck};

const TABLE: &str = include_str!("table.txt");
const ID: AttachmentId = AttachmentId(1);
const ROOM: SendCapacity = SendCapacity {
    frame_max: 1200,
    datagram_max: 1200,
    blocked: LaneSet::EMPTY,
    control_blocked: false,
};

/// A session in a state, and the number of the next packet that its peer sends.
struct Case {
    session: Session,
    buffer: SendBuffer,
    now: Instant,
    reliable: bool,
    packets: u64,
}

fn bytes(header: FrameHeader) -> Bytes {
    Bytes::copy_from_slice(header.as_slice())
}

fn hello(peer_incarnation: u64) -> Bytes {
    greeting(0, peer_incarnation)
}

/// A greeting of a peer that has so many bytes of the first lane, and knows that incarnation.
fn greeting(expected: u64, peer_incarnation: u64) -> Bytes {
    let position = LanePosition {
        lane: LaneId::FIRST,
        expected,
        limit: 1 << 20,
    };
    wire::encode_hello(&Hello {
        incarnation: 9,
        view: 0,
        peer_incarnation,
        epoch: 1,
        message_max: 64 << 20,
        offer: SessionOffer::SUPPORTED,
        paths_wanted: 1,
        lanes: vec![position],
    })
}

fn data(offset: u64, text: &[u8]) -> Bytes {
    [wire::data(LaneId::FIRST, offset).as_slice(), text]
        .concat()
        .into()
}

fn ack(expected: u64) -> Bytes {
    let lane = LaneId::FIRST;
    wire::encode_ack(&[LanePosition {
        lane,
        expected,
        limit: 1 << 20,
    }])
}

impl Case {
    fn new(reliable: bool) -> Self {
        let config = SessionConfig::default();
        let buffer = SendBuffer::new(&config);
        let (own, peer) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
        Self {
            session: Session::new(config, own, peer, 7),
            buffer,
            now: Instant::from_origin(Duration::from_secs(1)),
            reliable,
            packets: 0,
        }
    }

    fn attach(&mut self, role: Role) {
        let _ = self.session.attach(self.now, ID, role, self.reliable);
    }

    /// A frame of the peer, numbered where it must be.
    fn frame(&mut self, frame: Bytes) {
        let numbered = matches!(frame.first(), Some(2..=6 | 8)) && !self.reliable;
        let frame = if numbered {
            self.packets += 1;
            let number = wire::packet(self.packets - 1, &FrameHeader::EMPTY);
            [number.as_slice(), &frame].concat().into()
        } else {
            frame
        };
        self.session.handle_frame(self.now, ID, frame);
    }

    fn send(&mut self, text: &'static str) {
        let _ = self
            .buffer
            .push(LaneId::FIRST, Bytes::from_static(text.as_bytes()));
        self.session.sync_send_buffer(&mut self.buffer);
    }

    fn close(&mut self) {
        self.session.close(self.now, &mut self.buffer);
    }

    fn frames(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.session.poll_frame(self.now, ID, &ROOM)).collect()
    }

    fn drain(&mut self) {
        self.frames();
        while self.session.poll_output().is_some() {}
        drop(self.session.take_batches());
    }

    fn in_state(state: &str, reliable: bool) -> Self {
        let mut case = Self::new(reliable);
        match state {
            "detached" => {}
            "introducing dialer" => case.attach(Role::Dialer),
            "introducing acceptor" => case.attach(Role::Acceptor),
            "answered" => {
                case.attach(Role::Acceptor);
                case.frame(hello(0));
            }
            "confirming" => {
                case = Self::in_state("ready", reliable);
                case.session.introduction.peer = Some(super::introduction::PeerView {
                    agreement: case
                        .session
                        .introduction
                        .offer
                        .agree(SessionOffer::VERSION_1)
                        .unwrap(),
                    incarnation: 8,
                    view: 0,
                });
                case.session.detach(ID, DetachReason::Local);
                case.attach(Role::Dialer);
                case.frame(hello(7));
            }
            "ready" => {
                case.attach(Role::Acceptor);
                case.frame(hello(0));
                case.frame(bytes(wire::ready(0)));
                case.send("sent");
            }
            "closing" => {
                case = Self::in_state("ready", reliable);
                case.close();
            }
            "closed" => {
                case = Self::in_state("ready", reliable);
                case.session.abort();
            }
            other => panic!("no state {other}"),
        }
        case.drain();
        case
    }

    fn apply(&mut self, event: &str) {
        match event {
            "attach" => {
                let second = AttachmentId(2);
                let _ = self.session.attach(self.now, second, Role::Dialer, true);
            }
            "detach" => self.session.detach(ID, DetachReason::Local),
            "send" => self.send("more"),
            "close" => self.close(),
            "abort" => self.session.abort(),
            "heartbeat" if self.reliable => self.pass(Duration::from_millis(1250)),
            "heartbeat" => self.pass(Duration::from_secs(1)),
            "silence" => self.pass(Duration::from_secs(3)),
            "linger" => self.pass(Duration::from_secs(5)),
            "Hello" => self.frame(hello(7)),
            "Ready" => self.frame(bytes(wire::ready(0))),
            "Data" => self.frame(data(0, b"\x02hi")),
            "Data ahead" => self.frame(data(5, b"\x02hi")),
            "Data beyond credit" => self.frame(data(1 << 30, b"\x02hi")),
            "Ack" => self.frame(ack(5)),
            "Ack of nothing" => self.frame(ack(1 << 20)),
            "Ping" => self.frame(bytes(wire::ping(1))),
            "Pong" => self.frame(bytes(wire::pong(1))),
            "PacketAck" => self.frame(wire::encode_packet_ack(&PacketAck {
                delay: Duration::ZERO,
                ranges: std::iter::once(0..1).collect(),
            })),
            "Close" => self.frame(bytes(wire::close(CloseCode::Done))),
            "rubbish" => self.frame(Bytes::from_static(&[0xff; 9])),
            other => panic!("no event {other}"),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.session.handle_timeout(self.now);
    }

    /// The next state, the outputs and the frames sent.
    fn outcome(&mut self) -> String {
        let mut reported = Vec::new();
        let messages = self.session.take_messages().count();
        let mut sent: Vec<_> = self.frames().iter().map(kind).collect();
        sent.dedup();
        while let Some(output) = self.session.poll_output() {
            reported.push(match output {
                SessionOutput::Event(event) => name(&event),
                SessionOutput::Release { reason, .. } => format!("release ({reason})"),
            });
        }
        reported.extend((messages > 0).then(|| "message".to_owned()));
        let life = match self.session.life {
            Life::Open => "",
            Life::Closing { .. } => "closing, ",
            Life::Closed => "closed, ",
        };
        let stage = self.session.attachments.first();
        let stage = stage.map_or_else(
            || "detached".to_owned(),
            |it| format!("{:?}", it.stage).to_lowercase(),
        );
        format!(
            "{life}{stage} | {} | {}",
            reported.join(", "),
            sent.join(" ")
        )
    }
}

fn kind(frame: &Frame) -> &'static str {
    let mut whole = bytes::BytesMut::new();
    frame.write_to(&mut whole);
    let mut inner = whole.freeze();
    wire::take_number(&mut inner).unwrap();
    match inner[0] {
        1 => "Hello",
        2 => "Ready",
        3 => "Data",
        4 => "Ack",
        6 => "Ping",
        7 => "Pong",
        8 => "Close",
        10 => "PacketAck",
        _ => "other",
    }
}

fn name(event: &Event) -> String {
    match event {
        Event::Closed {
            reason,
            undelivered,
        } => {
            format!("Closed ({reason}, {} undelivered)", undelivered.len())
        }
        Event::PeerRestarted { undelivered } => {
            format!("PeerRestarted ({} undelivered)", undelivered.len())
        }
        Event::Detached { reason } => format!("Detached ({reason})"),
        Event::AttachFailed { reason } => format!("AttachFailed ({reason})"),
        Event::Attached { .. } => "Attached".to_owned(),
        Event::Moved { .. } => "Moved".to_owned(),
        Event::Resumed { .. } => "Resumed".to_owned(),
        Event::Redundant { .. } => "Redundant".to_owned(),
        Event::Dropped { .. } => "Dropped".to_owned(),
        Event::Admitted => "Admitted".to_owned(),
    }
}

const STATES: [&str; 8] = [
    "detached",
    "introducing dialer",
    "introducing acceptor",
    "answered",
    "confirming",
    "ready",
    "closing",
    "closed",
];

const EVENTS: [&str; 20] = [
    "attach",
    "detach",
    "send",
    "close",
    "abort",
    "heartbeat",
    "silence",
    "linger",
    "Hello",
    "Ready",
    "Data",
    "Data ahead",
    "Data beyond credit",
    "Ack",
    "Ack of nothing",
    "Ping",
    "Pong",
    "PacketAck",
    "Close",
    "rubbish",
];

#[test]
fn every_state_handles_every_event_as_the_table_defines() {
    let mut table =
        String::from("# transport | state | event | next state | outputs | frames sent\n");
    for (transport, reliable) in [("reliable", true), ("lossy", false)] {
        for state in STATES {
            for event in EVENTS {
                let mut case = Case::in_state(state, reliable);
                case.apply(event);
                let outcome = case.outcome();
                let row = format!("{transport} | {state} | {event} | {outcome}");
                writeln!(table, "{}", row.trim_end()).unwrap();
            }
        }
    }
    if std::env::var_os("BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/session/table.txt");
        std::fs::write(path, &table).unwrap();
        return;
    }
    for (found, expected) in table.lines().zip(TABLE.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(table.lines().count(), TABLE.lines().count());
}

#[test]
fn n4_a_greeting_that_claims_another_past_is_refused() {
    for reliable in [true, false] {
        // Of what was never sent.
        let mut case = Case::new(reliable);
        case.attach(Role::Dialer);
        case.frame(greeting(5, 7));
        assert!(
            case.outcome()
                .contains("acknowledged data that was never sent")
        );

        // From another process of this node: its lane positions are ignored, and no data is sent.
        let mut case = Case::in_state("ready", reliable);
        case.session.detach(ID, DetachReason::Local);
        case.attach(Role::Dialer);
        case.frame(greeting(1 << 40, 1234));
        let outcome = case.outcome();
        assert!(outcome.starts_with("ready | Detached"), "{outcome}");
        assert_eq!(
            case.session.unacknowledged(),
            5,
            "nothing counts as received"
        );

        // From before what was acknowledged already: the past does not come back.
        let mut case = Case::in_state("ready", reliable);
        case.frame(ack(5));
        case.session.detach(ID, DetachReason::Local);
        case.attach(Role::Dialer);
        case.frame(greeting(0, 7));
        assert_eq!(case.session.unacknowledged(), 0);
        assert!(!case.outcome().contains("Data"));
    }
}

#[test]
fn a_peer_that_never_acknowledges_packets_costs_a_bounded_number_of_them() {
    let mut case = Case::in_state("ready", false);
    let mut numbered = 0;
    for _ in 0..100_000 {
        case.frame(hello(7));
        case.frame(bytes(wire::ready(0)));
        numbered += case
            .frames()
            .iter()
            .filter(|frame| kind(frame) == "Ready")
            .count();
    }
    assert!(numbered <= 1 << 16, "{numbered}");
}

#[test]
fn the_highest_epoch_of_a_peer_leaves_a_number_for_the_next_dial() {
    let mut case = Case::new(true);
    case.attach(Role::Acceptor);
    case.frame(wire::encode_hello(&Hello {
        incarnation: 9,
        view: 0,
        peer_incarnation: 0,
        epoch: crate::varint::VARINT_MAX,
        message_max: 64 << 20,
        offer: SessionOffer::SUPPORTED,
        paths_wanted: 1,
        lanes: Vec::new(),
    }));
    case.apply("attach");
    let second = AttachmentId(2);
    let hello = case.session.poll_frame(case.now, second, &ROOM);
    assert!(hello.is_some());
}
