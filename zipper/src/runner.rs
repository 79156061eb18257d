//! Runs a WebAssembly guest as a function of a zipper.

mod writer;

use selvedge_wasm_host::{CallError, Instance, NumericFunction, Outputs};

use crate::runner::writer::Writer;
use selvedge_client::tag::{Tag, TagError};
use selvedge_client::{Arrived, Client, ReadError, WriteError};

/// What handles the messages.
#[derive(Debug)]
pub enum RunnerGuest {
    /// A stream function: writes what it likes.
    Function(Box<Instance>),
    /// A function of one number: a message is a number in decimal digits, and so is the answer.
    Numeric {
        /// The function.
        function: Box<NumericFunction>,
        /// The tag of the answers.
        emit: Tag,
    },
}

/// What a runner has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunnerCounts {
    /// Messages that the guest has handled.
    pub handled: u64,
    /// Messages that the guest has failed on. They are dropped, with what it had written for them.
    pub failed: u64,
    /// Messages that it has written.
    pub written: u64,
    /// Those that it had written and that found the connection over.
    pub unsent: u64,
}

/// Why a runner ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The connection is over.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The connection is over, or the guest wrote what cannot be sent.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why one message was not handled.
#[derive(Debug, thiserror::Error)]
enum HandleError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("`{0}` is not a number")]
    NoNumber(String),
    #[error("the guest wrote on a tag that it may not use: {0}")]
    Tag(#[from] TagError),
}

/// A guest at work for a client.
#[derive(Debug)]
pub struct Runner<'a> {
    client: &'a Client,
    guest: RunnerGuest,
    writer: Writer<'a>,
    counts: RunnerCounts,
}

impl<'a> Runner<'a> {
    /// A guest of that name, which appears in traces and logs.
    #[must_use]
    pub fn new(client: &'a Client, guest: RunnerGuest, name: impl Into<String>) -> Self {
        Self {
            client,
            guest,
            writer: Writer::new(client, name.into()),
            counts: RunnerCounts::default(),
        }
    }

    /// What it has counted.
    #[must_use]
    pub const fn counts(&self) -> RunnerCounts {
        RunnerCounts {
            written: self.writer.written(),
            unsent: self.writer.unsent(),
            ..self.counts
        }
    }

    /// Handles messages until the client [finishes](Client::finish) or is stopped, or the zipper lets go
    /// of it.
    ///
    /// While messages wait for a guest that is quick, what it writes goes out some messages at a time,
    /// at most a [tick](selvedge_wasm_host::HostConfig::tick) and a call late. If the client finishes,
    /// the guest handles all that has come, and all that it wrote is out at the end. If it is stopped,
    /// what is not out is counted as [unsent](Counts::unsent), and messages that wait for the guest
    /// stay with the client.
    ///
    /// # Errors
    /// [`RunError`]: there is no other end.
    pub fn run(&mut self) -> RunError {
        loop {
            let handled = self.next().and_then(|arrived| self.handle(&arrived));
            if let Err(error) = handled {
                // Reading is over; perhaps writing is not.
                return self.writer.send().map_or_else(RunError::from, |()| error);
            }
        }
    }

    /// The next message. Nothing that was written waits while there is none.
    fn next(&mut self) -> Result<Arrived, RunError> {
        match self.client.try_take() {
            Err(ReadError::TimedOut) => {
                self.writer.send()?;
                Ok(self.client.take()?)
            }
            taken => Ok(taken?),
        }
    }

    fn handle(&mut self, arrived: &Arrived) -> Result<(), RunError> {
        let tick = self.guest.tick();
        let answer = match self.guest.handle(arrived.tag(), arrived.payload()) {
            Ok(answer) => answer,
            Err(error) => {
                self.note_failure(arrived.tag(), &error);
                return Ok(self.writer.send_due(self.guest.tick())?);
            }
        };
        self.counts.handled += 1;
        let (writer, trace) = (&mut self.writer, arrived.trace());
        match answer {
            GuestAnswer::Outputs(outputs) => {
                for output in outputs {
                    let message = (Tag(output.tag), output.target, output.payload);
                    writer.put(message, trace, tick);
                }
            }
            GuestAnswer::Number(tag, digits) => {
                writer.put((tag, None, digits.as_bytes()), trace, tick)
            }
        }
        Ok(writer.send_due(self.guest.tick())?)
    }

    fn note_failure(&mut self, tag: Tag, error: &HandleError) {
        self.counts.failed += 1;
        // A guest that fails on everything must not fill the log.
        if self.counts.failed.is_power_of_two() {
            let (name, failed) = (self.writer.name(), self.counts.failed);
            tracing::warn!(name, failed, %tag, %error, "the guest failed on a message");
        }
    }
}

/// What a guest wrote for one message.
enum GuestAnswer<'a> {
    Outputs(Outputs<'a>),
    Number(Tag, String),
}

impl RunnerGuest {
    fn handle(&mut self, tag: Tag, payload: &[u8]) -> Result<GuestAnswer<'_>, HandleError> {
        match self {
            Self::Function(instance) => {
                let outputs = instance.handle(tag.0, payload)?;
                // Before any of them is sent: a message is handled wholly or not at all.
                for output in outputs.clone() {
                    Tag::for_user(output.tag)?;
                }
                Ok(GuestAnswer::Outputs(outputs))
            }
            Self::Numeric { function, emit } => {
                let text = String::from_utf8_lossy(payload);
                let number = text.trim().parse();
                let number = number.map_err(|_| HandleError::NoNumber(excerpt(&text)))?;
                let answer = function.call(number)?;
                Ok(GuestAnswer::Number(*emit, answer.to_string()))
            }
        }
    }

    /// The clock of the host that it runs on.
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
