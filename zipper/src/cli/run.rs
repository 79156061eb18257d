//! `zipper run`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use selvedge_client::tag::Tag;
use selvedge_client::wire;
use selvedge_client::{Client, ClientOptions};
use selvedge_wasm_host::{FunctionConfig, GuestLimits, Host, HostConfig};
use selvedge_zipper::runner::{Runner, RunnerCounts, RunnerGuest};

use crate::cli::connection::{Connection, tag};
use crate::cli::end;
use crate::cli::fault::Fault;
use crate::cli::interrupt::{Interrupts, finish_when_interrupted};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// A WebAssembly component of the world in wasm-host/wit/function.wit, or a core module of the
    /// ABI in wasm-host/ABI.md.
    file: PathBuf,
    /// The name of the function. Functions of one name share the messages. Default: that of the file.
    #[arg(short, long)]
    name: Option<String>,
    /// The tags that it observes. Default: those that the file asks for.
    #[arg(long, value_name = "TAG", value_parser = tag, value_delimiter = ',')]
    observe: Vec<Tag>,
    /// Of messages with a target it gets those with this one.
    #[arg(long)]
    target: Option<String>,
    /// How functions of one name share the messages.
    #[arg(long, value_enum, default_value_t)]
    policy: Policy,
    /// A setting for the function to read.
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Runs this export, a function of one number: a message is a number in decimal digits, the
    /// answer too.
    #[arg(long, value_name = "NAME", requires = "emit")]
    export: Option<String>,
    /// The tag of the answers of `--export`.
    #[arg(long, value_name = "TAG", value_parser = tag, requires = "export")]
    emit: Option<Tag>,
    /// How much memory it may use, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    memory: u64,
    /// How long it may take for a message, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 250, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    deadline: u64,
    /// Where compiled code is kept for the next start: a directory of this user only.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Policy {
    /// The nearest one.
    #[default]
    Nearest,
    /// In turn.
    RoundRobin,
    /// By chance.
    Random,
    /// Messages of one source go to the same.
    Hash,
    /// Each gets all.
    All,
}

impl From<Policy> for wire::Policy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Nearest => Self::Nearest,
            Policy::RoundRobin => Self::RoundRobin,
            Policy::Random => Self::Random,
            Policy::Hash => Self::Hash,
            Policy::All => Self::All,
        }
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) fn run(args: Args) -> Result<(), Fault> {
    let stem = args
        .file
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    let name = args
        .name
        .clone()
        .or(stem)
        .unwrap_or_else(|| "function".into());
    // Before connecting: a file that is broken leaves no trace at the zipper.
    let (guest, observed) = load(&args, &name)?;
    let tags = if args.observe.is_empty() {
        observed
    } else {
        args.observe.clone()
    };
    if tags.is_empty() {
        return Err(Fault::usage(
            "the file does not say which tags it observes: give --observe",
        ));
    }
    let (target, policy) = (args.target.clone(), args.policy.into());
    let client = args.connection.connect(|zippers| ClientOptions {
        target,
        policy,
        ..ClientOptions::function(name.clone(), tags.clone(), zippers)
    })?;
    let client = Arc::new(client);
    let (interrupts, reading) = finish_when_interrupted(&client)?;
    let listed: Vec<String> = tags.iter().map(Tag::to_string).collect();
    tracing::info!(
        name,
        tags = listed.join(","),
        zipper = client.zipper(),
        "the function runs"
    );
    let mut runner = Runner::new(&client, guest, name.clone());
    let error = runner.run();
    drop(reading);
    let counts = runner.counts();
    tracing::info!(name, ?counts, "the function ends");
    if counts.failed > 0 {
        let RunnerCounts {
            failed, handled, ..
        } = counts;
        tracing::warn!(
            name,
            failed,
            handled,
            "the guest failed on messages: they were dropped"
        );
    }
    if !client.is_stopped() {
        return Err(Fault::failed(error));
    }
    end(&client, &interrupts, counts.unsent)
}

/// Ends in order, or says what is lost.
fn end(client: &Client, interrupts: &Interrupts, unsent: u64) -> Result<(), Fault> {
    // Not whether it closed in order: with no zipper there and nothing to deliver it cannot, and need not.
    let _in_order = end::close(client, interrupts);
    let read = || client.read_timeout(Duration::ZERO).ok();
    let unhandled = std::iter::from_fn(read).count();
    let uncertain = client.uncertain();
    if uncertain == 0 && unsent == 0 && unhandled == 0 {
        return Ok(());
    }
    let lost = format_args!(
        "{unhandled} messages that had come were not handled, {unsent} that it wrote not sent, and \
         {uncertain} may not have been handled"
    );
    Err(Fault::lost(interrupts.is_given_up(), lost))
}

fn load(args: &Args, name: &str) -> Result<(RunnerGuest, Vec<Tag>), Fault> {
    let host = Host::new(HostConfig {
        cache_dir: args.cache.clone(),
        ..HostConfig::default()
    })
    .map_err(Fault::function)?;
    let config = FunctionConfig {
        name: name.to_owned(),
        limits: GuestLimits {
            memory_bytes: (args.memory as usize) << 20,
            deadline: Duration::from_millis(args.deadline),
            ..GuestLimits::default()
        },
        config: args.settings.iter().cloned().collect::<BTreeMap<_, _>>(),
    };
    let shown = args.file.display();
    let fault =
        |error: &dyn std::error::Error| Fault::function(format!("{shown}: {}", causes(error)));
    if let (Some(export), Some(emit)) = (&args.export, args.emit) {
        let function = host
            .load_numeric(&args.file, export, config)
            .map_err(|error| fault(&error))?;
        let function = Box::new(function);
        return Ok((RunnerGuest::Numeric { function, emit }, Vec::new()));
    }
    let function = host
        .load(&args.file, config)
        .map_err(|error| fault(&error))?;
    let observed = function.observed().iter().map(|&tag| Tag::for_user(tag));
    let observed = observed
        .collect::<Result<_, _>>()
        .map_err(|error| fault(&error))?;
    let instance = function.instantiate().map_err(|error| fault(&error))?;
    Ok((RunnerGuest::Function(Box::new(instance)), observed))
}

/// An error with all that caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
