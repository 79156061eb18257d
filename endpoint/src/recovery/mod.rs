//! Recovery on a transport that loses frames: numbered packets, their acknowledgements, loss
//! detection and congestion control. The method of RFC 9002, for the frames of a session.
//!
//! Numbers are never reused: lost data is sent again, cut differently, in a packet with a new
//! number. An acknowledgement therefore identifies one transmission, and the round trip time is
//! unambiguous.
//!
//! Omitted from RFC 9002: persistent congestion (7.6), because a transport that is silent for
//! [`SessionConfig::silence_max`](crate::SessionConfig::silence_max) is given up; packet number
//! spaces, because the peer has been authenticated before.

mod arrivals;
mod congestion;
mod pacer;
mod rtt;

use std::collections::VecDeque;
use std::time::Duration;

use arrivals::Arrivals;
use congestion::Congestion;
use pacer::Pacer;
use rtt::Rtt;
use selvedge_transport::Instant;

use crate::error::Misbehaved;
use crate::lane::LaneId;
use crate::wire::PacketAck;

/// A packet is lost when one with a number this much higher was acknowledged (RFC 9002, section 6.1.1).
const REORDERING_MAX: u64 = 3;

/// How many packets may be in flight, whatever their size: a peer that never acknowledges them costs
/// no more than 3 MiB.
const IN_FLIGHT_MAX: usize = 1 << 16;

/// How many packets a probe sends (RFC 9002, section 6.2.4).
const PROBES: u32 = 2;

/// The maximum interval of probes, so that several are sent in the 3 s of silence after which a
/// transport is given up: at 30 % loss each way, six of them all fail once in 100 times.
const PROBE_TIMEOUT_MAX: Duration = Duration::from_millis(500);

/// After this many losses and timeouts in a row without an acknowledged large packet, the path is
/// assumed to drop large packets (black hole detection, RFC 8899, section 4.3).
const BLACK_HOLE_THRESHOLD: u32 = 4;

/// The longest frame on a path that seems to drop large datagrams. With the headers of UDP and of its
/// encryption it fits into 576 bytes, which every IPv4 host accepts (RFC 791, section 3.1).
const SMALL_FRAME_LEN: usize = 500;

/// How long frames stay small before large ones are tried again. RFC 8899, section 5.1.1,
/// recommends ten minutes; here an attempt costs only some packets, and a mistake would cost half
/// the rate.
const SMALL_FRAMES_DURATION: Duration = Duration::from_secs(60);

/// The content of a packet, for its retransmission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// A piece of a lane's stream.
    Data {
        lane: LaneId,
        offset: u64,
        len: usize,
    },
    /// The positions of the lanes. A retransmission carries the positions of that time.
    Positions,
    Ready,
    Close,
    /// A ping or a best-effort message, which is not retransmitted.
    Once,
}

impl Content {
    /// How many bytes of a lane's stream it has.
    pub(crate) const fn data_len(self) -> usize {
        match self {
            Self::Data { len, .. } => len,
            Self::Positions | Self::Ready | Self::Close | Self::Once => 0,
        }
    }
}

/// A packet in flight.
#[derive(Debug)]
struct SentPacket {
    at: Instant,
    len: u64,
    content: Content,
}

/// The recovery state of one lossy transport, in both directions.
#[derive(Debug)]
pub(crate) struct Recovery {
    /// Packets from the number `base` on; `None` once acknowledged or declared lost.
    sent: VecDeque<Option<SentPacket>>,
    base: u64,
    in_flight: u64,
    largest_acked: Option<u64>,
    last_sent: Option<Instant>,
    /// When the oldest packet below the largest acknowledged one is declared lost.
    loss_at: Option<Instant>,
    /// Probe timeouts since the last acknowledgement.
    timeouts: u32,
    /// Packets that may be sent in spite of a full window.
    probes: u32,
    rtt: Rtt,
    congestion: Congestion,
    pacer: Pacer,
    /// When the pacer permits the next packet, if it has delayed one.
    paced_until: Option<Instant>,
    /// Losses and timeouts of large packets since a large one was acknowledged.
    large_losses: u32,
    /// Since when frames are limited to [`SMALL_FRAME_LEN`].
    small_since: Option<Instant>,
    arrivals: Arrivals,
}

/// The result of an acknowledgement or a timeout.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What to retransmit.
    pub(crate) retransmit: Vec<Content>,
    /// How many packets were declared lost.
    pub(crate) lost: u64,
    /// A probe must be sent: without one the peer may have nothing to acknowledge.
    pub(crate) is_probe: bool,
    /// The peer has acknowledged a `Close`.
    pub(crate) close_acked: bool,
}

impl Recovery {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            sent: VecDeque::new(),
            base: 0,
            in_flight: 0,
            largest_acked: None,
            last_sent: None,
            loss_at: None,
            timeouts: 0,
            probes: 0,
            rtt: Rtt::default(),
            congestion: Congestion::new(),
            pacer: Pacer::new(now),
            paced_until: None,
            large_losses: 0,
            small_since: None,
            arrivals: Arrivals::default(),
        }
    }

    /// The round trip time of the introduction: an estimate until a packet is acknowledged.
    pub(crate) fn set_initial_rtt(&mut self, rtt: Duration) {
        if self.largest_acked.is_none() {
            self.rtt.update(rtt, Duration::ZERO);
        }
    }

    /// Whether no packet is in flight.
    pub(crate) const fn is_quiet(&self) -> bool {
        self.in_flight == 0
    }

    /// Whether so many packets are in flight that no numbered one may be sent, not even control.
    pub(crate) fn is_crowded(&self) -> bool {
        self.sent.len() >= IN_FLIGHT_MAX
    }

    /// Whether the congestion window permits data now. The pacer is not considered.
    pub(crate) const fn has_window(&self) -> bool {
        self.probes > 0 || self.in_flight < self.congestion.window()
    }

    /// Whether data may be sent now.
    pub(crate) fn may_send(&mut self, now: Instant) -> bool {
        if self.is_crowded() {
            return false;
        }
        if self.probes > 0 {
            return true;
        }
        if self.in_flight >= self.congestion.window() {
            return false;
        }
        let (window, rtt) = (self.congestion.window(), self.rtt.smoothed());
        self.paced_until = self.pacer.next_send(now, window, rtt);
        self.paced_until.is_none()
    }

    /// The longest frame to send now.
    pub(crate) fn frame_max(&mut self, now: Instant) -> usize {
        if self
            .small_since
            .is_some_and(|since| now >= since + SMALL_FRAMES_DURATION)
        {
            self.small_since = None;
            self.large_losses = 0;
        }
        self.small_since.map_or(usize::MAX, |_| SMALL_FRAME_LEN)
    }

    /// The number of the next packet.
    pub(crate) fn next_number(&self) -> u64 {
        self.base + self.sent.len() as u64
    }

    /// Records that the packet with [`next_number`](Self::next_number) was handed to the transport.
    pub(crate) fn sent(&mut self, now: Instant, len: usize, content: Content) {
        let len = len as u64;
        self.sent.push_back(Some(SentPacket {
            at: now,
            len,
            content,
        }));
        self.in_flight += len;
        self.last_sent = Some(now);
        self.probes = self.probes.saturating_sub(1);
        self.pacer.sent(len);
    }

    /// Records a numbered packet that arrived and was accepted.
    pub(crate) fn arrived(&mut self, now: Instant, number: u64) {
        self.arrivals.record(now, number);
    }

    /// Makes an acknowledgement due at once, even if nothing new has arrived.
    pub(crate) const fn ack_now(&mut self, now: Instant) {
        self.arrivals.ack_now(now);
    }

    /// The acknowledgement to send, if it is due.
    pub(crate) fn take_due_ack(&mut self, now: Instant) -> Option<PacketAck> {
        self.arrivals.take_due_ack(now)
    }

    /// The peer acknowledges packets.
    pub(crate) fn handle_packet_ack(
        &mut self,
        now: Instant,
        ack: &PacketAck,
    ) -> Result<Outcome, Misbehaved> {
        let mut outcome = Outcome::default();
        let Some(largest) = ack.ranges.first().map(|range| range.end - 1) else {
            return Err(Misbehaved("acknowledged an empty set of packets"));
        };
        if largest >= self.next_number() {
            return Err(Misbehaved("acknowledged a packet that was never sent"));
        }
        // A window that was not used up gives no information on the path (RFC 9002, section 7.8).
        let was_full = self.in_flight * 2 >= self.congestion.window();
        for range in ack.ranges.iter().rev() {
            for number in range.start.max(self.base)..range.end {
                let Some(packet) = self.settle(number) else {
                    continue;
                };
                outcome.close_acked |= packet.content == Content::Close;
                if number == largest {
                    let latest = now.saturating_duration_since(packet.at);
                    self.rtt.update(latest, ack.delay);
                }
                if was_full {
                    let rtt = self.rtt.smoothed();
                    self.congestion.acked(now, packet.at, packet.len, rtt);
                }
                self.timeouts = 0;
                if packet.len > SMALL_FRAME_LEN as u64 {
                    self.large_losses = 0;
                }
            }
        }
        self.largest_acked = self.largest_acked.max(Some(largest));
        self.detect_losses(now, &mut outcome);
        self.remove_settled();
        Ok(outcome)
    }

    /// Removes a packet from flight, because it was acknowledged or declared lost.
    fn settle(&mut self, number: u64) -> Option<SentPacket> {
        let index = usize::try_from(number.checked_sub(self.base)?).ok()?;
        let packet = self.sent.get_mut(index)?.take()?;
        self.in_flight -= packet.len;
        Some(packet)
    }

    fn remove_settled(&mut self) {
        while let Some(None) = self.sent.front() {
            self.sent.pop_front();
            self.base += 1;
        }
    }

    fn detect_losses(&mut self, now: Instant, outcome: &mut Outcome) {
        self.loss_at = None;
        let Some(largest) = self.largest_acked else {
            return;
        };
        let delay = self.rtt.loss_delay();
        let mut lost_len_max = 0;
        for number in self.base..largest {
            let index = (number - self.base) as usize;
            let Some(Some(packet)) = self.sent.get(index) else {
                continue;
            };
            let late_at = packet.at + delay;
            if number + REORDERING_MAX <= largest || late_at <= now {
                if let Some(packet) = self.settle(number) {
                    outcome.lost += 1;
                    lost_len_max = packet.len.max(lost_len_max);
                    outcome.retransmit.push(packet.content);
                    self.congestion.lost(now, packet.at);
                }
            } else {
                // Later packets were sent later.
                self.loss_at = Some(late_at);
                break;
            }
        }
        self.count_large_loss(now, lost_len_max);
    }

    /// Counts the loss of a packet of that length for black hole detection.
    fn count_large_loss(&mut self, now: Instant, len: u64) {
        if len > SMALL_FRAME_LEN as u64 {
            self.large_losses += 1;
            if self.large_losses >= BLACK_HOLE_THRESHOLD {
                self.small_since.get_or_insert(now);
            }
        }
    }

    fn probe_at(&self) -> Option<Instant> {
        let last_sent = self.last_sent.filter(|_| self.in_flight > 0)?;
        let timeout = self.rtt.probe_timeout();
        let doubled = timeout.saturating_mul(1 << self.timeouts.min(16));
        Some(last_sent + doubled.min(PROBE_TIMEOUT_MAX.max(timeout)))
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn timeout(&self) -> Option<Instant> {
        let lost_or_probe = self.loss_at.or_else(|| self.probe_at());
        let paced = self.paced_until;
        lost_or_probe
            .into_iter()
            .chain(paced)
            .chain(self.arrivals.due())
            .min()
    }

    /// Handles expired timers.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        if self.paced_until.is_some_and(|at| at <= now) {
            self.paced_until = None;
        }
        if self.loss_at.is_some_and(|at| at <= now) {
            self.detect_losses(now, &mut outcome);
            self.remove_settled();
        } else if self.loss_at.is_none() && self.probe_at().is_some_and(|at| at <= now) {
            self.timeouts += 1;
            self.probes = PROBES;
            // The next probe timeout starts now, even if the transport cannot send the probes yet.
            self.last_sent = Some(now);
            let oldest = self.sent.iter().flatten().take(PROBES as usize);
            outcome.is_probe = true;
            outcome
                .retransmit
                .extend(oldest.map(|packet| packet.content));
            let lens = self.sent.iter().flatten().map(|packet| packet.len);
            self.count_large_loss(now, lens.max().unwrap_or(0));
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
