//! The oracle: which messages were written, and which groups have read them.
//!
//! Each writer numbers what it writes with each tag (a *flow*); the payload carries the number. Each
//! subscribed group, that is, each name of functions, or each instance by `Policy::All`, is then held to:
//!
//! - **Nothing invented**: a number is read only after it was written.
//! - **At most once**: no number is read twice by a group, whatever happens.
//! - **Order**: at each instance the numbers of a flow rise. With plain sources checked unless a message may
//!   have taken another path than the one before it ([`Ledger::allow_reordering`]): where a fabric has several
//!   paths between two zippers and links fail, plain messages switch paths without waiting.
//! - **Exactly once or reported**: at the end every number was read, but for those that the zippers and
//!   clients have counted (`unobserved`, `unreachable`, `no_room`, `undelivered`, `uncertain`) and those that a crash
//!   excuses. A crash excuses what was written and not read when the zipper died, and what is written
//!   until the fabric is whole again ([`Ledger::excuse`]): `GUARANTEES.md` states that what a dead process had
//!   accepted dies with it. An orderly restart excuses the same. Without crashes, orderly restarts, or failed
//!   links with several paths, nothing may be missing but what found no room behind a link.
//!
//! A source that settles may reach functions that do not, in a fabric that is being upgraded. If a zipper
//! fails there, its successor does not know what such functions have read, and they may read it again once it
//! is settled ([`Ledger::allow_repetition`]).
//!
//! Of settled sources ([`Ledger::expect_settlement`]) more is expected, whatever befalls zippers and links:
//!
//! - **Once**: a message is read again only with the flag of a redelivery, and only if the instance that has
//!   read it before is gone or may have lost its lease. If that is true of no instance of the group, none is
//!   flagged.
//! - **Order**: at each instance the numbers of a flow rise, except for flagged messages.
//! - **Delivered or reported**: no more messages are missing in any group than the source reports as
//!   abandoned or unobserved. Crashes excuse nothing but recipient sets that are fixed without a group: a
//!   zipper does not wait for a group that neither it nor the source knows, nor longer than 10 s for one of
//!   which no instance is connected. So messages are excused while the fabric is disturbed, if the group has
//!   read none of the flow yet, or after 9 s.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use selvedge_client::{Policy, Tag};
use selvedge_hub::Instant;

use crate::member::MemberConfig;

/// A group may be left out of recipient sets after so long without an instance.
const AWAITED: Duration = Duration::from_secs(9);

/// Instances may lose their leases after so long.
const LEASE: Duration = Duration::from_secs(25);

/// What identifies a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp {
    pub(crate) writer: usize,
    pub(crate) tag: Tag,
    pub(crate) target: Option<Target>,
    pub(crate) number: u32,
}

const STAMP_LEN: usize = 8;

/// The number of a target.
pub(crate) type Target = u8;

/// Its name.
pub(crate) fn target_name(target: Target) -> String {
    format!("target-{target}")
}

impl Stamp {
    const fn flow(&self) -> Flow {
        (self.writer, self.tag, self.target)
    }

    pub(crate) fn to_payload(self, len: usize) -> Vec<u8> {
        let mut payload = Vec::with_capacity(len.max(STAMP_LEN));
        payload.extend((self.writer as u32).to_be_bytes());
        payload.extend(self.number.to_be_bytes());
        payload.resize(len.max(STAMP_LEN), 0);
        payload
    }

    /// Whether the message was written with a trace.
    pub(crate) const fn has_trace(self) -> bool {
        self.number % 5 == 4
    }

    pub(crate) fn parse(tag: Tag, target: Option<Target>, payload: &[u8]) -> Result<Self, String> {
        let words = payload.first_chunk::<STAMP_LEN>();
        let words = words.ok_or("a payload is too short")?;
        let word = |at: usize| {
            u32::from_be_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]])
        };
        Ok(Self {
            writer: word(0) as usize,
            tag,
            target,
            number: word(4),
        })
    }
}

/// A writer, a tag and a target.
pub(crate) type Flow = (usize, Tag, Option<Target>);

/// A name, and the instance if each is to get everything.
pub(crate) type Group = (String, Option<usize>);

#[derive(Debug)]
struct Subscription {
    group: Group,
    tags: Vec<Tag>,
    target: Option<Target>,
    /// The instances that are not gone.
    instances: BTreeSet<usize>,
    /// Whether every zipper knows of it: till then messages need not reach it.
    is_settled: bool,
}

impl Subscription {
    fn observes(&self, (_, tag, target): Flow) -> bool {
        self.tags.contains(&tag) && (target.is_none() || target == self.target)
    }
}

#[derive(Debug, Default)]
struct Readings {
    /// How many numbers of the flow came before the group was there.
    since: usize,
    /// The instance that has read each number last.
    readers: Vec<Option<usize>>,
    /// Those that need not be read.
    excused: Vec<bool>,
    is_any_read: bool,
}

/// A copy that was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadCopy {
    pub(crate) reader: usize,
    pub(crate) stamp: Stamp,
    /// Whether another instance may have read it before.
    pub(crate) is_redelivery: bool,
}

/// How much was read, and how often messages were not simply delivered.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LedgerCounts {
    pub(crate) copies: u64,
    /// Copies that were flagged.
    pub(crate) redeliveries: u64,
    /// Copies that need not be read.
    pub(crate) excused: u64,
    /// Copies that were read again without a flag, where that is allowed.
    pub(crate) repeated: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    written: BTreeMap<Flow, u32>,
    groups: Vec<Subscription>,
    readings: BTreeMap<(Group, Flow), Readings>,
    /// The last number that each instance has read.
    last: BTreeMap<(usize, Flow), u32>,
    is_unordered: bool,
    /// Whether what is written now need not be read.
    is_excusing: bool,
    is_settling: bool,
    may_repeat: bool,
    /// Since when zippers have been failing.
    disturbed_since: Option<Instant>,
    /// Whether any instance may have lost its lease.
    has_lost_leases: bool,
    /// Whether a group may have had no instance for too long.
    has_lost_groups: bool,
    /// Instances that have died or left, with the names of their groups.
    gone: BTreeMap<usize, String>,
    /// Writers of which not everything need be read any more.
    dead: BTreeSet<usize>,
    pub(crate) counts: LedgerCounts,
    /// What happened, for comparing runs.
    pub(crate) digest: u64,
}

fn group(number: usize, config: &MemberConfig) -> Group {
    let instance = (config.policy == Policy::All).then_some(number);
    (config.name.clone(), instance)
}

impl Ledger {
    /// Sources are settled from here on.
    pub(crate) const fn expect_settlement(&mut self) {
        self.is_settling = true;
    }

    pub(crate) const fn allow_repetition(&mut self) {
        self.may_repeat = true;
    }

    pub(crate) const fn is_settling(&self) -> bool {
        self.is_settling
    }

    pub(crate) fn join(&mut self, number: usize, config: &MemberConfig) {
        if config.observes.is_empty() {
            return;
        }
        let group = group(number, config);
        if let Some(known) = self.groups.iter_mut().find(|it| it.group == group) {
            known.instances.insert(number);
            return;
        }
        for (&flow, &count) in &self.written {
            let readings = self.readings.entry((group.clone(), flow)).or_default();
            readings.since = count as usize;
            readings.is_any_read = false;
        }
        self.groups.push(Subscription {
            group,
            tags: config.observes.clone(),
            target: config.target,
            instances: BTreeSet::from([number]),
            is_settled: false,
        });
    }

    /// An instance has left in order, or has died. A group without instances is expected to read nothing.
    pub(crate) fn leave(&mut self, number: usize, config: &MemberConfig, is_orderly: bool) {
        let group = group(number, config);
        self.gone.insert(number, config.name.clone());
        if !is_orderly {
            self.dead.insert(number);
        }
        if let Some(at) = self.groups.iter().position(|it| it.group == group) {
            self.groups[at].instances.remove(&number);
            if self.groups[at].instances.is_empty() {
                self.groups.remove(at);
                self.has_lost_groups = true;
            }
        }
    }

    /// All groups by the tags that they observe.
    pub(crate) fn groups(&self) -> Vec<(Tag, String)> {
        let all = self.groups.iter();
        let tags = all.flat_map(|it| it.tags.iter().map(|tag| (*tag, it.group.0.clone())));
        tags.collect()
    }

    /// The fabric is whole with the groups that have joined: from here on they are to get everything.
    pub(crate) fn settle(&mut self, now: Instant) {
        if let Some(begin) = self.disturbed_since.take() {
            self.has_lost_groups |= now >= begin + AWAITED;
            self.has_lost_leases |= now >= begin + LEASE;
        }
        self.is_excusing = false;
        self.groups.iter_mut().for_each(|it| it.is_settled = true);
    }

    pub(crate) const fn allow_reordering(&mut self) {
        self.is_unordered = true;
    }

    /// A zipper or link fails, until [`settle`](Self::settle).
    pub(crate) fn disturb(&mut self, now: Instant) {
        self.disturbed_since.get_or_insert(now);
        if self.is_settling {
            self.excuse_unread(|readings| !readings.is_any_read);
        }
    }

    /// A zipper fails. Of plain sources, what is not read yet, and what is written until
    /// [`settle`](Self::settle), need not be read.
    pub(crate) fn excuse(&mut self, now: Instant) {
        self.disturb(now);
        if !self.is_settling {
            self.is_excusing = true;
            self.excuse_unread(|_| true);
        }
    }

    /// What is not read yet by some of the groups need not be read.
    fn excuse_unread(&mut self, is_excused: impl Fn(&Readings) -> bool) {
        let excused_count = &mut self.counts.excused;
        for known in &self.groups {
            let flows = self.written.iter();
            for (&flow, &count) in flows.filter(|(flow, _)| known.observes(**flow)) {
                let key = (known.group.clone(), flow);
                let readings = self.readings.entry(key).or_default();
                readings.cover(count as usize);
                if is_excused(readings) {
                    let numbers = readings.excused.iter_mut().zip(&readings.readers);
                    for (excused, _) in numbers.filter(|(_, reader)| reader.is_none()) {
                        *excused_count += u64::from(!std::mem::replace(excused, true));
                    }
                }
            }
        }
    }

    /// The next message of a flow; it counts once it is [`written`](Self::written).
    pub(crate) fn next(&self, writer: usize, tag: Tag, target: Option<Target>) -> Stamp {
        let number = self.written.get(&(writer, tag, target)).copied();
        let number = number.unwrap_or(0);
        Stamp {
            writer,
            tag,
            target,
            number,
        }
    }

    pub(crate) fn written(&mut self, now: Instant, stamp: &Stamp) {
        let flow = stamp.flow();
        *self.written.entry(flow).or_default() += 1;
        self.mix(stamp, usize::MAX);
        let disturbed_for = self.disturbed_since.map(|begin| now - begin);
        for known in self.groups.iter().filter(|it| it.observes(flow)) {
            let key = (known.group.clone(), flow);
            let readings = self.readings.entry(key).or_default();
            let is_left_out = self.is_settling
                && disturbed_for.is_some_and(|it| it >= AWAITED || !readings.is_any_read);
            if self.is_excusing || !known.is_settled || is_left_out {
                let count = stamp.number as usize + 1;
                readings.cover(count);
                readings.excused[count - 1] = true;
                self.counts.excused += 1;
            }
        }
    }

    pub(crate) fn read(&mut self, config: &MemberConfig, copy: &ReadCopy) -> Result<(), String> {
        let (reader, stamp) = (copy.reader, &copy.stamp);
        let flow = stamp.flow();
        let is_targeted = stamp.target.is_none() || stamp.target == config.target;
        if !config.observes.contains(&stamp.tag) || !is_targeted {
            return Err(format!("c{reader} does not observe {stamp:?}"));
        }
        if stamp.number >= self.written.get(&flow).copied().unwrap_or(0) {
            return Err(format!("c{reader} reads {stamp:?}, which was not written"));
        }
        let may_flag = self.has_lost_leases || self.gone.values().any(|name| *name == config.name);
        if copy.is_redelivery && (!may_flag || config.policy == Policy::All) {
            return Err(format!(
                "{stamp:?} is flagged at c{reader}, and no instance is gone"
            ));
        }
        let group = group(reader, config);
        let readings = self.readings.entry((group, flow)).or_default();
        readings.cover(stamp.number as usize + 1);
        readings.is_any_read = true;
        let before = readings.readers[stamp.number as usize].replace(reader);
        if before.is_some() && self.may_repeat && !copy.is_redelivery {
            self.counts.repeated += 1;
        } else if let Some(before) = before {
            let is_gone = self.has_lost_leases || self.gone.contains_key(&before);
            if !copy.is_redelivery || !is_gone || !config.redelivers {
                return Err(format!(
                    "{} reads {stamp:?} twice, at c{before} and c{reader}, flagged: {}",
                    config.name, copy.is_redelivery
                ));
            }
        }
        if !copy.is_redelivery {
            let last = self.last.insert((reader, flow), stamp.number);
            if !self.is_unordered && last.is_some_and(|last| last > stamp.number) {
                return Err(format!("c{reader} reads {stamp:?} after {last:?}"));
            }
        }
        self.counts.redeliveries += u64::from(copy.is_redelivery);
        self.counts.copies += u64::from(before.is_none());
        self.mix(stamp, reader);
        Ok(())
    }

    fn mix(&mut self, stamp: &Stamp, reader: usize) {
        let mut rng = fastrand::Rng::with_seed(
            self.digest
                ^ stamp.writer as u64
                ^ (reader as u64) << 20
                ^ u64::from(stamp.number) << 32,
        );
        self.digest = rng.u64(..);
    }

    /// The copies that are missing and not excused.
    pub(crate) fn missing(&self) -> Vec<(Group, Stamp)> {
        let mut missing = Vec::new();
        for known in &self.groups {
            let flows = self.written.iter();
            let flows =
                flows.filter(|(flow, _)| known.observes(**flow) && !self.dead.contains(&flow.0));
            for (&flow, &count) in flows {
                let (writer, tag, target) = flow;
                let readings = self.readings.get(&(known.group.clone(), flow));
                let is_there = |number| readings.is_some_and(|it| it.is_there(number as usize));
                missing.extend((0..count).filter(|it| !is_there(*it)).map(|number| {
                    let stamp = Stamp {
                        writer,
                        tag,
                        target,
                        number,
                    };
                    (known.group.clone(), stamp)
                }));
            }
        }
        missing
    }

    /// How many messages a writer has written.
    pub(crate) fn written_by(&self, writer: usize) -> u64 {
        let flows = self.written.iter().filter(|((it, ..), _)| *it == writer);
        flows.map(|(_, count)| u64::from(*count)).sum()
    }

    /// How many messages of a writer are not missing in any group.
    pub(crate) fn complete(&self, writer: usize) -> u64 {
        let incomplete = self.missing().into_iter();
        let incomplete = incomplete.filter(|(_, stamp)| stamp.writer == writer);
        let incomplete: BTreeSet<Stamp> = incomplete.map(|(_, stamp)| stamp).collect();
        self.written_by(writer) - incomplete.len() as u64
    }

    /// How many messages of a writer have to be in the recipient set of at least one group.
    pub(crate) fn required(&self, writer: usize) -> u64 {
        let flows = self.written.iter().filter(|((it, ..), _)| *it == writer);
        let required = flows.map(|(&flow, &count)| {
            let groups = self.groups.iter().filter(|it| it.observes(flow));
            let readings = groups.map(|it| self.readings.get(&(it.group.clone(), flow)));
            let readings: Vec<_> = readings.collect();
            let is_required = |number: &u32| {
                let mut readings = readings.iter();
                readings.any(|it| it.is_none_or(|it| it.is_required(*number as usize)))
            };
            (0..count).filter(is_required).count() as u64
        });
        required.sum()
    }

    /// Whether messages may be reported as abandoned, because a group had no instance for too long, or
    /// because one may have read them that is gone.
    pub(crate) fn may_abandon(&self) -> bool {
        self.has_lost_groups || self.has_lost_leases || !self.gone.is_empty()
    }

    /// How many messages were written with a tag, and how many copies of them a group has read.
    pub(crate) fn counts(&self, tag: Tag, name: &str) -> (u64, u64) {
        let flows = self.written.iter().filter(|((_, of, _), _)| *of == tag);
        let written = flows.map(|(_, count)| u64::from(*count)).sum();
        let readings = self.readings.iter();
        let of_group = readings.filter(|(((group, _), (_, of, _)), _)| group == name && *of == tag);
        let read = of_group.flat_map(|(_, it)| it.readers.iter().flatten());
        (written, read.count() as u64)
    }
}

impl Readings {
    fn cover(&mut self, count: usize) {
        if self.readers.len() < count {
            self.readers.resize(count, None);
        }
        let count = self.readers.len();
        if self.excused.len() < count {
            self.excused.resize(count, false);
        }
    }

    /// Whether a number has to be read.
    fn is_required(&self, number: usize) -> bool {
        number >= self.since && !self.excused.get(number).copied().unwrap_or(false)
    }

    /// Whether a number was read or need not be read.
    fn is_there(&self, number: usize) -> bool {
        !self.is_required(number) || self.readers.get(number).is_some_and(Option::is_some)
    }
}
