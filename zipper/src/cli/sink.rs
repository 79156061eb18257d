//! `zipper sink`

use std::io::{self, Write};
use std::sync::Arc;

use clap::ValueEnum;
use selvedge_client::tag::Tag;
use selvedge_client::wire::Data;
use selvedge_client::{ClientOptions, ReadError};
use selvedge_zipper::records::{self, Framing};
use serde_json::json;

use crate::cli::Format;
use crate::cli::connection::{Connection, tag};
use crate::cli::fault::Fault;
use crate::cli::interrupt::stop_when_interrupted;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// The tags of the messages, such as 0x11.
    #[arg(long, value_name = "TAG", required = true, value_parser = tag, value_delimiter = ',')]
    observe: Vec<Tag>,
    /// Of messages with a target, those with this one.
    #[arg(long)]
    target: Option<String>,
    /// How messages are told apart.
    #[arg(long, value_enum, default_value_t)]
    format: SinkFormat,
    /// Ends after so many messages.
    #[arg(long)]
    count: Option<u64>,
    /// Ends at an empty message, and does not print it.
    #[arg(long)]
    until_mark: bool,
    /// The name of this sink. Sinks of one name share the messages; by default each gets all.
    #[arg(short, long)]
    name: Option<String>,
}

/// How messages are told apart.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum SinkFormat {
    /// One a line.
    #[default]
    Lines,
    /// Each with its length before it: 4 bytes, big-endian.
    LengthPrefixed,
    /// Not at all: one behind the other.
    Raw,
}

pub(crate) fn sink(args: Args, output: Format) -> Result<(), Fault> {
    let name = args.name.clone();
    let name = name.unwrap_or_else(|| format!("sink-{:08x}", fastrand::u32(..)));
    let (tags, target) = (args.observe.clone(), args.target.clone());
    let client = args.connection.connect(|zippers| ClientOptions {
        target,
        ..ClientOptions::function(name, tags, zippers)
    })?;
    let client = Arc::new(client);
    let _interrupted = stop_when_interrupted(&client)?;
    tracing::info!(zipper = client.zipper(), "reading");
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let data = match client.read() {
            Ok(data) => data,
            Err(ReadError::Closed(why)) if client.is_stopped() => {
                tracing::debug!(why);
                break;
            }
            Err(error) => return Err(Fault::failed(error)),
        };
        if args.until_mark && data.payload.is_empty() {
            break;
        }
        left -= 1;
        print(&data, &args, output).map_err(Fault::output)?;
    }
    Ok(())
}

fn print(data: &Data, args: &Args, output: Format) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match output {
        Format::Text => match args.format {
            SinkFormat::Lines => records::write(&mut out, Framing::Lines, &data.payload)?,
            SinkFormat::LengthPrefixed => {
                records::write(&mut out, Framing::LengthPrefixed, &data.payload)?;
            }
            SinkFormat::Raw => out.write_all(&data.payload)?,
        },
        Format::Json => {
            let trace = data.trace.as_ref().map(|trace| {
                let step =
                    |(name, micros): &(String, u64)| json!({"name": name, "time_us": micros});
                trace.iter().map(step).collect::<Vec<_>>()
            });
            let line = json!({
                "tag": data.tag.to_string(),
                "source": selvedge_hub::NodeId::new(data.origin.source).to_string(),
                "sequence": data.origin.sequence,
                "target": data.target,
                "payload": String::from_utf8_lossy(&data.payload),
                "trace": trace,
            });
            writeln!(out, "{line}")?;
        }
    }
    out.flush()
}
