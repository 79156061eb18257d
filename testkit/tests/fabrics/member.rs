//! A client of a fabric: a source, a function or a sink.

use std::time::Duration;

use selvedge_client::{Client, Connecting, Policy, ReadError, ReceivedMessage, Tag, WriteError};

use selvedge_hub::Instant;

use crate::fabric::ms;
use crate::ledger::{Ledger, ReadCopy, Stamp, Target, target_name};

/// How long a client that found no room waits before it tries again.
const RETRY: Duration = ms(5);

/// The targets that sources and functions have.
pub(crate) const TARGETS: [Target; 2] = [0, 1];

/// What a client is.
#[derive(Debug, Clone)]
pub(crate) struct MemberConfig {
    /// The name of its group.
    pub(crate) name: String,
    /// The zipper that it connects to.
    pub(crate) home: usize,
    /// Others that it may connect to instead.
    pub(crate) others: Vec<usize>,
    /// Whether it knows the key of the zipper, or takes the one that answers.
    pub(crate) knows_key: bool,
    pub(crate) observes: Vec<Tag>,
    /// The target of its group.
    pub(crate) target: Option<Target>,
    pub(crate) policy: Policy,
    /// The tag of what a function writes for each message that it reads.
    pub(crate) emits: Option<Tag>,
    /// Whether it acknowledges messages: a function once it has written its output.
    pub(crate) acknowledges: bool,
    /// Whether messages that an instance of it may have read when it was lost go to another one.
    pub(crate) redelivers: bool,
}

/// What a source still writes.
#[derive(Debug, Clone)]
pub(crate) struct Writing {
    /// The tags, in turn.
    pub(crate) tags: Vec<Tag>,
    /// The targets, in turn.
    pub(crate) targets: Vec<Option<Target>>,
    pub(crate) pause: Duration,
    pub(crate) len: usize,
    /// Each so many messages, one is long.
    pub(crate) long_each: Option<u32>,
    pub(crate) left: u32,
}

/// A long message moves its flow to another lane.
const LONG: usize = selvedge_client::lanes::BULK_LEN_MIN;

impl Writing {
    fn next_len(&self) -> usize {
        match self
            .long_each
            .is_some_and(|each| self.left.is_multiple_of(each))
        {
            true => LONG + self.len,
            false => self.len,
        }
    }

    fn next(&self) -> (Tag, Option<Target>) {
        let left = self.left as usize;
        let tag = self.tags[left % self.tags.len()];
        (
            tag,
            self.targets[left / self.tags.len() % self.targets.len()],
        )
    }
}

pub(crate) enum Connection {
    Connecting(Connecting),
    Connected(Client),
    /// It ends in order.
    Leaving(Client),
    Gone,
}

pub(crate) struct Member {
    number: usize,
    /// What it runs on.
    pub(crate) process: u64,
    pub(crate) config: MemberConfig,
    connection: Connection,
    writing: Option<Writing>,
    next_write: Option<Instant>,
    /// Written when there is room: the output of a function for what it has read.
    output: Option<Tag>,
    /// Acknowledged when the output is written.
    unacknowledged: Option<ReceivedMessage>,
    /// How long it rests after each message that it reads.
    read_pause: Duration,
    /// Whether it reads at all.
    reads: bool,
    next_read: Option<Instant>,
}

impl Member {
    pub(crate) const fn new(
        number: usize,
        process: u64,
        config: MemberConfig,
        connection: Connection,
    ) -> Self {
        Self {
            number,
            process,
            config,
            connection,
            writing: None,
            next_write: None,
            output: None,
            unacknowledged: None,
            read_pause: Duration::ZERO,
            reads: true,
            next_read: None,
        }
    }

    pub(crate) fn write(&mut self, now: Instant, writing: Writing) {
        self.writing = Some(writing);
        self.next_write = Some(now);
    }

    /// Whether it reads, and how long it rests after each message.
    pub(crate) const fn set_reading(&mut self, reads: bool, pause: Duration) {
        self.reads = reads;
        self.read_pause = pause;
        self.next_read = None;
    }

    pub(crate) const fn is_writing(&self) -> bool {
        self.writing.is_some() || self.output.is_some()
    }

    /// Whether it takes part: it neither leaves nor is gone.
    pub(crate) const fn is_present(&self) -> bool {
        matches!(
            self.connection,
            Connection::Connecting(_) | Connection::Connected(_)
        )
    }

    /// It reads and writes nothing more. Returns its client, if it has one.
    fn end(&mut self) -> Option<Client> {
        self.writing = None;
        self.output = None;
        self.unacknowledged = None;
        self.next_write = None;
        self.next_read = None;
        match std::mem::replace(&mut self.connection, Connection::Gone) {
            Connection::Connected(client) | Connection::Leaving(client) => Some(client),
            Connection::Connecting(_) | Connection::Gone => None,
        }
    }

    /// Whether it has read a message and not written its output yet.
    pub(crate) const fn has_begun(&self) -> bool {
        self.output.is_some()
    }

    /// Ends it in order.
    pub(crate) fn leave(&mut self) {
        if let Some(client) = self.end() {
            client.stop();
            self.connection = Connection::Leaving(client);
        }
    }

    /// Its process has died.
    pub(crate) fn die(&mut self) {
        drop(self.end());
    }

    pub(crate) fn client(&self) -> Option<&Client> {
        match &self.connection {
            Connection::Connecting(_) | Connection::Gone => None,
            Connection::Connected(client) | Connection::Leaving(client) => Some(client),
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        !self.is_present() || self.client().is_some_and(|it| it.scheme().is_some())
    }

    pub(crate) fn uncertain(&self) -> u64 {
        self.client().map_or(0, Client::uncertain)
    }

    /// When it next does something by itself.
    pub(crate) fn next(&self) -> Option<Instant> {
        let read = self
            .next_read
            .filter(|_| self.reads && self.output.is_none());
        self.next_write.into_iter().chain(read).min()
    }

    /// Does what is due. Returns whether it did anything.
    pub(crate) fn act(&mut self, now: Instant, ledger: &mut Ledger) -> Result<bool, String> {
        if let Connection::Connecting(connecting) = &mut self.connection {
            let Some(result) = connecting.poll() else {
                return Ok(false);
            };
            let number = self.number;
            let client = result.map_err(|error| format!("c{number} does not connect: {error}"))?;
            self.connection = Connection::Connected(client);
        }
        if let Connection::Leaving(client) = &self.connection {
            let is_done = client.try_close().is_some();
            if is_done {
                drop(self.end());
            }
            return Ok(is_done);
        }
        let mut has_acted = self.write_due(now, ledger)?;
        while self.read_one(now, ledger)? {
            has_acted = true;
            self.write_due(now, ledger)?;
        }
        Ok(has_acted)
    }

    fn write_due(&mut self, now: Instant, ledger: &mut Ledger) -> Result<bool, String> {
        let mut has_acted = false;
        while self.next_write.is_some_and(|at| at <= now) {
            let writing = self.writing.as_ref().filter(|it| it.left > 0);
            let output = self.output.map(|tag| (tag, None));
            let Some(to) = output.or_else(|| writing.map(Writing::next)) else {
                self.writing = None;
                self.next_write = None;
                break;
            };
            let len = writing.map_or(0, Writing::next_len);
            if !self.try_write(now, to, len, ledger)? {
                self.next_write = Some(now + RETRY);
                break;
            }
            has_acted = true;
            if self.output.take().is_some() {
                let (message, client) = (self.unacknowledged.take(), self.client());
                if let (Some(message), Some(client)) = (message, client) {
                    client.acknowledge(&message);
                }
                self.next_write = self.writing.as_ref().map(|_| now);
                continue;
            }
            if let Some(writing) = &mut self.writing {
                writing.left -= 1;
                self.next_write = Some(now + writing.pause);
            }
        }
        Ok(has_acted)
    }

    fn try_write(
        &self,
        now: Instant,
        (tag, target): (Tag, Option<Target>),
        len: usize,
        ledger: &mut Ledger,
    ) -> Result<bool, String> {
        let Some(client) = self.client() else {
            return Ok(false);
        };
        let stamp = ledger.next(self.number, tag, target);
        let payload = stamp.to_payload(len);
        let name = target.map(target_name);
        let trace = stamp.has_trace().then(|| [client.step("writer")]);
        let written = match (&name, &trace) {
            (None, None) => client.try_write(tag, payload),
            _ => {
                let trace = trace.as_ref().map(|it| &it[..]);
                client.try_write_with(tag, name.as_deref(), trace, payload)
            }
        };
        match written {
            Ok(()) => {
                ledger.written(now, &stamp);
                Ok(true)
            }
            Err(WriteError::Full) => Ok(false),
            Err(error) => Err(format!("c{} cannot write: {error}", self.number)),
        }
    }

    /// What a message is, whose target and trace are checked.
    fn stamp(&self, message: &ReceivedMessage) -> Result<Stamp, String> {
        let target = message.target().map(|name| {
            let targets = TARGETS.into_iter();
            let mut known = targets.filter(|it| target_name(*it) == name);
            known
                .next()
                .ok_or_else(|| format!("an unknown target: {name}"))
        });
        let stamp = Stamp::parse(message.tag(), target.transpose()?, message.payload())?;
        let trace = message.trace();
        let names = trace.map(|it| it.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
        let is_expected = match &names {
            None => !stamp.has_trace(),
            // The writer, and each zipper on the way.
            Some(names) => {
                let zippers = &names[1..];
                let is_zipper = |it: &&str| it.starts_with('z');
                stamp.has_trace()
                    && names[0] == "writer"
                    && !zippers.is_empty()
                    && zippers.iter().all(is_zipper)
            }
        };
        let number = self.number;
        match is_expected {
            true => Ok(stamp),
            false => Err(format!(
                "c{number} reads {stamp:?} with the trace {names:?}"
            )),
        }
    }

    fn read_one(&mut self, now: Instant, ledger: &mut Ledger) -> Result<bool, String> {
        let waits = self.next_read.is_some_and(|at| at > now);
        if !self.reads || waits || self.output.is_some() {
            return Ok(false);
        }
        let Connection::Connected(client) = &self.connection else {
            return Ok(false);
        };
        if self.config.observes.is_empty() {
            return Ok(false);
        }
        let message = match client.try_receive() {
            Ok(message) => message,
            Err(ReadError::TimedOut) => {
                self.next_read = None;
                return Ok(false);
            }
            Err(error) => return Err(format!("c{} cannot read: {error}", self.number)),
        };
        let copy = ReadCopy {
            reader: self.number,
            stamp: self.stamp(&message)?,
            is_redelivery: message.is_redelivery(),
        };
        ledger.read(&self.config, &copy)?;
        match (self.config.acknowledges, self.config.emits) {
            (false, _) => {}
            (true, None) => client.acknowledge(&message),
            (true, Some(_)) => self.unacknowledged = Some(message),
        }
        self.next_read = (!self.read_pause.is_zero()).then(|| now + self.read_pause);
        if let Some(tag) = self.config.emits {
            self.output = Some(tag);
            self.next_write = Some(now);
        }
        Ok(true)
    }
}
