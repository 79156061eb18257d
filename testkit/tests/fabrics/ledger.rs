//! The oracle: which messages were written, and which groups have read them.
//!
//! Each writer numbers what it writes with each tag (a *flow*); the payload carries the number. Each
//! subscribed group, that is, each name of functions, or each instance by `Policy::All`, is then held to:
//!
//! - **Nothing invented**: a number is read only after it was written.
//! - **At most once**: no number is read twice by a group, whatever happens.
//! - **Order**: at each instance the numbers of a flow rise. Checked unless a message may have taken
//!   another path than the one before it ([`Ledger::allow_reordering`]): where a fabric has several paths
//!   between two zippers and links fail, today's zippers switch paths without waiting.
//! - **Exactly once or reported**: at the end every number was read, but for those that the zippers and
//!   clients have counted (`unobserved`, `unreachable`, `undelivered`, `uncertain`) and those that a crash
//!   excuses. A crash excuses what was written and not read when the zipper died, and what is written
//!   until the fabric is whole again ([`Ledger::excuse`]): `GUARANTEES.md` states that what a dead process had
//!   accepted dies with it. An orderly restart excuses the same, which is a known defect: `known`. Without crashes, orderly restarts, or failed links with several paths,
//!   nothing may be missing at all.

use std::collections::BTreeMap;

use selvedge_client::{Policy, Tag};

use crate::member::MemberConfig;

/// What identifies a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp {
    pub(crate) writer: usize,
    pub(crate) tag: Tag,
    pub(crate) number: u32,
}

const STAMP_LEN: usize = 8;

impl Stamp {
    pub(crate) fn to_payload(self, len: usize) -> Vec<u8> {
        let mut payload = Vec::with_capacity(len.max(STAMP_LEN));
        payload.extend((self.writer as u32).to_be_bytes());
        payload.extend(self.number.to_be_bytes());
        payload.resize(len.max(STAMP_LEN), 0);
        payload
    }

    pub(crate) fn parse(tag: Tag, payload: &[u8]) -> Result<Self, String> {
        let words = payload.first_chunk::<STAMP_LEN>();
        let words = words.ok_or("a payload is too short")?;
        let word = |at: usize| {
            u32::from_be_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]])
        };
        Ok(Self {
            writer: word(0) as usize,
            tag,
            number: word(4),
        })
    }
}

/// A writer and a tag.
type Flow = (usize, Tag);

/// A name, and the instance if each is to get everything.
type Group = (String, Option<usize>);

#[derive(Debug)]
struct Subscription {
    group: Group,
    tags: Vec<Tag>,
    /// Whether every zipper knows of it: till then messages need not reach it.
    is_settled: bool,
}

impl Subscription {
    fn observes(&self, tag: Tag) -> bool {
        self.tags.contains(&tag)
    }
}

#[derive(Debug, Default)]
struct Readings {
    /// How many numbers of the flow came before the group was there.
    since: usize,
    read: Vec<bool>,
    /// Those that need not be read.
    excused: Vec<bool>,
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
    /// How many copies were read.
    pub(crate) copies: u64,
    /// What happened, for comparing runs.
    pub(crate) digest: u64,
}

fn group(number: usize, config: &MemberConfig) -> Group {
    let instance = (config.policy == Policy::All).then_some(number);
    (config.name.clone(), instance)
}

impl Ledger {
    pub(crate) fn join(&mut self, number: usize, config: &MemberConfig) {
        let group = group(number, config);
        if config.observes.is_empty() || self.groups.iter().any(|it| it.group == group) {
            return;
        }
        for (&flow, &count) in &self.written {
            let readings = self.readings.entry((group.clone(), flow)).or_default();
            readings.since = count as usize;
        }
        self.groups.push(Subscription {
            group,
            tags: config.observes.clone(),
            is_settled: false,
        });
    }

    /// All groups by the tags that they observe.
    pub(crate) fn groups(&self) -> Vec<(Tag, String)> {
        let all = self.groups.iter();
        let tags = all.flat_map(|it| it.tags.iter().map(|tag| (*tag, it.group.0.clone())));
        tags.collect()
    }

    /// The fabric is whole with the groups that have joined: from here on they are to get everything.
    pub(crate) fn settle(&mut self) {
        self.is_excusing = false;
        self.groups.iter_mut().for_each(|it| it.is_settled = true);
    }

    pub(crate) const fn allow_reordering(&mut self) {
        self.is_unordered = true;
    }

    /// What is not read yet, and what is written until [`settle`](Self::settle), need not be read.
    pub(crate) fn excuse(&mut self) {
        self.is_excusing = true;
        for known in &self.groups {
            for (&flow, &count) in self
                .written
                .iter()
                .filter(|((_, tag), _)| known.observes(*tag))
            {
                let key = (known.group.clone(), flow);
                let readings = self.readings.entry(key).or_default();
                readings.cover(count as usize);
                for (excused, read) in readings.excused.iter_mut().zip(&readings.read) {
                    *excused |= !read;
                }
            }
        }
    }

    /// The next message of a flow; it counts once it is [`written`](Self::written).
    pub(crate) fn next(&self, writer: usize, tag: Tag) -> Stamp {
        let number = self.written.get(&(writer, tag)).copied().unwrap_or(0);
        Stamp {
            writer,
            tag,
            number,
        }
    }

    pub(crate) fn written(&mut self, stamp: &Stamp) {
        let flow = (stamp.writer, stamp.tag);
        *self.written.entry(flow).or_default() += 1;
        self.mix(stamp, usize::MAX);
        for known in self.groups.iter().filter(|it| it.observes(stamp.tag)) {
            if self.is_excusing || !known.is_settled {
                let key = (known.group.clone(), flow);
                let readings = self.readings.entry(key).or_default();
                let count = stamp.number as usize + 1;
                readings.cover(count);
                readings.excused[count - 1] = true;
            }
        }
    }

    pub(crate) fn read(
        &mut self,
        reader: usize,
        config: &MemberConfig,
        stamp: &Stamp,
    ) -> Result<(), String> {
        let flow = (stamp.writer, stamp.tag);
        if !config.observes.contains(&stamp.tag) {
            return Err(format!("c{reader} does not observe {stamp:?}"));
        }
        if stamp.number >= self.written.get(&flow).copied().unwrap_or(0) {
            return Err(format!("c{reader} reads {stamp:?}, which was not written"));
        }
        let readings = self
            .readings
            .entry((group(reader, config), flow))
            .or_default();
        readings.cover(stamp.number as usize + 1);
        if std::mem::replace(&mut readings.read[stamp.number as usize], true) {
            return Err(format!(
                "{} reads {stamp:?} twice, now as c{reader}",
                config.name
            ));
        }
        let last = self.last.insert((reader, flow), stamp.number);
        if !self.is_unordered && last.is_some_and(|last| last > stamp.number) {
            return Err(format!("c{reader} reads {stamp:?} after {last:?}"));
        }
        self.copies += 1;
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
    pub(crate) fn missing(&self) -> Vec<(String, Stamp)> {
        let mut missing = Vec::new();
        for known in &self.groups {
            let flows = self
                .written
                .iter()
                .filter(|((_, tag), _)| known.observes(*tag));
            for (&(writer, tag), &count) in flows {
                let readings = self.readings.get(&(known.group.clone(), (writer, tag)));
                let is_there = |number: usize| {
                    readings.is_some_and(|it| {
                        let is_read = it.read.get(number).copied().unwrap_or(false);
                        is_read
                            || it.excused.get(number).copied().unwrap_or(false)
                            || number < it.since
                    })
                };
                let numbers = (0..count).filter(|number| !is_there(*number as usize));
                missing.extend(numbers.map(|number| {
                    let stamp = Stamp {
                        writer,
                        tag,
                        number,
                    };
                    (known.group.0.clone(), stamp)
                }));
            }
        }
        missing
    }

    /// How many messages were written with a tag, and how many copies of them a group has read.
    pub(crate) fn counts(&self, tag: Tag, name: &str) -> (u64, u64) {
        let flows = self.written.iter().filter(|((_, of), _)| *of == tag);
        let written = flows.map(|(_, count)| u64::from(*count)).sum();
        let readings = self.readings.iter();
        let of_group = readings.filter(|(((group, _), (_, of)), _)| group == name && *of == tag);
        let read = of_group.flat_map(|(_, it)| &it.read).filter(|it| **it);
        (written, read.count() as u64)
    }
}

impl Readings {
    fn cover(&mut self, count: usize) {
        if self.read.len() < count {
            self.read.resize(count, false);
        }
        let count = self.read.len();
        if self.excused.len() < count {
            self.excused.resize(count, false);
        }
    }
}
