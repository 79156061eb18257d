//! A batch: the first messages that wait at a door, routed, and handed on to each recipient under one
//! lock of its send buffer.
//!
//! They stay in the queue of the endpoint that brought them until each copy has found room, so what
//! waits here are numbers and heads. A recipient that is full holds the next batch back; until then its
//! siblings are at the most one batch ahead.

mod alike;
mod sorted;
mod straight;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use selvedge_hub::Incoming;

use crate::broker::Broker;
use crate::broker::batch::sorted::{Placed, Sorted};
use crate::broker::plans::{Handed, Recipient};
use crate::router::{Key, Node, Stop};
use crate::stats::add;
use selvedge_client::lanes::{DATA, HOPS_MAX, now_micros};
use selvedge_client::tag::Tag;
use selvedge_client::wire::{
    self, Data, MessageHeader, Origin, Plain, TRACE_MAX, WireError, WireMessage,
};

/// A batch ends with the message that reaches one of these, so that a recipient's lock is held for some
/// microseconds only, and a full one lets its siblings get no further ahead.
const MESSAGES_MAX: usize = 256;
const BYTES_MAX: usize = 256 * 1024;

/// How many kinds of messages a door remembers the recipients of. One source has few.
const KINDS_MAX: usize = 64;

/// Why a message is none for this lane.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("only data belongs on this lane")]
    NoData,
    #[error("the tag is kept for the system")]
    Reserved,
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Messages of one tag and target, and who gets them.
struct Kind {
    tag: Tag,
    target: Option<String>,
    handed: Arc<Handed>,
}

/// Whoever the messages come from, and what is known about where they go.
pub(super) struct Batch {
    broker: Arc<Broker>,
    from: Node,
    /// Of which version the kinds are.
    version: u64,
    kinds: Vec<Kind>,
    /// Which kind the last message was.
    last: usize,
    random: fastrand::Rng,
    /// How many messages of the queue it is made of.
    messages: usize,
    sorted: Sorted,
}

impl Batch {
    pub(super) fn new(broker: Arc<Broker>, from: Node) -> Self {
        Self {
            broker,
            from,
            version: 0,
            kinds: Vec::new(),
            last: 0,
            random: fastrand::Rng::new(),
            messages: 0,
            sorted: Sorted::default(),
        }
    }

    /// Whether every copy has found room, so that the next batch can begin.
    pub(super) const fn is_done(&self) -> bool {
        self.messages == 0
    }

    /// Routes the first messages that wait, up to one that is refused.
    pub(super) fn gather(
        &mut self,
        incoming: &Incoming<'_>,
        is_relayed: bool,
    ) -> Result<(), Refused> {
        debug_assert!(self.is_done(), "one batch at a time");
        let (mut bytes, mut gathered) = (0, Ok(()));
        while self.messages < MESSAGES_MAX && bytes < BYTES_MAX {
            let Some(message) = incoming.get(DATA, self.messages) else {
                break;
            };
            gathered = if is_relayed {
                self.relay(&message.payload)
            } else {
                self.route(&message.payload)
            };
            if gathered.is_err() {
                break;
            }
            bytes += message.payload.len();
            self.messages += 1;
        }
        let counters = &self.broker.counters;
        let counter = if is_relayed {
            &counters.relayed
        } else {
            &counters.received
        };
        add(counter, self.messages);
        gathered
    }

    /// Hands copies on, and lets the messages go when all copies have found room. If not, the task is
    /// woken when there may be some.
    pub(super) fn hand_on(&mut self, cx: &Context<'_>, incoming: &mut Incoming<'_>) -> Poll<()> {
        if self.sorted.hand_on(cx, &self.broker, incoming).is_pending() {
            return Poll::Pending;
        }
        incoming.drop_first(DATA, self.messages);
        self.clear();
        Poll::Ready(())
    }

    /// Hands no more on of what was gathered.
    pub(super) fn clear(&mut self) {
        self.messages = 0;
        self.sorted.clear();
    }

    /// Routes a message of a client.
    fn route(&mut self, bytes: &Bytes) -> Result<(), Refused> {
        if let Some(plain) = Plain::read(bytes) {
            let head = MessageHeader {
                tag: plain.tag,
                origin: self.origin(plain.sequence),
                hops_left: HOPS_MAX,
                target: None,
                recipients: &[],
                trace: None,
            };
            return self.fan_out(head, bytes, plain.payload_at);
        }
        let mut data = read(bytes)?;
        data.origin = self.origin(data.origin.sequence);
        data.hops_left = HOPS_MAX;
        data.recipients.clear();
        self.note_passage(&mut data);
        self.fan_out(data.head(), bytes, bytes.len() - data.payload.len())
    }

    /// Who sent it is known by the connection, whatever it says.
    const fn origin(&self, sequence: u64) -> Origin {
        Origin {
            source: self.from,
            sequence,
        }
    }

    fn note_passage(&self, data: &mut Data) {
        if let Some(trace) = &mut data.trace
            && trace.len() < TRACE_MAX
        {
            trace.push((self.broker.settings.name.clone(), now_micros()));
        }
    }

    fn fan_out(
        &mut self,
        head: MessageHeader<'_>,
        bytes: &Bytes,
        payload_at: usize,
    ) -> Result<(), Refused> {
        if head.tag.is_reserved() {
            return Err(Refused::Reserved);
        }
        let kind = self.kind(head.tag, head.target);
        let (handed, counters) = (&self.kinds[kind].handed, &self.broker.counters);
        let plan = &handed.plan;
        let message = Placed {
            message: self.messages,
            bytes,
            payload_at,
            copies: plan.copies_max(),
        };
        let (mut local, mut forward) = (None, BTreeMap::<usize, Vec<wire::Recipient>>::new());
        let mut is_observed = false;
        for chosen in plan.choose(&self.from, &mut self.random) {
            is_observed = true;
            match (plan.stops()[chosen.stop], &handed.recipients[chosen.stop]) {
                (Stop::Via(_), _) => {
                    let name = chosen.name.to_owned();
                    let home = chosen.node;
                    let recipient = wire::Recipient { name, home };
                    forward.entry(chosen.stop).or_default().push(recipient);
                }
                (Stop::Local(_), None) => add(&counters.unreachable, 1),
                (Stop::Local(_), Some(to)) => {
                    let piece = local.get_or_insert_with(|| self.sorted.put(&message, head));
                    self.sorted.give(to, *piece);
                }
            }
        }
        if !is_observed {
            add(&counters.unobserved, 1);
        }
        if forward.is_empty() {
            return Ok(());
        }
        let handed = Arc::clone(handed);
        for (stop, recipients) in forward {
            let to = handed.recipients[stop].as_ref();
            self.forward(to, &message, head, &recipients);
        }
        Ok(())
    }

    /// Which kind a message is.
    fn kind(&mut self, tag: Tag, target: Option<&str>) -> usize {
        let version = self.broker.version();
        if version != self.version {
            self.kinds.clear();
            self.version = version;
        }
        let is_it = |kind: &Kind| kind.tag == tag && kind.target.as_deref() == target;
        if self.kinds.get(self.last).is_some_and(is_it) {
            return self.last;
        }
        self.last = self.kinds.iter().position(is_it).unwrap_or_else(|| {
            if self.kinds.len() >= KINDS_MAX {
                self.kinds.clear();
            }
            self.kinds.push(Kind {
                tag,
                target: target.map(str::to_owned),
                handed: self.broker.plan(tag, target),
            });
            self.kinds.len() - 1
        });
        self.last
    }

    /// Routes a message of another zipper.
    fn relay(&mut self, bytes: &Bytes) -> Result<(), Refused> {
        let mut data = read(bytes)?;
        let (broker, recipients) = (&self.broker, std::mem::take(&mut data.recipients));
        let key = Key {
            tag: data.tag,
            target: data.target.as_deref(),
            origin: data.origin,
        };
        let routes = broker.lock().router.relay(self.from, key, recipients);
        let counters = &broker.counters;
        add(&counters.unreachable, routes.unreachable.len());
        if routes.is_empty() && routes.unreachable.is_empty() {
            add(&counters.unobserved, 1);
        }
        self.note_passage(&mut data);
        let message = Placed {
            message: self.messages,
            bytes,
            payload_at: bytes.len() - data.payload.len(),
            copies: routes.local.len(),
        };
        if !routes.local.is_empty() {
            let piece = self.sorted.put(&message, data.head());
            for node in routes.local {
                match broker.recipient(Stop::Local(node)) {
                    Some(to) => self.sorted.give(&to, piece),
                    None => add(&counters.unreachable, 1),
                }
            }
        }
        if data.hops_left == 0 {
            add(&counters.hop_limit, routes.forward.len());
            return Ok(());
        }
        for (via, recipients) in routes.forward {
            let to = self.broker.recipient(Stop::Via(via));
            self.forward(to.as_ref(), &message, data.head(), &recipients);
        }
        Ok(())
    }

    /// A copy for those whom a neighbour reaches.
    fn forward(
        &mut self,
        to: Option<&Recipient>,
        message: &Placed<'_>,
        head: MessageHeader<'_>,
        recipients: &[wire::Recipient],
    ) {
        let Some(to) = to else {
            return add(&self.broker.counters.unreachable, 1);
        };
        let head = MessageHeader {
            hops_left: head.hops_left.saturating_sub(1),
            recipients,
            ..head
        };
        let alone = Placed {
            copies: 1,
            ..*message
        };
        let piece = self.sorted.put(&alone, head);
        self.sorted.give(to, piece);
    }
}

fn read(bytes: &Bytes) -> Result<Data, Refused> {
    match WireMessage::decode(bytes.clone())? {
        WireMessage::Data(data) => Ok(data),
        _ => Err(Refused::NoData),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::broker::Settings;
    use crate::router::Function;
    use selvedge_client::wire::Policy;

    const T: Tag = Tag(0x10);

    fn function(name: &str, target: Option<&str>) -> Function {
        Function {
            name: name.into(),
            tags: vec![T],
            target: target.map(str::to_owned),
            policy: Policy::Nearest,
        }
    }

    fn batch() -> Batch {
        let broker = Broker::new(Settings {
            name: "z".into(),
            node: [1; 32],
            token: None,
            mesh: BTreeSet::new(),
        });
        Batch::new(broker, [2; 32])
    }

    fn stops(batch: &mut Batch, target: Option<&str>) -> Vec<Stop> {
        let kind = batch.kind(T, target);
        batch.kinds[kind].handed.plan.stops().to_vec()
    }

    #[test]
    fn a_function_that_leaves_between_two_messages_of_a_batch_gets_the_first_only() {
        let mut batch = batch();
        let broker = Arc::clone(&batch.broker);
        assert_eq!(stops(&mut batch, None), []);
        broker.reroute(|router| router.add_function([3; 32], function("a", None)));
        broker.reroute(|router| router.add_function([4; 32], function("b", Some("t"))));
        let (a, b) = (Stop::Local([3; 32]), Stop::Local([4; 32]));
        assert_eq!(stops(&mut batch, None), [a, b]);
        assert_eq!(stops(&mut batch, Some("t")), [b]);
        broker.reroute(|router| router.remove([4; 32]));
        assert_eq!(stops(&mut batch, Some("t")), []);
        assert_eq!(stops(&mut batch, None), [a]);
    }

    #[test]
    fn doors_share_the_turns_of_a_name_and_few_kinds_are_kept() {
        let mut batch = batch();
        let broker = Arc::clone(&batch.broker);
        for client in [3, 4] {
            broker.reroute(|router| router.add_function([client; 32], function("a", None)));
        }
        let mut other = Batch::new(broker, [5; 32]);
        let mut chosen = Vec::new();
        for _ in 0..2 {
            for at in [&mut batch, &mut other] {
                let kind = at.kind(T, None);
                let plan = &at.kinds[kind].handed.plan;
                chosen.extend(plan.choose(&at.from, &mut at.random).map(|it| it.node[0]));
            }
        }
        assert_eq!(chosen, [4, 3, 4, 3]);
        for n in 0..3 * KINDS_MAX {
            batch.kind(T, Some(&n.to_string()));
            assert!(batch.kinds.len() <= KINDS_MAX);
        }
    }
}
