//! Runs a WebAssembly guest as a function of a zipper: reads messages, calls the guest, writes its outputs.

mod writer;

use selvedge_wasm_host::{CallError, Instance, NumericFunction, Outputs};

use crate::runner::writer::Writer;
use selvedge_client::tag::{Tag, TagError};
use selvedge_client::{Client, ReadError, ReceivedMessage, WriteError};

/// The guest that handles the messages.
#[derive(Debug)]
pub enum RunnerGuest {
    /// A stream function, which writes any number of messages for each one.
    Function(Box<Instance>),
    /// A numeric function: a message is a number in decimal digits, and so is the result.
    Numeric {
        /// The function.
        function: Box<NumericFunction>,
        /// The tag of the results.
        emit: Tag,
    },
}

/// The counters of a runner, in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunnerCounts {
    /// Received from the zipper.
    pub received: u64,
    /// Of the received ones, those that another instance of the function may have processed before.
    pub redelivered: u64,
    /// Handled by the guest.
    pub handled: u64,
    /// Failed in the guest. They are dropped together with the outputs of the guest for them.
    pub failed: u64,
    /// Outputs that were passed to the client.
    pub written: u64,
    /// Outputs that could not be sent, since the client was closed.
    pub unsent: u64,
}

/// Why a runner has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Reading has ended: [`ReadError`] names the reason.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Writing has failed: [`WriteError`] names the reason.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why a message was dropped.
#[derive(Debug, thiserror::Error)]
enum HandleError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("`{0}` is not a number")]
    NotANumber(String),
    #[error("the guest has written with an invalid tag: {0}")]
    Tag(#[from] TagError),
}

/// Connects a guest to a client.
#[derive(Debug)]
pub struct Runner<'a> {
    client: &'a Client,
    guest: RunnerGuest,
    writer: Writer<'a>,
    counts: RunnerCounts,
    /// Handled messages with outputs in the batch of the writer. They count as processed once these are
    /// passed to the client.
    unacknowledged: Vec<ReceivedMessage>,
}

impl<'a> Runner<'a> {
    /// A runner for a guest with that name, which appears in traces and logs.
    #[must_use]
    pub fn new(client: &'a Client, guest: RunnerGuest, name: impl Into<String>) -> Self {
        Self {
            client,
            guest,
            writer: Writer::new(client, name.into()),
            counts: RunnerCounts::default(),
            unacknowledged: Vec::new(),
        }
    }

    /// The counters so far.
    #[must_use]
    pub const fn counts(&self) -> RunnerCounts {
        RunnerCounts {
            written: self.writer.written(),
            unsent: self.writer.unsent(),
            ..self.counts
        }
    }

    /// Handles messages until the client [finishes](Client::finish), is stopped, or is refused by the
    /// zipper. Blocks the thread meanwhile.
    ///
    /// While messages wait for a fast guest, its outputs are sent in batches, at most a
    /// [tick](selvedge_wasm_host::HostConfig::tick) and a call late. If the client finishes, the guest
    /// handles every received message, and every output is sent before the end. If the client is
    /// stopped, unsent outputs are counted as [unsent](RunnerCounts::unsent), and unread messages remain
    /// in the client.
    ///
    /// With [`AcknowledgeMode::ByCall`](selvedge_client::AcknowledgeMode::ByCall), a message is acknowledged
    /// when its outputs were passed to the client, or the guest has failed on it.
    ///
    /// # Errors
    /// Always: the reason of the end.
    pub fn run(&mut self) -> RunError {
        loop {
            let handled = self.next().and_then(|message| self.process(message));
            if let Err(error) = handled {
                // Reading has ended; writing may still be possible.
                return self.send().map_or_else(RunError::from, |()| error);
            }
        }
    }

    fn process(&mut self, message: ReceivedMessage) -> Result<(), RunError> {
        self.handle(&message)?;
        if message.awaits_acknowledgement() {
            self.unacknowledged.push(message);
        }
        self.acknowledge();
        Ok(())
    }

    /// Acknowledges what was handled, unless outputs wait in the batch.
    fn acknowledge(&mut self) {
        if self.writer.unsent() == 0 {
            for message in self.unacknowledged.drain(..) {
                self.client.acknowledge(&message);
            }
        }
    }

    fn send(&mut self) -> Result<(), WriteError> {
        self.writer.send()?;
        self.acknowledge();
        Ok(())
    }

    /// The next message. Outputs are sent before the thread waits.
    fn next(&mut self) -> Result<ReceivedMessage, RunError> {
        let taken = match self.client.try_receive() {
            Err(ReadError::TimedOut) => {
                self.send()?;
                self.client.receive()
            }
            taken => taken,
        };
        let message = taken?;
        self.counts.received += 1;
        self.counts.redelivered += u64::from(message.is_redelivery());
        Ok(message)
    }

    fn handle(&mut self, message: &ReceivedMessage) -> Result<(), RunError> {
        let tick = self.guest.tick();
        let answer = match self.guest.handle(message.tag(), message.payload()) {
            Ok(answer) => answer,
            Err(error) => {
                self.note_failure(message.tag(), &error);
                return Ok(self.writer.send_due(self.guest.tick())?);
            }
        };
        self.counts.handled += 1;
        let (writer, trace) = (&mut self.writer, message.trace());
        match answer {
            GuestAnswer::Outputs(outputs) => {
                for output in outputs {
                    let output = (Tag(output.tag), output.target, output.payload);
                    writer.append(output, trace, tick);
                }
            }
            GuestAnswer::Number(tag, digits) => {
                writer.append((tag, None, digits.as_bytes()), trace, tick)
            }
        }
        Ok(writer.send_due(self.guest.tick())?)
    }

    fn note_failure(&mut self, tag: Tag, error: &HandleError) {
        self.counts.failed += 1;
        // The log is limited to powers of two: a guest may fail on every message.
        if self.counts.failed.is_power_of_two() {
            let (name, failed) = (self.writer.name(), self.counts.failed);
            tracing::warn!(name, failed, %tag, %error, "the guest has failed on a message");
        }
    }
}

/// The outputs of a guest for one message.
enum GuestAnswer<'a> {
    Outputs(Outputs<'a>),
    Number(Tag, String),
}

impl RunnerGuest {
    fn handle(&mut self, tag: Tag, payload: &[u8]) -> Result<GuestAnswer<'_>, HandleError> {
        match self {
            Self::Function(instance) => {
                let outputs = instance.handle(tag.0, payload)?;
                // Checked before any output is sent: a message is handled completely or not at all.
                for output in outputs.clone() {
                    Tag::for_user(output.tag)?;
                }
                Ok(GuestAnswer::Outputs(outputs))
            }
            Self::Numeric { function, emit } => {
                let text = String::from_utf8_lossy(payload);
                let number = text.trim().parse();
                let number = number.map_err(|_| HandleError::NotANumber(excerpt(&text)))?;
                let answer = function.call(number)?;
                Ok(GuestAnswer::Number(*emit, answer.to_string()))
            }
        }
    }

    /// The ticks of the host of the guest.
    fn tick(&self) -> u64 {
        match self {
            Self::Function(instance) => instance.ticks(),
            Self::Numeric { function, .. } => function.ticks(),
        }
    }
}

fn excerpt(text: &str) -> String {
    let mut excerpt: String = text.chars().take(40).collect();
    if excerpt.len() < text.len() {
        excerpt.push('…');
    }
    excerpt
}
