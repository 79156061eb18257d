//! What a guest has written, on its way to the zipper.

use std::time::{Duration, Instant};

use selvedge_client::tag::Tag;
use selvedge_client::{Client, Outgoing, WriteError};

/// Messages that go out together, at most: a lock of the send buffer and a bell of the worker for each
/// message took a third of the thread's time.
const MESSAGES_MAX: usize = 64;
const BYTES_MAX: usize = 64 << 10;

/// A batch that took longer than this is the last of its size: beside calls that take so long, what
/// waiting for each other spares is nothing.
const DELAY_MAX: Duration = Duration::from_micros(100);

/// Gathers messages while the guest is quick and there is more for it to do.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    client: &'a Client,
    name: String,
    outgoing: Outgoing,
    /// How many messages may wait for each other now.
    batch_max: usize,
    /// Since when the first one waits, by both clocks.
    since: Option<(Instant, u64)>,
    written: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(client: &'a Client, name: String) -> Self {
        Self {
            client,
            name,
            outgoing: Outgoing::default(),
            batch_max: 1,
            since: None,
            written: 0,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How many messages it has handed to the client.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// How many wait, and cannot be sent any more once sending has failed.
    pub(super) const fn unsent(&self) -> u64 {
        self.outgoing.len() as u64
    }

    /// Adds a message, with the route so far if it is traced. The guest's host is at that tick.
    pub(super) fn put(
        &mut self,
        (tag, target, payload): (Tag, Option<&str>, &[u8]),
        trace: Option<&[(String, u64)]>,
        tick: u64,
    ) {
        let trace = trace.map(|trace| [trace, &[self.client.step(self.name.clone())]].concat());
        let (client, trace) = (self.client, trace.as_deref());
        match client.put(&mut self.outgoing, tag, target, trace, payload) {
            Ok(()) => {
                self.since.get_or_insert_with(|| (Instant::now(), tick));
            }
            Err(error) => self.note_dropped(&error),
        }
    }

    /// Sends what waits, if it is many messages, or since before that tick: the guest may have become
    /// slow.
    pub(super) fn send_due(&mut self, tick: u64) -> Result<(), WriteError> {
        let is_due = self.outgoing.len() >= self.batch_max
            || self.outgoing.bytes() >= BYTES_MAX
            || self.since.is_some_and(|(_, since)| since != tick);
        if is_due { self.send() } else { Ok(()) }
    }

    /// Sends what waits.
    pub(super) fn send(&mut self) -> Result<(), WriteError> {
        let Some((since, _)) = self.since.take() else {
            return Ok(());
        };
        let was_quick = since.elapsed() < DELAY_MAX;
        self.batch_max = match was_quick {
            true => MESSAGES_MAX.min(2 * self.batch_max),
            false => 1,
        };
        while !self.outgoing.is_empty() {
            let waiting = self.outgoing.len();
            let sent = self.client.write_all(&mut self.outgoing);
            self.written += (waiting - self.outgoing.len()) as u64;
            match sent {
                Ok(()) => {}
                Err(closed @ WriteError::Closed(_)) => return Err(closed),
                Err(error) => {
                    self.outgoing.pop();
                    self.note_dropped(&error);
                }
            }
        }
        Ok(())
    }

    fn note_dropped(&self, error: &WriteError) {
        tracing::error!(name = self.name, %error, "what the guest wrote is dropped");
    }
}
