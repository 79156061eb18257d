//! Decides which messages must have arrived, and which may have.

use std::collections::BTreeSet;

use bytes::Bytes;
use selvedge_endpoint::{Event, Message, SendError};

use crate::side::Side;

/// Numbers the messages of one side and checks what the other received.
///
/// An accepted message must arrive exactly once and in order. Only after the death of a process each message
/// was delivered, or reported by [`Event::PeerRestarted`] or [`Event::Closed`], or lost with the sender.
#[derive(Debug, Default)]
pub struct Oracle {
    /// The next number of each lane.
    next: Vec<u32>,
    /// Messages reported to the user as possibly lost.
    reported: BTreeSet<(u8, u32)>,
    /// Messages delivered to any process.
    delivered: BTreeSet<(u8, u32)>,
    /// The number of checked messages and events of the side.
    read: usize,
    events_seen: usize,
    /// The highest number delivered on each lane.
    highest: Vec<Option<u32>>,
}

/// Lane, number, and padding.
const HEAD: usize = 5;

impl Oracle {
    /// An oracle for messages on `lanes` lanes.
    #[must_use]
    pub fn new(lanes: usize) -> Self {
        Self {
            next: vec![0; lanes],
            highest: vec![None; lanes],
            ..Self::default()
        }
    }

    /// Sends the next message of a lane, `len` bytes or a few more. Returns whether it was accepted.
    ///
    /// # Errors
    /// The errors of [`Side::send`] except [`SendError::Full`].
    pub fn send(&mut self, side: &mut Side, lane: u8, len: usize) -> Result<bool, SendError> {
        let number = self.next[usize::from(lane)];
        let mut payload = vec![lane; len.max(HEAD)];
        payload[1..HEAD].copy_from_slice(&number.to_be_bytes());
        match side.send(lane, payload) {
            Ok(()) => self.next[usize::from(lane)] += 1,
            Err(SendError::Full(_)) => return Ok(false),
            Err(other) => return Err(other),
        }
        Ok(true)
    }

    fn read_message(message: &Message) -> Result<(u8, u32), String> {
        let lane = message.lane.number();
        let head: &[u8; HEAD] = message
            .payload
            .first_chunk()
            .ok_or_else(|| format!("a message of {} bytes", message.payload.len()))?;
        let rest: &Bytes = &message.payload;
        if head[0] != lane || rest[HEAD..].iter().any(|&byte| byte != lane) {
            return Err(format!("a message of lane {} on lane {lane}", head[0]));
        }
        Ok((
            lane,
            u32::from_be_bytes([head[1], head[2], head[3], head[4]]),
        ))
    }

    /// Checks what the receiver has received since the last check, in order.
    ///
    /// # Errors
    /// The violation.
    pub fn look(&mut self, receiver: &Side) -> Result<(), String> {
        for message in &receiver.received[self.read..] {
            let (lane, number) = Self::read_message(message)?;
            let at = usize::from(lane);
            if !self.delivered.insert((lane, number)) {
                return Err(format!("lane {lane}: {number} came twice"));
            }
            if number >= self.next[at] {
                return Err(format!("lane {lane}: {number} came and was never sent"));
            }
            if self.highest[at].is_some_and(|highest| number < highest) {
                return Err(format!("lane {lane}: {number} came late"));
            }
            self.highest[at] = Some(number);
        }
        self.read = receiver.received.len();
        Ok(())
    }

    /// Checks the sender's events since the last check.
    ///
    /// # Errors
    /// An event that reports a message that was never sent.
    pub fn check_events(&mut self, sender: &Side) -> Result<(), String> {
        for event in &sender.events[self.events_seen..] {
            let (Event::PeerRestarted { undelivered } | Event::Closed { undelivered, .. }) = event
            else {
                continue;
            };
            for message in undelivered {
                self.reported.insert(Self::read_message(message)?);
            }
        }
        self.events_seen = sender.events.len();
        Ok(())
    }

    /// The receiving process was replaced. Check the dead one before.
    pub fn receiver_restarted(&mut self) {
        self.read = 0;
    }

    /// The sending process was replaced: messages that it had accepted may be lost.
    pub fn sender_restarted(&mut self) {
        self.events_seen = 0;
        for (lane, &next) in (0..).zip(&self.next) {
            self.reported.extend((0..next).map(|number| (lane, number)));
        }
    }

    /// Whether every accepted message has arrived or was reported.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing().next().is_none()
    }

    /// Accepted messages that neither arrived nor were reported, by lane and number.
    pub fn missing(&self) -> impl Iterator<Item = (u8, u32)> {
        let sent = (0..).zip(&self.next);
        let sent = sent.flat_map(|(lane, &next)| (0..next).map(move |number| (lane, number)));
        sent.filter(|it| !self.delivered.contains(it) && !self.reported.contains(it))
    }

    /// The number of accepted messages.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.next.iter().map(|&next| u64::from(next)).sum()
    }
}
