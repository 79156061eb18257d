//! `zipper sink`: prints the messages of some tags.

use std::io::{self, Write};

use clap::ValueEnum;
use data_encoding::BASE64;
use selvedge_client::tag::Tag;
use selvedge_client::wire::Data;
use selvedge_client::{Client, ClientOptions, ReadError};
use selvedge_hub::NodeId;
use selvedge_zipper::records::{self, Framing};
use serde_json::json;

use crate::cli::OutputFormat;
use crate::cli::connection::{ConnectionArgs, tag};
use crate::cli::error::CommandError;
use crate::cli::number::number;
use crate::cli::shutdown::Shutdown;
use crate::cli::suspension::SuspensionWatch;

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
    /// sequence, target, trace, and `payload`, or `payload_base64` if the payload is not UTF-8.
    #[arg(long, value_enum, default_value_t)]
    format: SinkFormat,
    /// Ends after this number of messages.
    #[arg(long, value_parser = number(0..=u64::MAX))]
    count: Option<u64>,
    /// Ends at an empty message, which is not printed.
    #[arg(long)]
    until_mark: bool,
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

pub(crate) fn sink(args: SinkArgs, output: OutputFormat) -> Result<(), CommandError> {
    let name = args.name.clone();
    let name = name.unwrap_or_else(|| format!("sink-{:08x}", fastrand::u32(..)));
    let (tags, target) = (args.observe.clone(), args.target.clone());
    let shutdown = Shutdown::listen(args.connection.shutdown)?;
    let client = args
        .connection
        .connect_until(&shutdown, |zippers| ClientOptions {
            target,
            ..ClientOptions::function(name, tags, zippers)
        })?;
    let Some(client) = client else { return Ok(()) };
    shutdown.stop(&client)?;
    let suspension = SuspensionWatch::start()?;
    tracing::info!(zipper = client.zipper(), "reading");
    read(&client, &args, output)?;
    match client.sessions_lost() {
        0 => Ok(()),
        _ => Err(missed(suspension.longest())),
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
         session: {reason}"
    ))
}

fn read(client: &Client, args: &SinkArgs, output: OutputFormat) -> Result<(), CommandError> {
    let mut remaining = args.count.unwrap_or(u64::MAX);
    while remaining > 0 {
        let data = match client.read() {
            Ok(data) => data,
            Err(ReadError::Closed(reason)) if client.is_stopped() => {
                tracing::debug!(reason, "stopped");
                break;
            }
            Err(error) => return Err(CommandError::disconnected(error)),
        };
        if args.until_mark && data.payload.is_empty() {
            break;
        }
        remaining -= 1;
        print(&data, args.format, output).map_err(CommandError::output)?;
    }
    Ok(())
}

fn print(data: &Data, format: SinkFormat, output: OutputFormat) -> io::Result<()> {
    if let (OutputFormat::Text, Some(trace)) = (output, &data.trace) {
        // Not on stdout, which has the messages only. A closed stderr is no failure.
        let _unread = writeln!(io::stderr(), "{}", route(data.tag, trace));
    }
    let mut out = io::stdout().lock();
    match (output, format) {
        (OutputFormat::Text, SinkFormat::Lines) => {
            records::write(&mut out, Framing::Lines, &data.payload)?;
        }
        (OutputFormat::Text, SinkFormat::LengthPrefixed) => {
            records::write(&mut out, Framing::LengthPrefixed, &data.payload)?;
        }
        (OutputFormat::Text, SinkFormat::Raw) => out.write_all(&data.payload)?,
        (OutputFormat::Json, _) => {
            let trace = data.trace.as_ref().map(|trace| {
                let step =
                    |(name, micros): &(String, u64)| json!({"name": name, "time_us": micros});
                trace.iter().map(step).collect::<Vec<_>>()
            });
            let mut line = json!({
                "tag": data.tag.to_string(),
                "source": NodeId::new(data.origin.source).to_string(),
                "sequence": data.origin.sequence,
                "target": data.target,
                "trace": trace,
            });
            match std::str::from_utf8(&data.payload) {
                Ok(text) => line["payload"] = text.into(),
                Err(_) => line["payload_base64"] = BASE64.encode(&data.payload).into(),
            }
            writeln!(out, "{line}")?;
        }
    }
    out.flush()
}

/// The steps of a trace in one line, with the time since the first one.
fn route(tag: Tag, trace: &[(String, u64)]) -> String {
    let began = trace.first().map_or(0, |(_, micros)| *micros);
    let step =
        |(name, micros): &(String, u64)| format!("{name} +{} us", micros.saturating_sub(began));
    let steps: Vec<String> = trace.iter().map(step).collect();
    format!("trace of {tag}: {}", steps.join(", "))
}
