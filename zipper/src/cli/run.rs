//! `zipper run`: runs a WebAssembly file as a stream function.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use selvedge_client::tag::Tag;
use selvedge_client::wire;
use selvedge_client::{
    AcknowledgeMode, Client, ClientOptions, InstanceLossPolicy, SettlementLevel,
};
use selvedge_wasm_host::{FunctionConfig, GuestLimits, Host, HostConfig};
use selvedge_zipper::runner::{Runner, RunnerCounts, RunnerGuest};
use serde_json::json;

use crate::cli::connection::{ConnectionArgs, SlowArg, tag};
use crate::cli::drain;
use crate::cli::error::CommandError;
use crate::cli::number::number;
use crate::cli::shutdown::Shutdown;
use crate::cli::source_outcome::lost_messages;
use crate::cli::{OutputFormat, print_line};

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// A WebAssembly component of the world in wasm-host/wit/function.wit, or a core module of the
    /// ABI in wasm-host/ABI.md.
    file: PathBuf,
    /// Name of the function. Functions with the same name share the messages. Default: the name of
    /// the file.
    #[arg(short, long)]
    name: Option<String>,
    /// Tags to observe. Default: the tags that the file declares.
    #[arg(long, value_name = "TAG", value_parser = tag, value_delimiter = ',')]
    observe: Vec<Tag>,
    /// Target of this function: it receives messages with this target and messages without one.
    #[arg(long)]
    target: Option<String>,
    /// How messages are distributed among functions with the same name.
    #[arg(long, value_enum, default_value_t)]
    policy: PolicyArg,
    /// What becomes of settled messages that this function may have processed when it crashes, or cannot
    /// be reached for 30 s. Its own outputs are settled when they are processed.
    #[arg(long, value_enum, default_value_t)]
    on_loss: LossArg,
    /// What becomes of messages while this function is slower than they come. A function that drops messages
    /// holds no source back, and does not settle messages: sources do not wait for it.
    #[arg(long, value_enum, default_value_t)]
    when_slow: SlowArg,
    /// Setting that the function can read.
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Runs this export, which maps one number to one number. Messages and results are numbers in
    /// decimal digits.
    #[arg(long, value_name = "NAME", requires = "emit")]
    export: Option<String>,
    /// Tag of the results of `--export`.
    #[arg(long, value_name = "TAG", value_parser = tag, requires = "export")]
    emit: Option<Tag>,
    /// Memory limit of the function, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = number(1..=4096))]
    memory: u64,
    /// Time limit of the function for one message, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 250, value_parser = number(1..=3_600_000))]
    deadline: u64,
    /// Directory where compiled code is kept for the next start. Only this user may have access.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

/// How messages are distributed among functions with the same name.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum PolicyArg {
    /// To the nearest instance.
    #[default]
    Nearest,
    /// To each instance in turn.
    RoundRobin,
    /// To an instance chosen at random.
    Random,
    /// All messages of a source to the same instance.
    Hash,
    /// To every instance.
    All,
}

impl From<PolicyArg> for wire::Policy {
    fn from(policy: PolicyArg) -> Self {
        match policy {
            PolicyArg::Nearest => Self::Nearest,
            PolicyArg::RoundRobin => Self::RoundRobin,
            PolicyArg::Random => Self::Random,
            PolicyArg::Hash => Self::Hash,
            PolicyArg::All => Self::All,
        }
    }
}

/// What becomes of messages that a lost function may have processed.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum LossArg {
    /// Another instance receives them: at least once.
    #[default]
    Redeliver,
    /// They are reported to their source as abandoned: at most once.
    Report,
}

impl From<LossArg> for InstanceLossPolicy {
    fn from(on_loss: LossArg) -> Self {
        match on_loss {
            LossArg::Redeliver => Self::Redeliver,
            LossArg::Report => Self::Report,
        }
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("expected KEY=VALUE, such as window=10")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) fn run(args: RunArgs, output: OutputFormat) -> Result<(), CommandError> {
    let stem = args.file.file_stem();
    let stem = stem.map(|stem| stem.to_string_lossy().into_owned());
    let name = args.name.clone().or(stem);
    let name = name.unwrap_or_else(|| "function".into());
    // The file is loaded before the client connects: the zipper never sees a broken function.
    let (guest, declared) = load(&args, &name)?;
    let tags = if args.observe.is_empty() {
        declared
    } else {
        args.observe.clone()
    };
    if tags.is_empty() {
        return Err(CommandError::usage(
            "the file declares no tags to observe: give --observe",
        ));
    }
    let (target, policy) = (args.target.clone(), args.policy.into());
    let shutdown = Shutdown::listen(args.connection.shutdown)?;
    let client = args
        .connection
        .connect_until(&shutdown, |zippers| ClientOptions {
            target,
            policy,
            level: Some(SettlementLevel::Processed),
            acknowledge: AcknowledgeMode::ByCall,
            on_instance_loss: args.on_loss.into(),
            slow_consumer: args.when_slow.into(),
            ..ClientOptions::function(name.clone(), tags.clone(), zippers)
        })?;
    let Some(client) = client else { return Ok(()) };
    let running = shutdown.finish(&client)?;
    let listed: Vec<String> = tags.iter().map(Tag::to_string).collect();
    tracing::info!(
        name,
        tags = listed.join(","),
        zipper = client.zipper(),
        "the function runs"
    );
    print_start(&name, &listed, args.emit, &client, output)?;
    let mut runner = Runner::new(&client, guest, name.clone());
    let error = runner.run();
    drop(running);
    let counts = runner.counts();
    if counts.failed > 0 {
        tracing::warn!(
            name,
            failed = counts.failed,
            handled = counts.handled,
            "the function failed on messages, which were dropped"
        );
    }
    if !client.is_stopped() {
        report(&client, &name, counts);
        return Err(CommandError::disconnected(error));
    }
    close(&client, &shutdown, &name, counts)
}

/// Logs the counters of a function that has ended.
fn report(client: &Client, name: &str, counts: RunnerCounts) {
    let RunnerCounts {
        received,
        redelivered,
        handled,
        failed,
        written,
        unsent,
    } = counts;
    let outputs = client.outcomes();
    let (total, unsettled) = (outputs.total(), outputs.unsettled());
    let (unobserved, forbidden, too_deep) = (total.unobserved, total.forbidden, total.too_deep);
    let abandoned = total.abandoned() - forbidden - too_deep;
    tracing::info!(
        name,
        received,
        redelivered,
        handled,
        failed,
        written,
        unsent,
        unobserved,
        abandoned,
        forbidden,
        too_deep,
        unsettled,
        "the function ended"
    );
}

/// Prints what runs, and where.
fn print_start(
    name: &str,
    observed: &[String],
    emit: Option<Tag>,
    client: &Client,
    output: OutputFormat,
) -> Result<(), CommandError> {
    let (zipper, node) = (client.zipper(), client.zipper_node());
    match output {
        OutputFormat::Text => {
            let emits = emit.map_or_else(String::new, |tag| format!(", emits {tag}"));
            let observed = observed.join(", ");
            print_line(format_args!(
                "function {name} observes {observed}{emits}, at zipper {zipper} {node}"
            ))
        }
        OutputFormat::Json => print_line(json!({
            "name": name, "observes": observed, "emits": emit.map(|tag| tag.to_string()),
            "zipper": zipper, "node": node.to_string(),
        })),
    }
}

/// Closes the client gracefully, and reports lost messages.
fn close(
    client: &Client,
    shutdown: &Shutdown,
    name: &str,
    counts: RunnerCounts,
) -> Result<(), CommandError> {
    // The result is not used: without a zipper a close cannot succeed, and if nothing is
    // outstanding it need not.
    let _is_closed = drain::close(client, shutdown);
    report(client, name, counts);
    // Those that are settled go to another instance.
    let unhandled = std::iter::from_fn(|| client.try_receive().ok());
    let unhandled = unhandled.filter(|it| !it.is_settled()).count() as u64;
    let mut losses = vec![
        (unhandled, "received messages", "were not handled"),
        (counts.unsent, "results", "were not sent"),
        (
            client.uncertain(),
            "results",
            "were sent and not acknowledged",
        ),
    ];
    let lost = lost_messages(&client.outcomes());
    losses.extend(
        lost.into_iter()
            .map(|(count, reason)| (count, "results", reason)),
    );
    let reasons: Vec<_> = losses
        .into_iter()
        .filter(|&(count, ..)| count > 0)
        .map(|(count, what, reason)| format!("{count} {what} {reason}"))
        .collect();
    if reasons.is_empty() {
        return Ok(());
    }
    let message = format!("messages may be lost: {}", reasons.join("; "));
    Err(CommandError::lost(shutdown.is_forced(), message))
}

fn load(args: &RunArgs, name: &str) -> Result<(RunnerGuest, Vec<Tag>), CommandError> {
    let host = Host::new(HostConfig {
        cache_dir: args.cache.clone(),
        ..HostConfig::default()
    })
    .map_err(CommandError::function)?;
    let config = FunctionConfig {
        name: name.to_owned(),
        limits: GuestLimits {
            memory_bytes: (args.memory as usize) << 20,
            deadline: Duration::from_millis(args.deadline),
            ..GuestLimits::default()
        },
        config: args.settings.iter().cloned().collect::<BTreeMap<_, _>>(),
    };
    let file = args.file.display();
    let refused = |error: &dyn std::error::Error| {
        CommandError::function(format!("{file}: {}", with_causes(error)))
    };
    if let (Some(export), Some(emit)) = (&args.export, args.emit) {
        let function = host
            .load_numeric(&args.file, export, config)
            .map_err(|error| refused(&error))?;
        let function = Box::new(function);
        return Ok((RunnerGuest::Numeric { function, emit }, Vec::new()));
    }
    let function = host
        .load(&args.file, config)
        .map_err(|error| refused(&error))?;
    let declared = function.observed().iter().map(|&tag| Tag::for_user(tag));
    let declared = declared
        .collect::<Result<_, _>>()
        .map_err(|error| refused(&error))?;
    let instance = function.instantiate().map_err(|error| refused(&error))?;
    Ok((RunnerGuest::Function(Box::new(instance)), declared))
}

/// Text of an error and of all its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
