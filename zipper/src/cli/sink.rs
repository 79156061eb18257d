//! `zipper sink`: prints the messages of some tags.

use std::io::{self, Write};
use std::sync::Arc;

use clap::ValueEnum;
use data_encoding::BASE64;
use selvedge_client::tag::Tag;
use selvedge_client::wire::Data;
use selvedge_client::{ClientOptions, ReadError};
use selvedge_hub::NodeId;
use selvedge_zipper::records::{self, Framing};
use serde_json::json;

use crate::cli::OutputFormat;
use crate::cli::connection::{ConnectionArgs, tag};
use crate::cli::error::CommandError;
use crate::cli::shutdown::Shutdown;

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
    #[arg(long)]
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
    let client = args.connection.connect(|zippers| ClientOptions {
        target,
        ..ClientOptions::function(name, tags, zippers)
    })?;
    let client = Arc::new(client);
    let _shutdown = Shutdown::stopping(&client)?;
    tracing::info!(zipper = client.zipper(), "reading");
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
