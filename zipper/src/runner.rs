//! Runs a WebAssembly guest as a function of a zipper.

use bytes::Bytes;
use selvedge_wasm_host::{CallError, Instance, NumericFunction, Output};

use crate::client::{Client, ReadError, WriteError, step};
use crate::tag::{Tag, TagError};
use crate::wire::Data;

/// What handles the messages.
#[derive(Debug)]
pub enum Guest {
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
pub struct Counts {
    /// Messages that the guest has handled.
    pub handled: u64,
    /// Messages that the guest has failed on. They are dropped, with what it had written for them.
    pub failed: u64,
    /// Messages that it has written.
    pub written: u64,
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
    guest: Guest,
    name: String,
    counts: Counts,
}

impl<'a> Runner<'a> {
    /// A guest of that name, which appears in traces and logs.
    #[must_use]
    pub fn new(client: &'a Client, guest: Guest, name: impl Into<String>) -> Self {
        Self {
            client,
            guest,
            name: name.into(),
            counts: Counts::default(),
        }
    }

    /// What it has counted.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Handles messages until the client is stopped or the zipper lets go of it.
    ///
    /// # Errors
    /// [`RunError`]: there is no other end.
    pub fn run(&mut self) -> RunError {
        loop {
            let data = match self.client.read() {
                Ok(data) => data,
                Err(error) => return error.into(),
            };
            if let Err(error) = self.handle(data) {
                return error;
            }
        }
    }

    fn handle(&mut self, data: Data) -> Result<(), RunError> {
        let outputs = match self.guest.handle(&data) {
            Ok(outputs) => outputs,
            Err(error) => {
                self.counts.failed += 1;
                // A guest that fails on everything must not fill the log.
                if self.counts.failed.is_power_of_two() {
                    let (name, failed) = (&self.name, self.counts.failed);
                    tracing::warn!(name, failed, tag = %data.tag, %error, "the guest failed on a message");
                }
                return Ok(());
            }
        };
        self.counts.handled += 1;
        for (tag, target, payload) in outputs {
            let trace = data.trace.clone().map(|mut trace| {
                trace.push(step(self.name.clone()));
                trace
            });
            match self.client.write_with(tag, target, trace, payload) {
                Ok(()) => self.counts.written += 1,
                Err(closed @ WriteError::Closed(_)) => return Err(closed.into()),
                Err(error) => {
                    tracing::error!(name = self.name, %tag, %error, "what the guest wrote is dropped");
                }
            }
        }
        Ok(())
    }
}

type Written = (Tag, Option<String>, Bytes);

impl Guest {
    fn handle(&mut self, data: &Data) -> Result<Vec<Written>, HandleError> {
        match self {
            Self::Function(instance) => {
                let outputs = instance.handle(data.tag.0, &data.payload)?;
                let written = |output: Output<'_>| {
                    let tag = Tag::for_user(output.tag)?;
                    let target = output.target.map(str::to_owned);
                    Ok((tag, target, Bytes::copy_from_slice(output.payload)))
                };
                outputs.map(written).collect()
            }
            Self::Numeric { function, emit } => {
                let text = String::from_utf8_lossy(&data.payload);
                let number = text.trim().parse();
                let number = number.map_err(|_| HandleError::NoNumber(excerpt(&text)))?;
                let answer = function.call(number)?;
                Ok(vec![(*emit, None, Bytes::from(answer.to_string()))])
            }
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
