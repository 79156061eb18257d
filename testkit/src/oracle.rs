//! What must have arrived, and what may have.

use std::collections::BTreeSet;

use bytes::Bytes;
use selvedge_endpoint::{Event, Message, SendError};

use crate::side::Side;

/// Numbers the messages of one side, and judges what the other received.
///
/// A message that was accepted must arrive exactly once and in order. Only when a process has died
/// may it be otherwise: then each message was delivered, or reported by
/// [`Event::PeerRestarted`] or [`Event::Closed`], or died with the sender.
#[derive(Debug, Default)]
pub struct Oracle {
    /// The next number of each lane.
    next: Vec<u32>,
    /// What is told to the user as perhaps lost.
    reported: BTreeSet<(u8, u32)>,
    /// What was delivered, to whichever process.
    delivered: BTreeSet<(u8, u32)>,
    /// How far the looked-at side has been read.
    read: usize,
    told: usize,
    /// The highest number delivered on each lane.
    highest: Vec<Option<u32>>,
}

/// Lane, number, and as many bytes as are left.
const HEAD: usize = 5;

impl Oracle {
    /// For messages on `lanes` lanes.
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
    /// What [`Side::send`] says, but [`SendError::Full`].
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

    /// Looks at what the receiver got since the last look, in order.
    ///
    /// # Errors
    /// What is wrong with it.
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

    /// Looks at what the sender was told since the last look.
    ///
    /// # Errors
    /// When it is told of what it never sent.
    pub fn hear(&mut self, sender: &Side) -> Result<(), String> {
        for event in &sender.events[self.told..] {
            let (Event::PeerRestarted { undelivered } | Event::Closed { undelivered, .. }) = event
            else {
                continue;
            };
            for message in undelivered {
                self.reported.insert(Self::read_message(message)?);
            }
        }
        self.told = sender.events.len();
        Ok(())
    }

    /// The receiving process is another one from now on. Look at the dead one before.
    pub fn receiver_restarted(&mut self) {
        self.read = 0;
    }

    /// The sending process is another one from now on: what it had accepted may be lost.
    pub fn sender_restarted(&mut self) {
        self.told = 0;
        for (lane, &next) in (0..).zip(&self.next) {
            self.reported.extend((0..next).map(|number| (lane, number)));
        }
    }

    /// Whether everything that was accepted has arrived or was reported.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing().next().is_none()
    }

    /// What was accepted and neither arrived nor was reported, by lane and number.
    pub fn missing(&self) -> impl Iterator<Item = (u8, u32)> {
        let sent = (0..).zip(&self.next);
        let sent = sent.flat_map(|(lane, &next)| (0..next).map(move |number| (lane, number)));
        sent.filter(|it| !self.delivered.contains(it) && !self.reported.contains(it))
    }

    /// How many messages were accepted.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.next.iter().map(|&next| u64::from(next)).sum()
    }
}
