//! `zipper sink`: prints the messages of some tags.
//!
//! A message of the level `processed` is acknowledged once the output has left this process: many at a time, after
//! the flush of what was printed. If the sink is killed, the others go to another sink of its name, or stay
//! unsettled. One of the level `received` counts as settled when it is read.

use std::io::{self, BufWriter, Stdout, Write};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use data_encoding::BASE64;
use selvedge_client::tag::Tag;
use selvedge_client::{AcknowledgeMode, Client, ClientOptions, ReadError, ReceivedMessage};
use selvedge_hub::NodeId;
use selvedge_zipper::records::{self, Framing};
use serde_json::{Value, json};

use crate::cli::OutputFormat;
use crate::cli::connection::{ConnectionArgs, SlowArg, tag};
use crate::cli::error::CommandError;
use crate::cli::number::number;
use crate::cli::shutdown::Shutdown;
use crate::cli::suspension::SuspensionWatch;

/// Output is flushed from this size on.
const OUTPUT_BYTES: usize = 64 << 10;

/// And after so many messages, if they are read quickly.
const OUTPUT_MESSAGES: u32 = 8192;

/// How long a flush should take at most. What is flushed together is acknowledged together: an instance that
/// acknowledges nothing for `limits.stalled_max` is disconnected, so a slow reader must not be given a lot at once.
const FLUSH_TIME: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(crate) struct SinkArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Tags of the messages, such as 0x11.
    #[arg(long, value_name = "TAG", required = true, value_parser = tag, value_delimiter = ',')]
    observe: Vec<Tag>,
    /// Target of this sink: it receives messages with this target and messages without one.
    #[arg(long)]
    target: Option<String>,
    /// Framing of messages on stdout. With `--output json` each message is one line with tag, source,
    /// sequence, target, trace, and `payload`, or `payload_base64` if the payload is not UTF-8; and
    /// `"redelivery": true` if another sink of this name may have received the message before.
    #[arg(long, value_enum, default_value_t)]
    format: SinkFormat,
    /// Ends after this number of messages.
    #[arg(long, value_parser = number(0..=u64::MAX))]
    count: Option<u64>,
    /// Ends at an empty message, which is not printed.
    #[arg(long)]
    until_mark: bool,
    /// What becomes of messages while this sink is slower than they come. A sink that drops messages holds no
    /// source back, and does not settle messages: sources do not wait for it. What the zipper drops is
    /// counted there (`zipper ls functions`), and shows as gaps in `sequence` with `--output json`; the counts
    /// that this sink logs at its end contain only what it has received.
    #[arg(long, value_enum, default_value_t)]
    when_slow: SlowArg,
    /// Name of this sink. Sinks with the same name share the messages. Default: a random name, so
    /// that each sink receives every message.
    #[arg(short, long)]
    name: Option<String>,
}

/// Framing of messages on stdout.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum SinkFormat {
    /// One message per line.
    #[default]
    Lines,
    /// Each message after its length: 4 bytes, big-endian.
    LengthPrefixed,
    /// No framing: the bytes of one message follow those of the previous one.
    Raw,
}

/// Messages that were received.
#[derive(Debug, Default)]
struct SinkCounts {
    received: u64,
    /// Those that another sink of the same name may have received before.
    redelivered: u64,
    /// Those that their sources do not settle.
    plain: u64,
}

pub(crate) fn sink(args: SinkArgs, output: OutputFormat) -> Result<(), CommandError> {
    let name = args.name.clone();
    let name = name.unwrap_or_else(|| format!("sink-{:08x}", fastrand::u32(..)));
    let (tags, target) = (args.observe.clone(), args.target.clone());
    let shutdown = Shutdown::listen(args.connection.shutdown)?;
    let client = args
        .connection
        .connect_until(&shutdown, |zippers| ClientOptions {
            target,
            slow_consumer: args.when_slow.into(),
            acknowledge: AcknowledgeMode::ByCall,
            ..ClientOptions::function(name, tags, zippers)
        })?;
    let Some(client) = client else { return Ok(()) };
    // What was printed is acknowledged before this sink leaves.
    let running = shutdown.finish(&client)?;
    let suspension = SuspensionWatch::start()?;
    tracing::info!(zipper = client.zipper(), "reading");
    let mut counts = SinkCounts::default();
    let mut out = SinkOutput::new(&client);
    let read = read(&client, &args, output, &mut out, &mut counts);
    let flushed = out.flush();
    drop(running);
    let SinkCounts {
        received,
        redelivered,
        plain,
    } = counts;
    tracing::info!(received, redelivered, "the sink ended");
    read.and(flushed)?;
    let suspended = suspension.longest();
    let is_all_settled = received > 0 && plain == 0 && suspended.is_none();
    match client.sessions_lost() {
        0 => Ok(()),
        _ if is_all_settled => Ok(()),
        _ => Err(missed(suspended)),
    }
}

/// The error of a sink whose session a zipper has lost: the messages that waited there.
fn missed(suspended: Option<u64>) -> CommandError {
    let reason = match suspended {
        Some(seconds) => format!(
            "this process was suspended for {seconds} s, and a zipper gives up a client after 30 s"
        ),
        None => "the zipper was restarted, or was not reachable for 30 s".to_owned(),
    };
    CommandError::disconnected(format!(
        "messages for this sink may be lost, in an unknown number, because the zipper has lost its \
         session: {reason}. Messages that are settled are not lost: their sources send them again, or \
         report them (`zipper source --level`)"
    ))
}

/// The output of a sink, and the messages in it that are to be acknowledged.
struct SinkOutput<'a> {
    client: &'a Client,
    out: BufWriter<Stdout>,
    /// The messages in `out`, and how many are flushed together.
    messages: u32,
    messages_max: u32,
}

impl<'a> SinkOutput<'a> {
    fn new(client: &'a Client) -> Self {
        // With room for the message that reaches the size at which the output is flushed.
        let out = BufWriter::with_capacity(2 * OUTPUT_BYTES, io::stdout());
        Self {
            client,
            out,
            messages: 0,
            messages_max: OUTPUT_MESSAGES,
        }
    }

    /// A message was printed.
    fn end_message(&mut self) -> Result<(), CommandError> {
        self.messages += 1;
        if self.messages >= self.messages_max || self.out.buffer().len() >= OUTPUT_BYTES {
            let (begin, messages) = (Instant::now(), self.messages);
            self.flush()?;
            self.messages_max = match begin.elapsed() > FLUSH_TIME {
                true => (messages / 2).max(1),
                false => (self.messages_max * 2).min(OUTPUT_MESSAGES),
            };
        }
        Ok(())
    }

    /// Flushes the output, and acknowledges what was printed.
    fn flush(&mut self) -> Result<(), CommandError> {
        self.out.flush().map_err(CommandError::output)?;
        self.client.acknowledge_all();
        self.messages = 0;
        Ok(())
    }
}

/// Reads messages until the end, and prints them. Output is buffered only while further messages are there.
fn read(
    client: &Client,
    args: &SinkArgs,
    output: OutputFormat,
    out: &mut SinkOutput<'_>,
    counts: &mut SinkCounts,
) -> Result<(), CommandError> {
    let remaining = args.count.unwrap_or(u64::MAX);
    while counts.received < remaining {
        let message = match client.try_receive() {
            Err(ReadError::TimedOut) => {
                out.flush()?;
                client.receive()
            }
            taken => taken,
        };
        let message = match message {
            Ok(message) => message,
            Err(ReadError::Closed(reason)) if client.is_stopped() => {
                tracing::debug!(reason, "stopped");
                break;
            }
            Err(error) => return Err(CommandError::disconnected(error)),
        };
        if args.until_mark && message.payload().is_empty() {
            break;
        }
        counts.received += 1;
        counts.redelivered += u64::from(message.is_redelivery());
        counts.plain += u64::from(!message.is_settled());
        print(&message, args.format, output, &mut out.out).map_err(CommandError::output)?;
        out.end_message()?;
    }
    Ok(())
}

fn print(
    message: &ReceivedMessage,
    format: SinkFormat,
    output: OutputFormat,
    out: &mut impl Write,
) -> io::Result<()> {
    if let (OutputFormat::Text, Some(trace)) = (output, message.trace()) {
        // Not on stdout, which has the messages only. A closed stderr is no failure.
        let _unread = writeln!(io::stderr(), "{}", route(message.tag(), trace));
    }
    let payload = message.payload();
    match (output, format) {
        (OutputFormat::Text, SinkFormat::Lines) => records::write(out, Framing::Lines, payload),
        (OutputFormat::Text, SinkFormat::LengthPrefixed) => {
            records::write(out, Framing::LengthPrefixed, payload)
        }
        (OutputFormat::Text, SinkFormat::Raw) => out.write_all(payload),
        (OutputFormat::Json, _) => writeln!(out, "{}", to_json(message)),
    }
}

fn to_json(message: &ReceivedMessage) -> Value {
    let trace = message.trace().map(|trace| {
        let step = |(name, micros): &(String, u64)| json!({"name": name, "time_us": micros});
        trace.iter().map(step).collect::<Vec<_>>()
    });
    let mut line = json!({
        "tag": message.tag().to_string(),
        "source": NodeId::new(message.source()).to_string(),
        "sequence": message.sequence(),
        "target": message.target(),
        "trace": trace,
    });
    if message.is_redelivery() {
        line["redelivery"] = true.into();
    }
    match std::str::from_utf8(message.payload()) {
        Ok(text) => line["payload"] = text.into(),
        Err(_) => line["payload_base64"] = BASE64.encode(message.payload()).into(),
    }
    line
}

/// The steps of a trace in one line, with the time since the first one.
fn route(tag: Tag, trace: &[(String, u64)]) -> String {
    let began = trace.first().map_or(0, |(_, micros)| *micros);
    let step =
        |(name, micros): &(String, u64)| format!("{name} +{} us", micros.saturating_sub(began));
    let steps: Vec<String> = trace.iter().map(step).collect();
    format!("trace of {tag}: {}", steps.join(", "))
}
