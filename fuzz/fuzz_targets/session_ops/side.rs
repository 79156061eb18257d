//! One side: its session, and the model of the messages that it has sent.

use std::collections::VecDeque;

use bytes::Bytes;
use selvedge_endpoint::{
    AttachmentId, Delivery, DetachReason, Event, LaneConfig, LaneId, Message, SendBuffer, Session,
    SessionConfig, SessionOutput,
};
use selvedge_transport::NodeId;

pub const LANES: usize = 3;

/// The lane that may lose messages.
const BEST_EFFORT: usize = 2;

/// Limits that are small, so that a few operations reach them.
pub fn config(flags: u8) -> SessionConfig {
    let lane = |number: u8| LaneConfig {
        priority: number % 2,
        delivery: match usize::from(number) {
            BEST_EFFORT => Delivery::BestEffort,
            _ => Delivery::Reliable,
        },
        redundant: number == 1 && flags & 1 != 0,
    };
    SessionConfig {
        lanes: (0..LANES as u8).map(lane).collect(),
        message_max: 16 << 10,
        send_buffer: 12 << 10,
        best_effort_buffer: 4 << 10,
        receive_window: 3 << 10,
        ..SessionConfig::default()
    }
}

/// The messages that were sent on one lane and have not arrived, in order.
#[derive(Default)]
struct Expected {
    next: u32,
    coming: VecDeque<(u32, usize)>,
}

pub struct Side {
    pub session: Session,
    pub outbox: SendBuffer,
    /// Transports that the session has released.
    pub released: Vec<AttachmentId>,
    /// The messages that this side has sent, which those received by the other side must equal.
    sent: [Expected; LANES],
    /// Messages that its user has not taken.
    waiting: VecDeque<Message>,
    /// Messages that its user has taken and that are not checked yet.
    pub taken: Vec<Message>,
    next_id: u64,
}

impl Side {
    pub fn new(number: u8, flags: u8) -> Self {
        let config = config(flags);
        let (own, other) = (NodeId::new([number; 32]), NodeId::new([1 - number; 32]));
        Self {
            outbox: SendBuffer::new(&config),
            session: Session::new(config, own, other, 7 + u64::from(number)),
            released: Vec::new(),
            sent: Default::default(),
            waiting: VecDeque::new(),
            taken: Vec::new(),
            next_id: 0,
        }
    }

    /// The next attachment id. Like a driver, it numbers transports in the order of attachment.
    pub fn next_id(&mut self) -> AttachmentId {
        self.next_id += 1;
        AttachmentId(self.next_id)
    }

    pub fn send(&mut self, lane: u8, amount: u8) {
        let lane = lane % LANES as u8;
        let Some(id) = LaneId::new(lane) else { return };
        let expected = &mut self.sent[usize::from(lane)];
        let amount = usize::from(amount);
        let len = match amount {
            // Some are longer than the copy threshold, the window or the limit.
            240.. => 4096 + (amount - 240) * 1024,
            128.. => amount * 16,
            _ => amount,
        };
        let len = if usize::from(lane) == BEST_EFFORT {
            4 + len % 1100
        } else {
            len
        };
        if self.outbox.push(id, payload(expected.next, len)).is_ok() {
            expected.coming.push_back((expected.next, len));
            expected.next += 1;
        }
    }

    /// Handles the outputs of the session. Two sessions that live and follow the protocol never end,
    /// lose their state or report a violation.
    pub fn drain(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                SessionOutput::Release {
                    reason: DetachReason::Misbehaved { what },
                    ..
                } => panic!("a violation by an honest peer is reported: it {what}"),
                SessionOutput::Release { attachment, .. } => self.released.push(attachment),
                SessionOutput::Event(
                    event @ (Event::PeerRestarted { .. } | Event::Closed { .. }),
                ) => {
                    panic!("unexpected, since both sides live: {event:?}")
                }
                SessionOutput::Event(_) => {}
            }
        }
        self.waiting.extend(self.session.take_messages());
    }

    pub fn take(&mut self, count: usize) {
        let count = count.min(self.waiting.len());
        for message in self.waiting.drain(..count) {
            self.session.consumed(message.lane, message.cost());
            self.taken.push(message);
        }
    }

    pub fn take_all(&mut self) -> bool {
        let any = !self.waiting.is_empty();
        self.take(usize::MAX);
        any
    }

    /// Checks a message that the other side's user has taken.
    pub fn check(&mut self, message: &Message) {
        let lane = usize::from(message.lane.number());
        let coming = &mut self.sent[lane].coming;
        if lane == BEST_EFFORT {
            let is_it = |&(number, len): &(u32, usize)| payload(number, len) == message.payload;
            let at = coming.iter().position(is_it);
            let at = at.unwrap_or_else(|| {
                panic!("lane {lane}: a message is repeated, reordered or changed")
            });
            coming.drain(..=at);
            return;
        }
        let Some((number, len)) = coming.pop_front() else {
            panic!("lane {lane}: more messages arrived than were sent");
        };
        let came = &message.payload;
        assert!(
            *came == payload(number, len),
            "lane {lane}: not {number} of {len} bytes, but {} bytes that begin with {:?}",
            came.len(),
            &came[..came.len().min(8)]
        );
    }

    /// Whether everything has arrived, been taken and been acknowledged.
    pub fn is_complete(&self) -> bool {
        let reliable = &self.sent[..BEST_EFFORT];
        reliable.iter().all(|it| it.coming.is_empty()) && self.outbox.used() == 0
    }

    /// The missing messages, for a failure report.
    pub fn missing(&self) -> String {
        let front = |it: &Expected| (it.coming.len(), it.coming.front().copied());
        let lanes: Vec<_> = self.sent.iter().map(front).collect();
        let (used, current) = (self.outbox.used(), self.session.current());
        format!("{lanes:?} to come, {used} bytes used, current {current:?}")
    }
}

/// A message that is unique on its lane, provided that it has at least four bytes.
fn payload(number: u32, len: usize) -> Bytes {
    let mut bytes = vec![number as u8; len];
    if let Some(head) = bytes.first_chunk_mut() {
        *head = number.to_be_bytes();
    }
    bytes.into()
}
