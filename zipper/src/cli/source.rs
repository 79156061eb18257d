//! `zipper source`: sends messages from stdin or a file.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::ValueEnum;
use crossbeam_channel::{Receiver, bounded, select};
use selvedge_client::tag::Tag;
use selvedge_client::{Client, ClientOptions, WriteError};
use selvedge_zipper::records::{Framing, RecordError, RecordReader};
use serde_json::json;

use crate::cli::connection::{ConnectionArgs, tag};
use crate::cli::drain;
use crate::cli::error::CommandError;
use crate::cli::shutdown::Shutdown;
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
        .connect_until(&shutdown, |zippers| ClientOptions::source(name, zippers))?;
    let Some(client) = client else {
        let message = "no message was sent: the shutdown was requested before a zipper answered";
        return Err(CommandError::lost(false, message));
    };
    shutdown.stop(&client)?;
    let records = read(input, args.format.into(), args.connection.payload_max())?;
    let mut totals = SentTotals::default();
    let sent_all = send_all(&client, &args, &records, &shutdown, &mut totals);
    let delivered = drain::close(&client, &shutdown);
    // Read after the close, which adds what it leaves unacknowledged.
    let (zipper, uncertain) = (client.zipper(), client.uncertain());
    let SentTotals { sent, bytes } = totals;
    match output {
        OutputFormat::Text => print_line(format_args!(
            "sent {sent} messages, {bytes} bytes, to zipper {zipper}"
        ))?,
        OutputFormat::Json => print_line(json!({
            "sent": sent, "bytes": bytes, "zipper": zipper,
            "delivered": delivered, "uncertain": uncertain,
        }))?,
    }
    sent_all?;
    if delivered {
        Ok(())
    } else {
        let message = format_args!(
            "the zipper did not acknowledge everything: {uncertain} of {sent} messages may be lost"
        );
        Err(CommandError::lost(shutdown.is_forced(), message))
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

type InputRecord = Result<Bytes, RecordError>;

/// Reads on a separate thread, because a read of a terminal or pipe cannot be interrupted.
fn read(
    input: Box<dyn Read + Send>,
    framing: Framing,
    len_max: usize,
) -> Result<Receiver<InputRecord>, CommandError> {
    let (sender, records) = bounded(64);
    let run = move || {
        let mut reader = RecordReader::new(BufReader::new(input), framing, len_max);
        while let Some(record) = reader.read().transpose() {
            let is_last = record.is_err();
            if sender.send(record).is_err() || is_last {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("zipper-input".into())
        .spawn(run)
        .map_err(CommandError::thread)?;
    Ok(records)
}

/// Sends until the input ends or a shutdown is requested.
fn send_all(
    client: &Client,
    args: &SourceArgs,
    records: &Receiver<InputRecord>,
    shutdown: &Shutdown,
    totals: &mut SentTotals,
) -> Result<(), CommandError> {
    loop {
        let record = select! {
            recv(records) -> record => record,
            recv(shutdown.requested) -> _disconnected => return Ok(()),
        };
        let Ok(record) = record else { break };
        let payload = record.map_err(CommandError::input)?;
        if payload.is_empty() && args.end_mark {
            continue;
        }
        let len = payload.len();
        match write(client, args, payload) {
            Ok(()) => (),
            Err(_) if client.is_stopped() => return Ok(()),
            Err(error) => return Err(CommandError::disconnected(error)),
        }
        totals.sent += 1;
        totals.bytes += len;
    }
    if args.end_mark {
        write(client, args, Bytes::new()).map_err(CommandError::disconnected)?;
    }
    Ok(())
}

fn write(client: &Client, args: &SourceArgs, payload: Bytes) -> Result<(), WriteError> {
    let trace = args.trace.then(|| vec![client.step(args.name.clone())]);
    client.write_with(args.tag, args.target.clone(), trace, payload)
}
