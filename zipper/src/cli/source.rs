//! `zipper source`

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use clap::ValueEnum;
use crossbeam_channel::{Receiver, bounded, select};
use selvedge_client::tag::Tag;
use selvedge_client::{Client, ClientOptions, WriteError, step};
use selvedge_zipper::records::{Framing, Reader, RecordError};
use serde_json::json;

use crate::cli::connection::{Connection, tag};
use crate::cli::end;
use crate::cli::fault::Fault;
use crate::cli::interrupt::{Interrupts, stop_when_interrupted};
use crate::cli::{Format, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// The tag of the messages, such as 0x10.
    #[arg(short, long, value_parser = tag)]
    tag: Tag,
    /// What to read; stdin without it.
    file: Option<PathBuf>,
    /// How messages are told apart.
    #[arg(long, value_enum, default_value_t)]
    format: RecordFormat,
    /// For functions that want this target only.
    #[arg(long)]
    target: Option<String>,
    /// Ends with an empty message, and sends no other: how functions such as `word-count` learn of
    /// the end.
    #[arg(long)]
    end_mark: bool,
    /// Has every zipper and function on the way write its name and time into the message.
    #[arg(long)]
    trace: bool,
    /// The name of this source.
    #[arg(short, long, default_value = "source")]
    name: String,
}

/// How messages are told apart.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum RecordFormat {
    /// One a line.
    #[default]
    Lines,
    /// Each with its length before it: 4 bytes, big-endian.
    LengthPrefixed,
}

impl From<RecordFormat> for Framing {
    fn from(format: RecordFormat) -> Self {
        match format {
            RecordFormat::Lines => Self::Lines,
            RecordFormat::LengthPrefixed => Self::LengthPrefixed,
        }
    }
}

pub(crate) fn source(args: Args, output: Format) -> Result<(), Fault> {
    let input = open(args.file.as_deref())?;
    let name = args.name.clone();
    let client = args
        .connection
        .connect(|zippers| ClientOptions::source(name, zippers))?;
    let client = Arc::new(client);
    let interrupted = stop_when_interrupted(&client)?;
    let messages = read(input, args.format.into(), args.connection.payload_max())?;
    let mut counts = Counts::default();
    let ended = pump(&client, &args, &messages, &interrupted, &mut counts);
    let delivered = end::close(&client, &interrupted);
    // Not before: what the end leaves behind is uncertain too.
    let (zipper, uncertain) = (client.zipper(), client.uncertain());
    let Counts { sent, bytes } = counts;
    match output {
        Format::Text => say(format_args!(
            "sent {sent} messages, {bytes} bytes, to zipper {zipper}"
        ))?,
        Format::Json => say(json!({
            "sent": sent, "bytes": bytes, "zipper": zipper,
            "delivered": delivered, "uncertain": uncertain,
        }))?,
    }
    ended?;
    if delivered {
        Ok(())
    } else {
        let lost = format_args!(
            "not everything was acknowledged by the zipper: {uncertain} of {sent} messages may not \
             have been handled"
        );
        Err(Fault::lost(interrupted.is_given_up(), lost))
    }
}

/// What was written, without the mark of the end.
#[derive(Default)]
struct Counts {
    sent: u64,
    bytes: usize,
}

fn open(file: Option<&Path>) -> Result<Box<dyn Read + Send>, Fault> {
    let Some(path) = file else {
        if io::stdin().is_terminal() {
            tracing::warn!("reading from the terminal: a message a line, Ctrl-D ends");
        }
        return Ok(Box::new(io::stdin()));
    };
    let shown = path.display();
    let fault = |error: &dyn std::fmt::Display| Fault::usage(format!("{shown}: {error}"));
    let file = File::open(path).map_err(|error| fault(&error))?;
    if file.metadata().is_ok_and(|it| it.is_dir()) {
        return Err(fault(&"is a directory"));
    }
    Ok(Box::new(file))
}

type Incoming = Result<Bytes, RecordError>;

/// Reads on a thread of its own: a read of a terminal or pipe cannot be interrupted.
fn read(
    input: Box<dyn Read + Send>,
    framing: Framing,
    len_max: usize,
) -> Result<Receiver<Incoming>, Fault> {
    let (give, messages) = bounded(64);
    let run = move || {
        let mut reader = Reader::new(BufReader::new(input), framing, len_max);
        while let Some(message) = reader.read().transpose() {
            let is_last = message.is_err();
            if give.send(message).is_err() || is_last {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("zipper-input".into())
        .spawn(run)
        .map_err(|error| Fault::failed(format!("cannot start a thread: {error}")))?;
    Ok(messages)
}

fn pump(
    client: &Client,
    args: &Args,
    messages: &Receiver<Incoming>,
    interrupted: &Interrupts,
    counts: &mut Counts,
) -> Result<(), Fault> {
    loop {
        let message = select! {
            recv(messages) -> message => message,
            recv(interrupted.first) -> _ => return Ok(()),
        };
        let Ok(message) = message else { break };
        let message = message.map_err(Fault::failed)?;
        if message.is_empty() && args.end_mark {
            continue;
        }
        let len = message.len();
        match write(client, args, message) {
            Ok(()) => (),
            Err(_) if client.is_stopped() => return Ok(()),
            Err(error) => return Err(Fault::failed(error)),
        }
        counts.sent += 1;
        counts.bytes += len;
    }
    if args.end_mark {
        write(client, args, Bytes::new()).map_err(Fault::failed)?;
    }
    Ok(())
}

fn write(client: &Client, args: &Args, payload: Bytes) -> Result<(), WriteError> {
    let trace = args.trace.then(|| vec![step(args.name.clone())]);
    client.write_with(args.tag, args.target.clone(), trace, payload)
}
