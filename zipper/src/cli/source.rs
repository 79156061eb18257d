//! `zipper source`: sends messages from stdin or a file.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use crossbeam_channel::{Receiver, bounded, select};
use selvedge_client::tag::Tag;
use selvedge_client::{Client, ClientOptions, OutgoingBatch, WriteError};
use selvedge_zipper::records::{Framing, RecordReader};

use crate::cli::connection::{ConnectionArgs, tag};
use crate::cli::drain;
use crate::cli::error::CommandError;
use crate::cli::shutdown::Shutdown;
use crate::cli::source_outcome::{LevelArg, SourceOutcome};
use crate::cli::{OutputFormat, print_line};

#[derive(Debug, clap::Args)]
pub(crate) struct SourceArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Tag of the messages, such as 0x10.
    #[arg(short, long, value_parser = tag)]
    tag: Tag,
    /// File to send. Default: stdin.
    file: Option<PathBuf>,
    /// Framing of messages in the input.
    #[arg(long, value_enum, default_value_t)]
    format: SourceFormat,
    /// Target of the messages: of the functions with a target, only those with this one receive
    /// them.
    #[arg(long)]
    target: Option<String>,
    /// Sends an empty message at the end, and no other empty message: the end mark for functions
    /// such as `word-count`.
    #[arg(long)]
    end_mark: bool,
    /// Every zipper and function on the route adds its name and the time to the message.
    /// `zipper sink` shows them on stderr, and in each line of `--output json`.
    #[arg(long)]
    trace: bool,
    /// When a message counts as settled. Until then this process keeps it, and sends it again if a
    /// zipper may have lost it.
    #[arg(long, value_enum, default_value_t)]
    level: LevelArg,
    /// Exits with 0 although no function observed some messages.
    #[arg(long)]
    allow_unobserved: bool,
    /// Name of this source.
    #[arg(short, long, default_value = "source")]
    name: String,
}

/// Framing of messages in the input.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum SourceFormat {
    /// One message per line, without its `\n`. All other bytes are sent, `\r` and those that are not
    /// UTF-8 included.
    #[default]
    Lines,
    /// Each message after its length: 4 bytes, big-endian.
    LengthPrefixed,
}

impl From<SourceFormat> for Framing {
    fn from(format: SourceFormat) -> Self {
        match format {
            SourceFormat::Lines => Self::Lines,
            SourceFormat::LengthPrefixed => Self::LengthPrefixed,
        }
    }
}

pub(crate) fn source(args: SourceArgs, output: OutputFormat) -> Result<(), CommandError> {
    let input = open(args.file.as_deref())?;
    let name = args.name.clone();
    let shutdown = Shutdown::listen(args.connection.shutdown)?;
    let client = args
        .connection
        .connect_until(&shutdown, |zippers| ClientOptions {
            level: args.level.into(),
            ..ClientOptions::source(name, zippers)
        })?;
    let Some(client) = client else {
        let message = "no message was sent: the shutdown was requested before a zipper answered";
        return Err(CommandError::lost(false, message));
    };
    shutdown.stop(&client)?;
    let batches = read(RecordInput {
        reader: RecordReader::new(
            BufReader::with_capacity(RECORDS_BYTES_MAX, input),
            args.format.into(),
            args.connection.payload_max(),
        ),
        client: Arc::clone(&client),
        tag: args.tag,
        target: args.target.clone(),
        trace: args.trace.then(|| args.name.clone()),
        skips_empty: args.end_mark,
    })?;
    let mut totals = SentTotals::default();
    let sent_all = send_all(&client, &batches, &shutdown, &mut totals);
    let closed = drain::close(&client, &shutdown);
    // Read after the close, which adds what it leaves unsettled.
    let outcome = SourceOutcome::new(&client, args.level, args.allow_unobserved).sent(
        totals.sent,
        totals.bytes,
        closed,
    );
    print_line(match output {
        OutputFormat::Text => outcome.to_string(),
        OutputFormat::Json => outcome.to_json().to_string(),
    })?;
    sent_all?;
    match outcome.failure() {
        None => Ok(()),
        Some(message) => Err(CommandError::lost(shutdown.is_forced(), message)),
    }
}

/// Messages that were written, without the end mark.
#[derive(Default)]
struct SentTotals {
    sent: u64,
    bytes: usize,
}

fn open(file: Option<&Path>) -> Result<Box<dyn Read + Send>, CommandError> {
    let Some(path) = file else {
        if io::stdin().is_terminal() {
            tracing::warn!("reading from the terminal: one message per line, Ctrl-D ends");
        }
        return Ok(Box::new(io::stdin()));
    };
    let refused = |reason: &dyn std::fmt::Display| {
        CommandError::usage(format!("{}: {reason}", path.display()))
    };
    let file = File::open(path).map_err(|error| refused(&error))?;
    if file.metadata().is_ok_and(|it| it.is_dir()) {
        return Err(refused(&"is a directory"));
    }
    Ok(Box::new(file))
}

/// Records are passed on together, up to these limits, as long as the input has more without waiting.
const RECORDS_MAX: usize = 1024;
const RECORDS_BYTES_MAX: usize = 256 << 10;

/// The records that the input has brought, as messages.
#[derive(Default)]
struct InputBatch {
    messages: OutgoingBatch,
    /// Bytes of the records.
    bytes: usize,
    /// Whether it is the end mark, which does not count.
    is_mark: bool,
}

/// Reads records, and makes messages of them.
struct RecordInput {
    reader: RecordReader<BufReader<Box<dyn Read + Send>>>,
    client: Arc<Client>,
    tag: Tag,
    target: Option<String>,
    /// The name of the first step of traces, if there are any.
    trace: Option<String>,
    skips_empty: bool,
}

impl RecordInput {
    /// The next records, at least one unless the input has ended, and whether it has.
    fn read(&mut self) -> (InputBatch, Result<bool, CommandError>) {
        let mut batch = InputBatch::default();
        loop {
            match self.read_one(&mut batch) {
                Ok(true) => {}
                ended => return (batch, ended),
            }
            let is_full = batch.messages.len() >= RECORDS_MAX || batch.bytes >= RECORDS_BYTES_MAX;
            if is_full || !self.reader.has_next() {
                return (batch, Ok(true));
            }
        }
    }

    fn read_one(&mut self, batch: &mut InputBatch) -> Result<bool, CommandError> {
        let (client, target) = (&self.client, self.target.as_deref());
        let trace = self.trace.clone().map(|name| vec![client.step(name)]);
        let read = self.reader.read_with(|payload| {
            if payload.is_empty() && self.skips_empty {
                return Ok(());
            }
            batch.bytes += payload.len();
            client.append(
                &mut batch.messages,
                self.tag,
                target,
                trace.as_deref(),
                payload,
            )
        });
        match read.map_err(CommandError::input)? {
            Some(appended) => appended.map(|()| true).map_err(CommandError::disconnected),
            None => Ok(false),
        }
    }

    fn end_mark(&self) -> Result<InputBatch, CommandError> {
        let mut batch = InputBatch {
            is_mark: true,
            ..InputBatch::default()
        };
        let trace = self.trace.clone().map(|name| vec![self.client.step(name)]);
        let (target, trace) = (self.target.as_deref(), trace.as_deref());
        let messages = &mut batch.messages;
        let appended = self.client.append(messages, self.tag, target, trace, &[]);
        appended.map_err(CommandError::disconnected)?;
        Ok(batch)
    }
}

/// Reads on a separate thread, because a read of a terminal or pipe cannot be interrupted.
fn read(
    mut input: RecordInput,
) -> Result<Receiver<Result<InputBatch, CommandError>>, CommandError> {
    let (sender, batches) = bounded(16);
    let run = move || {
        loop {
            let (batch, ended) = input.read();
            if sender.send(Ok(batch)).is_err() {
                return;
            }
            match ended {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return drop(sender.send(Err(error))),
            }
        }
        if input.skips_empty {
            drop(sender.send(input.end_mark()));
        }
    };
    std::thread::Builder::new()
        .name("zipper-input".into())
        .spawn(run)
        .map_err(CommandError::thread)?;
    Ok(batches)
}

/// Sends until the input ends or a shutdown is requested.
fn send_all(
    client: &Client,
    batches: &Receiver<Result<InputBatch, CommandError>>,
    shutdown: &Shutdown,
    totals: &mut SentTotals,
) -> Result<(), CommandError> {
    loop {
        let batch = select! {
            recv(batches) -> batch => batch,
            recv(shutdown.requested) -> _disconnected => return Ok(()),
        };
        let Ok(batch) = batch else { return Ok(()) };
        let InputBatch {
            mut messages,
            bytes,
            is_mark,
        } = batch?;
        let len = messages.len();
        let sent = client.write_batch(&mut messages);
        if !is_mark {
            totals.sent += (len - messages.len()) as u64;
            totals.bytes += if messages.is_empty() { bytes } else { 0 };
        }
        match sent {
            Ok(()) => {}
            Err(WriteError::Closed(_)) if client.is_stopped() => return Ok(()),
            Err(error) => return Err(CommandError::disconnected(error)),
        }
    }
}
