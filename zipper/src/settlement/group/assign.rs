//! Which member of a group receives which message.

use std::ops::Range;

use selvedge_client::settlement::{GroupId, InstanceId, RANGES_MAX, ResendRequest, RouteEpoch};

use super::GroupFlow;
use crate::settlement::member::{Member, MemberRoute};
use crate::settlement::outputs::MemberDelivery;
use crate::settlement::rare::RareSet;

/// How many consecutive messages one member receives before it is the turn of another.
const BLOCK_LEN: u32 = 256;

/// The same if there is no other.
const LONE_BLOCK_LEN: u32 = 1 << 20;

/// A member that has so many messages more than another one, and has not reported them, receives no further ones.
const LOAD_AHEAD: u64 = 2 * BLOCK_LEN as u64;

/// Live messages that one member receives, or that wait for one, without further checks. They are assigned
/// when the block is closed, which is before anything else happens to the group.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenBlock {
    start: u64,
    /// 0 if no block is open.
    pub(super) end: u64,
    /// `WAITING` if no member can receive them now.
    member: u32,
    epoch: RouteEpoch,
    instance: InstanceId,
}

/// The index of no member.
const WAITING: u32 = u32::MAX;

pub(super) const NO_BLOCK: OpenBlock = OpenBlock {
    start: 0,
    end: 0,
    member: 0,
    epoch: RouteEpoch {
        attachment: 0,
        route: 0,
    },
    instance: InstanceId(0),
};

impl GroupFlow {
    /// A live message has arrived. Returns where it goes to now, if there is a member for it.
    #[inline]
    pub(in crate::settlement) fn assign(
        &mut self,
        sequence: u64,
        confirmed: u32,
    ) -> Option<MemberDelivery> {
        match sequence < self.block.end {
            true => self.block_delivery(sequence),
            false => self.assign_anew(sequence, confirmed),
        }
    }

    #[inline]
    fn block_delivery(&self, sequence: u64) -> Option<MemberDelivery> {
        (self.block.member != WAITING).then_some(MemberDelivery {
            group: self.recipients.group,
            instance: self.block.instance,
            epoch: self.block.epoch,
            sequence,
            is_redelivery: false,
        })
    }

    #[inline(never)]
    fn assign_anew(&mut self, sequence: u64, confirmed: u32) -> Option<MemberDelivery> {
        self.close_block(sequence);
        if !self.receives(sequence) {
            return None;
        }
        if let Some((delivery, _)) = self.open_block(sequence, confirmed) {
            return delivery;
        }
        if sequence < self.floor || self.settled.contains(sequence) {
            return None;
        }
        let is_assigned = |it: &Member| sequence < it.end && it.assigned.contains(sequence);
        if self.members.iter().any(is_assigned) {
            return None;
        }
        let at = match self.is_recovering() {
            true => None,
            false => self.next_live(sequence, confirmed),
        };
        let Some(at) = at else {
            self.unassigned.insert(sequence..sequence + 1);
            return None;
        };
        self.turn.1 -= 1;
        let assignment = self.members[at].take_next(sequence, &mut self.uncertain);
        assignment.map(|it| it.delivery(self.recipients.group, sequence))
    }

    /// Begins a block with a message, if the messages from it on are new to every member. Returns where
    /// they go to, if a member can receive them now, and the end of the block.
    pub(in crate::settlement) fn open_block(
        &mut self,
        sequence: u64,
        confirmed: u32,
    ) -> Option<(Option<MemberDelivery>, u64)> {
        if sequence < self.block.end {
            return Some((self.block_delivery(sequence), self.block.end));
        }
        self.close_block(sequence);
        let is_new = sequence >= self.floor && self.members.iter().all(|it| it.end <= sequence);
        if !is_new || !self.receives(sequence) {
            return None;
        }
        let next = [&self.settled, &*self.uncertain].map(|set| set.first_from(sequence));
        let limit = next
            .into_iter()
            .flatten()
            .chain(self.recipients.until)
            .min();
        if limit == Some(sequence) {
            return None;
        }
        let member = match self.is_recovering() {
            true => None,
            false => self.next_live(sequence, confirmed),
        };
        let block = match member.map(|at| (at as u32, &self.members[at])) {
            // One group without a member must not make the others slower.
            None => OpenBlock {
                start: sequence,
                end: sequence + u64::from(LONE_BLOCK_LEN),
                member: WAITING,
                ..NO_BLOCK
            },
            Some((at, member)) => {
                let MemberRoute::Bound(epoch) = member.route else {
                    return None;
                };
                OpenBlock {
                    start: sequence,
                    end: sequence + u64::from(self.turn.1),
                    member: at,
                    epoch,
                    instance: member.instance,
                }
            }
        };
        let end = block.end.min(limit.unwrap_or(block.end));
        self.block = OpenBlock { end, ..block };
        Some((self.block_delivery(sequence), end))
    }

    /// Assigns the messages of the block that have arrived. Everything below `arrived` has.
    #[inline]
    pub(in crate::settlement) fn close_block(&mut self, arrived: u64) {
        let block = std::mem::replace(&mut self.block, NO_BLOCK);
        if block.end == 0 {
            return;
        }
        let sent = block.start..block.end.min(arrived);
        if block.member == WAITING {
            return self.unassigned.insert(sent);
        }
        self.turn.1 -= (sent.end - sent.start) as u32;
        if let Some(member) = self.members.get_mut(block.member as usize)
            && !sent.is_empty()
        {
            member.end = sent.end;
            member.assigned.insert(sent);
        }
    }

    /// Whether live messages may be sent to a member. The answer to a request covers what arrives before it.
    fn is_live(&self, member: &Member, confirmed: u32) -> bool {
        let request = self.request.as_ref();
        member.is_live(confirmed) && request.is_none_or(|&it| it != member.instance)
    }

    /// The member whose turn it is, among those that may receive a live message in order.
    fn next_live(&mut self, sequence: u64, confirmed: u32) -> Option<usize> {
        let (at, left) = (self.turn.0 as usize, self.turn.1);
        let is_live = |at: usize| {
            let member = self.members.get(at);
            member.is_some_and(|it| it.end <= sequence && self.is_live(it, confirmed))
        };
        if left > 0 && is_live(at) {
            return Some(at);
        }
        let len = self.members.len();
        let live = || {
            (at + 1..=at + len)
                .map(|it| it % len)
                .filter(|&it| is_live(it))
        };
        // One that is slower than the others, or blocked, is not given all of the source's window.
        let load = |at: usize| self.members[at].assigned_len();
        let least = match len {
            1 => 0,
            _ => live().map(load).min()?,
        };
        let next = live().find(|&it| len == 1 || load(it) <= least + LOAD_AHEAD)?;
        let block_len = if len == 1 { LONE_BLOCK_LEN } else { BLOCK_LEN };
        self.turn = (next as u32, block_len);
        Some(next)
    }

    /// Gives messages without a member to one that may receive messages.
    pub(in crate::settlement) fn assign_waiting(&mut self, confirmed: u32) {
        if self.unassigned.is_empty() || self.is_recovering() {
            return;
        }
        let requesting = self.request;
        let is_able = |it: &Member| it.is_eligible(confirmed) && Some(it.instance) != requesting;
        // What one of the others can take in order later waits for it.
        let others = self.members.iter().filter(|it| !is_able(it));
        let waits_from = others.map(|it| it.end).min().unwrap_or(u64::MAX);
        let first = self.unassigned.first().unwrap_or(0);
        let new_from = self.members.iter().filter(|it| it.is_selected());
        let new_from = new_from.map(|it| it.end).min().unwrap_or(u64::MAX);
        // One that is not selected takes what no selected one can take in order.
        let may_take = |it: &Member| it.is_selected() || it.end <= first && first < new_from;
        let able = self
            .members
            .iter_mut()
            .filter(|it| is_able(it) && may_take(it));
        // The one that may take most of them in order: one that is not selected, if it may take any.
        let Some(member) = able.min_by_key(|it| it.end) else {
            return;
        };
        let mut taken = self.unassigned.clone();
        if !member.is_selected() {
            taken.remove(new_from..u64::MAX);
        }
        taken.remove(waits_from..member.end);
        // Messages that are not delivered in order to anyone anyway wait for nobody.
        let mut flagged = self.unassigned.common(&self.uncertain);
        taken.insert_all(&flagged);
        flagged.insert_all(&taken.within(0..member.end));
        self.uncertain.remove_all(&flagged);
        member.redelivered.insert_all(&flagged);
        member.assigned.insert_all(&taken);
        member.missing.insert_all(&taken);
        member.end = member.end.max(taken.last().map_or(0, |last| last + 1));
        self.unassigned.remove_all(&taken);
    }

    /// Requests what a member misses, if no request is under way. Everything below `arrived` has arrived.
    pub(in crate::settlement) fn request(
        &mut self,
        confirmed: u32,
        arrived: u64,
    ) -> Option<ResendRequest> {
        if self.request.is_some() || self.is_recovering() {
            return None;
        }
        // Messages that have arrived since belong to the request.
        self.assign_waiting(confirmed);
        // What has not arrived will.
        let misses = |it: &&Member| {
            let has_arrived = it.missing.first().is_some_and(|first| first < arrived);
            it.is_eligible(confirmed) && has_arrived
        };
        // In turn: one that is slow, and has a little room again and again, must not make the others wait.
        let (before, from) = self
            .members
            .split_at(self.token as usize % self.members.len().max(1));
        let member = from.iter().chain(before).find(misses)?;
        self.token = self.token.wrapping_add(1);
        let mut rest = member.missing.clone();
        rest.remove(arrived..u64::MAX);
        let ranges = rest.take_ranges(RANGES_MAX);
        self.request = Some(member.instance);
        Some(ResendRequest {
            group: self.recipients.group,
            token: self.token,
            ranges,
            // Later ones follow all that it misses.
            from: rest.is_empty().then_some(arrived),
            bytes: member.room(),
        })
    }

    /// A message that was requested has arrived. Returns where it goes to.
    pub(in crate::settlement) fn assign_resent(
        &mut self,
        token: u32,
        sequence: u64,
    ) -> Option<MemberDelivery> {
        let instance = self.request.filter(|_| self.token == token)?;
        let member = self.members.iter_mut().find(|it| it.instance == instance)?;
        let one = sequence..sequence + 1;
        let assignment = if member.missing.contains(sequence) {
            member.missing.remove(one);
            member.assignment(sequence)
        } else if self.unassigned.contains(sequence) && sequence >= member.end {
            self.unassigned.remove(one);
            member.take_next(sequence, &mut self.uncertain)
        } else {
            None
        };
        assignment.map(|it| it.delivery(self.recipients.group, sequence))
    }

    /// There was no room for messages that were to be sent to a member.
    pub(in crate::settlement) fn refuse(&mut self, instance: InstanceId, messages: Range<u64>) {
        let Some(member) = self.member(instance) else {
            return;
        };
        let refused = member.assigned.within(messages);
        member.missing.insert_all(&refused);
        member.handle_full();
        self.request.take_if(|it| *it == instance);
    }

    /// The answer to a request has ended. Nothing was added to what the member misses since the request.
    pub(in crate::settlement) fn end_resend(&mut self, token: u32, complete_below: u64) {
        if self.token != token {
            return;
        }
        let Some(instance) = self.request.take() else {
            return;
        };
        let missing = self.member(instance).map(|it| &it.missing);
        let settled = missing.map(|it| it.within(0..complete_below));
        self.finish(&settled.unwrap_or_default());
    }
}

/// A message on its way to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Assignment {
    instance: InstanceId,
    epoch: RouteEpoch,
    is_redelivery: bool,
}

impl Assignment {
    const fn delivery(self, group: GroupId, sequence: u64) -> MemberDelivery {
        MemberDelivery {
            group,
            instance: self.instance,
            epoch: self.epoch,
            sequence,
            is_redelivery: self.is_redelivery,
        }
    }
}

impl Member {
    /// It receives a message that follows all that it has received.
    fn take_next(&mut self, sequence: u64, uncertain: &mut RareSet) -> Option<Assignment> {
        let one = sequence..sequence + 1;
        if uncertain.contains(sequence) {
            uncertain.remove(one.clone());
            self.redelivered.insert(one.clone());
        }
        self.assigned.insert(one);
        self.end = sequence + 1;
        self.assignment(sequence)
    }

    /// A message that is assigned to it, and can be sent.
    fn assignment(&self, sequence: u64) -> Option<Assignment> {
        let MemberRoute::Bound(epoch) = self.route else {
            return None;
        };
        Some(Assignment {
            instance: self.instance,
            epoch,
            is_redelivery: self.redelivered.contains(sequence),
        })
    }
}
