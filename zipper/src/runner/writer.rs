//! Sends the outputs of a guest in batches.

use std::time::{Duration, Instant};

use selvedge_client::tag::Tag;
use selvedge_client::{Client, OutgoingBatch, WriteError};

/// The largest batch. A lock of the send buffer and a wake-up of the worker for each message took a third
/// of the thread's time.
const MESSAGES_MAX: usize = 64;
const BYTES_MAX: usize = 64 << 10;

/// After a batch that took longer than this, the batch size returns to one message: with such slow calls
/// batching saves nothing.
const DELAY_MAX: Duration = Duration::from_micros(100);

/// Batches outputs while the guest is fast and more messages wait for it.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    client: &'a Client,
    name: String,
    batch: OutgoingBatch,
    /// The current batch size.
    batch_max: usize,
    /// The time and the tick at which the first output of the batch was added.
    since: Option<(Instant, u64)>,
    written: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(client: &'a Client, name: String) -> Self {
        Self {
            client,
            name,
            batch: OutgoingBatch::default(),
            batch_max: 1,
            since: None,
            written: 0,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The number of outputs that were passed to the client.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// The number of outputs in the batch. Once sending has failed they cannot be sent any more.
    pub(super) const fn unsent(&self) -> u64 {
        self.batch.len() as u64
    }

    /// Adds an output, with the steps so far if the message is traced. `tick` is the current tick of the
    /// host.
    pub(super) fn append(
        &mut self,
        (tag, target, payload): (Tag, Option<&str>, &[u8]),
        trace: Option<&[(String, u64)]>,
        tick: u64,
    ) {
        let trace = trace.map(|trace| [trace, &[self.client.step(self.name.clone())]].concat());
        let (client, trace) = (self.client, trace.as_deref());
        match client.append(&mut self.batch, tag, target, trace, payload) {
            Ok(()) => {
                self.since.get_or_insert_with(|| (Instant::now(), tick));
            }
            Err(error) => self.note_dropped(&error),
        }
    }

    /// Sends the batch if it is large enough, or was begun before this tick: the guest may have become
    /// slow.
    pub(super) fn send_due(&mut self, tick: u64) -> Result<(), WriteError> {
        let is_due = self.batch.len() >= self.batch_max
            || self.batch.bytes() >= BYTES_MAX
            || self.since.is_some_and(|(_, since)| since != tick);
        if is_due { self.send() } else { Ok(()) }
    }

    /// Sends the batch.
    pub(super) fn send(&mut self) -> Result<(), WriteError> {
        let Some((since, _)) = self.since.take() else {
            return Ok(());
        };
        let was_fast = since.elapsed() < DELAY_MAX;
        self.batch_max = match was_fast {
            true => MESSAGES_MAX.min(2 * self.batch_max),
            false => 1,
        };
        while !self.batch.is_empty() {
            let waiting = self.batch.len();
            let sent = self.client.write_batch(&mut self.batch);
            self.written += (waiting - self.batch.len()) as u64;
            match sent {
                Ok(()) => {}
                Err(closed @ WriteError::Closed(_)) => return Err(closed),
                Err(error) => {
                    self.batch.pop();
                    self.note_dropped(&error);
                }
            }
        }
        Ok(())
    }

    fn note_dropped(&self, error: &WriteError) {
        tracing::error!(name = self.name, %error, "an output of the guest was dropped");
    }
}
