//! A client of a fabric: a source, a function or a sink.

use std::time::Duration;

use selvedge_client::{Client, Connecting, Policy, ReadError, Tag, WriteError};

use selvedge_hub::Instant;

use crate::fabric::ms;
use crate::ledger::{Ledger, Stamp};

/// How long a client that found no room waits before it tries again.
const RETRY: Duration = ms(5);

/// What a client is.
#[derive(Debug, Clone)]
pub(crate) struct MemberConfig {
    /// The name of its group.
    pub(crate) name: String,
    /// The zipper that it connects to.
    pub(crate) home: usize,
    /// Whether it knows the key of the zipper, or takes the one that answers.
    pub(crate) knows_key: bool,
    pub(crate) observes: Vec<Tag>,
    pub(crate) policy: Policy,
    /// The tag of what a function writes for each message that it reads.
    pub(crate) emits: Option<Tag>,
}

/// What a source still writes.
#[derive(Debug, Clone)]
pub(crate) struct Writing {
    /// The tags, in turn.
    pub(crate) tags: Vec<Tag>,
    pub(crate) pause: Duration,
    pub(crate) len: usize,
    pub(crate) left: u32,
}

pub(crate) enum Connection {
    Connecting(Connecting),
    Connected(Client),
}

pub(crate) struct Member {
    number: usize,
    pub(crate) config: MemberConfig,
    connection: Connection,
    writing: Option<Writing>,
    next_write: Option<Instant>,
    /// Written when there is room: the output of a function for what it has read.
    output: Option<Tag>,
    /// How long it rests after each message that it reads.
    read_pause: Duration,
    /// Whether it reads at all.
    reads: bool,
    next_read: Option<Instant>,
}

impl Member {
    pub(crate) const fn new(number: usize, config: MemberConfig, connection: Connection) -> Self {
        Self {
            number,
            config,
            connection,
            writing: None,
            next_write: None,
            output: None,
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

    pub(crate) fn client(&self) -> Option<&Client> {
        match &self.connection {
            Connection::Connecting(_) => None,
            Connection::Connected(client) => Some(client),
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client().is_some_and(|it| it.scheme().is_some())
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
            let next = self
                .output
                .or_else(|| writing.map(|it| it.tags[it.left as usize % it.tags.len()]));
            let Some(tag) = next else {
                self.writing = None;
                self.next_write = None;
                break;
            };
            let len = writing.map_or(0, |it| it.len);
            if !self.try_write(tag, len, ledger)? {
                self.next_write = Some(now + RETRY);
                break;
            }
            has_acted = true;
            if self.output.take().is_some() {
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

    fn try_write(&self, tag: Tag, len: usize, ledger: &mut Ledger) -> Result<bool, String> {
        let Some(client) = self.client() else {
            return Ok(false);
        };
        let stamp = ledger.next(self.number, tag);
        match client.try_write(tag, stamp.to_payload(len)) {
            Ok(()) => {
                ledger.written(&stamp);
                Ok(true)
            }
            Err(WriteError::Full) => Ok(false),
            Err(error) => Err(format!("c{} cannot write: {error}", self.number)),
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
        let data = match client.try_read() {
            Ok(data) => data,
            Err(ReadError::TimedOut) => {
                self.next_read = None;
                return Ok(false);
            }
            Err(error) => return Err(format!("c{} cannot read: {error}", self.number)),
        };
        let stamp = Stamp::parse(data.tag, &data.payload)?;
        ledger.read(self.number, &self.config, &stamp)?;
        self.next_read = (!self.read_pause.is_zero()).then(|| now + self.read_pause);
        if let Some(tag) = self.config.emits {
            self.output = Some(tag);
            self.next_write = Some(now);
        }
        Ok(true)
    }
}
