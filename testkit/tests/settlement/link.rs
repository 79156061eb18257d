//! The connections between the source and its entry zippers.

use std::time::Duration;

use selvedge_client::settlement::{AbandonReason, FlowOffer, GroupId, SourceMessage};
use selvedge_zipper::settlement::{EntryFlow, MemberDelivery, SourceOutput};

use crate::world::World;

/// What the source sends to an entry zipper.
#[derive(Debug)]
pub(crate) enum ToEntry {
    Offer(FlowOffer),
    Live(u64),
    Resent(GroupId, u32, u64),
    ResendEnd(GroupId, u32, u64, u64),
    Confirm(u64),
    Base(u64),
    Alive(u32),
    Waiting,
}

impl ToEntry {
    fn message(message: SourceMessage<'_>) -> Self {
        match message {
            SourceMessage::Live { sequence, .. } => Self::Live(sequence),
            SourceMessage::Resent {
                group,
                token,
                sequence,
                ..
            } => Self::Resent(group, token, sequence),
            SourceMessage::ResendEnd {
                group,
                token,
                base,
                complete_below,
            } => Self::ResendEnd(group, token, base, complete_below),
        }
    }
}

impl World {
    /// The source attaches to an entry zipper that knows nothing of it. The one that it leaves may not know,
    /// and may receive a part of what is under way.
    pub(crate) fn attach(&mut self, at: usize) {
        self.note(format!("the source attaches to entry {at}"));
        if let Some(former) = self.attached {
            let rest = self.rng.usize(..=self.to_entry[former].len());
            self.to_entry[former].truncate(rest);
            let rest = self.rng.usize(..=self.to_source[former].len());
            self.to_source[former].truncate(rest);
        }
        self.attached = Some(at);
        self.is_stalled = false;
        self.base_sent = 0;
        let offer = self.source.attach();
        self.send_to_entry(ToEntry::Offer(offer));
    }

    fn send_to_entry(&mut self, message: ToEntry) {
        if let Some(at) = self.attached {
            self.to_entry[at].push_back((self.source.attachment(), message));
        }
    }

    /// Once a second, the source reports that it waits.
    pub(crate) fn report_waiting(&mut self) {
        if self.now < self.waiting_at {
            return;
        }
        self.waiting_at = self.now + Duration::from_secs(1);
        if self.source.is_waiting() {
            self.send_to_entry(ToEntry::Waiting);
        }
    }

    pub(crate) fn pump_source(&mut self) {
        if self.source.base() > self.base_sent && self.rng.bool() {
            self.base_sent = self.source.base();
            self.send_to_entry(ToEntry::Base(self.base_sent));
        }
        for _ in 0..self.rng.u32(..20) {
            let Some(message) = self.source.poll_message(10) else {
                return;
            };
            let message = ToEntry::message(message);
            self.send_to_entry(message);
        }
    }

    /// An entry zipper handles what has arrived from the source.
    pub(crate) fn pump_entry(&mut self) {
        let at = match (self.attached, self.rng.u8(..4)) {
            (Some(at), 1..) => at,
            _ => self.rng.usize(..self.to_entry.len()),
        };
        if self.now < self.stalled_until[at] {
            return;
        }
        for _ in 0..self.rng.u32(..30) {
            let Some((attachment, message)) = self.to_entry[at].pop_front() else {
                break;
            };
            if let ToEntry::Offer(offer) = message {
                self.handle_offer(at, offer);
                continue;
            }
            let is_current = |it: &EntryFlow| it.is_current(attachment);
            if !self.entries[at].as_ref().is_some_and(is_current) {
                continue;
            }
            self.handle_message(at, message);
            self.drain(at);
        }
        self.poll_entry(at);
    }

    fn handle_offer(&mut self, at: usize, offer: FlowOffer) {
        let flow = EntryFlow::new(self.now, self.settings, offer);
        let mut flow = flow.expect("a valid offer");
        self.update_groups(&mut flow);
        self.entries[at] = Some(flow);
        let reached = self.processes.iter().filter(|it| it.reached_by[at]);
        for id in reached.map(|it| it.id).collect::<Vec<_>>() {
            self.begin_route(at, id);
        }
    }

    fn handle_message(&mut self, at: usize, message: ToEntry) {
        let mut deliveries = Vec::new();
        let is_declined = matches!(&message, ToEntry::Live(sequence) if self.is_forbidden || self.is_declined(*sequence));
        let Some(flow) = &mut self.entries[at] else {
            return;
        };
        let mut deliver = |delivery| deliveries.push(delivery);
        match message {
            ToEntry::Live(_) if is_declined => {
                let reason = match self.is_forbidden {
                    true => AbandonReason::Forbidden,
                    false => AbandonReason::TooDeep,
                };
                flow.decline(1, reason);
            }
            ToEntry::Live(sequence) if self.rng.u8(..4) == 0 => {
                self.handle_burst(at, sequence);
            }
            ToEntry::Live(sequence) => assert!(flow.handle_live(sequence, deliver), "in order"),
            ToEntry::Resent(group, token, sequence) => {
                if let Some(delivery) = flow.handle_resent(group, token, sequence) {
                    deliver(delivery);
                }
            }
            ToEntry::ResendEnd(group, token, base, complete_below) => {
                flow.handle_resend_end(group, token, base, complete_below);
            }
            ToEntry::Confirm(version) => flow.handle_confirmed(version),
            ToEntry::Base(base) => flow.handle_base(base),
            ToEntry::Alive(number) => flow.handle_alive(number),
            ToEntry::Waiting => flow.handle_waiting(self.now),
            ToEntry::Offer(_) => unreachable!("handled by the caller"),
        }
        for delivery in deliveries {
            self.deliver(at, delivery, 1);
        }
    }

    /// Whether every entry zipper declines a message.
    fn is_declined(&self, sequence: u64) -> bool {
        self.declines && sequence % 10 < 2
    }

    /// The fast path: the live messages that have arrived, as far as they have the same recipients.
    fn handle_burst(&mut self, at: usize, sequence: u64) {
        let waiting = self.to_entry[at].iter();
        let is_next =
            |it: &ToEntry| matches!(it, ToEntry::Live(sequence) if !self.is_declined(*sequence));
        let waiting = waiting.take_while(|(_, it)| is_next(it));
        let len = 1 + waiting.count() as u64;
        let mut deliveries = Vec::new();
        let Some(flow) = &mut self.entries[at] else {
            return;
        };
        let most = flow.live_block(len, |delivery| deliveries.push(delivery));
        assert!(most <= len);
        if most == 0 {
            assert!(deliveries.is_empty());
            assert!(
                flow.handle_live(sequence, |it| deliveries.push(it)),
                "in order"
            );
        }
        let count = self.rng.u64(1..=most.max(1));
        if most > 0 {
            flow.advance(count);
        }
        self.to_entry[at].drain(..count as usize - 1);
        for delivery in deliveries {
            self.deliver(at, delivery, count);
        }
    }

    /// Sends messages to an instance, as far as there is room.
    pub(crate) fn deliver(&mut self, at: usize, delivery: MemberDelivery, count: u64) {
        let MemberDelivery {
            group,
            instance,
            epoch,
            sequence,
            is_redelivery,
        } = delivery;
        let mut routes = self.routes.iter_mut();
        let route = routes.find(|it| it.entry == at && it.epoch == epoch);
        let Some(route) = route.filter(|it| !it.is_over) else {
            return;
        };
        assert_eq!((route.group, route.instance), (group, instance));
        for number in sequence..sequence + count {
            if route.down.len() >= self.room {
                let messages = number..sequence + count;
                self.full.insert((at, group, instance));
                if let Some(flow) = &mut self.entries[at] {
                    flow.handle_refused(group, instance, messages);
                }
                return;
            }
            route.send(number, is_redelivery);
        }
    }

    /// An entry zipper sends to the source what it has to, if there is room.
    pub(crate) fn poll_entry(&mut self, at: usize) {
        let Some(flow) = &mut self.entries[at] else {
            return;
        };
        let attachment = flow.attachment();
        for _ in 0..self.rng.usize(..5) {
            if self.to_source[at].len() > 10 {
                return;
            }
            let Some(output) = flow.poll_source_output() else {
                return;
            };
            self.to_source[at].push_back((attachment, output));
        }
    }

    /// The source handles what entry zippers have sent.
    pub(crate) fn pump_to_source(&mut self) {
        let at = match (self.attached, self.rng.u8(..4)) {
            (Some(at), 1..) => at,
            _ => self.rng.usize(..self.to_source.len()),
        };
        if self.is_stalled {
            return;
        }
        for _ in 0..self.rng.u32(..20) {
            self.poll_entry(at);
            let Some((attachment, output)) = self.to_source[at].pop_front() else {
                return;
            };
            if self.source.is_current(attachment) {
                self.handle_output(output);
            }
        }
    }

    fn handle_output(&mut self, output: SourceOutput) {
        match output {
            SourceOutput::Announce(recipients) => {
                self.judge.announced(&recipients.groups);
                let version = self.source.handle_recipients(recipients);
                self.send_to_entry(ToEntry::Confirm(version));
            }
            SourceOutput::Routed { routed, declined } => {
                declined.iter().for_each(|it| self.judge.declined(it));
                let result = self.source.handle_routed(routed, &declined);
                result.expect("routed");
            }
            SourceOutput::Settled { group, messages } => {
                self.judge.settled(group, &messages);
                let result = self.source.handle_settled(group, &messages);
                result.expect("settled");
            }
            SourceOutput::Abandoned {
                group,
                messages,
                reason,
            } => {
                self.judge.abandoned(group, &messages, reason);
                let result = self.source.handle_abandoned(group, &messages, reason);
                result.expect("abandoned");
            }
            SourceOutput::Resend(request) => {
                self.resends += 1;
                self.source.handle_resend(request).expect("a request");
            }
            SourceOutput::Probe(number) => self.send_to_entry(ToEntry::Alive(number)),
        }
    }
}
