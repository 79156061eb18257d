//! `zipper serve`: runs a zipper.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::{bounded, never, select};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use selvedge_hub::Identity;
use selvedge_zipper::ZipperStats;
use selvedge_zipper::config::{Auth, Override, ZipperConfig};
use selvedge_zipper::zipper::{Neighbour, Zipper, ZipperOptions};
use serde_json::json;

use crate::cli::connection::{CLOSE_MAX, read_identity};
use crate::cli::error::{CommandError, ErrorKind};
use crate::cli::shutdown::{Shutdown, WARN_AFTER};
use crate::cli::{OutputFormat, print_line};
use crate::monitoring::Monitoring;

/// Number of connections that a warning names.
const NAMED_MAX: usize = 8;

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Configuration file. Without it, the defaults apply: QUIC and TCP on port 9000.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Replaces one value of the configuration, such as `limits.clients=10`.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = Override::from_option)]
    overrides: Vec<Override>,
    /// Only checks the configuration.
    #[arg(short = 't', long)]
    test: bool,
}

pub(crate) fn serve(args: &ServeArgs, output: OutputFormat) -> Result<(), CommandError> {
    let variables = std::env::vars_os();
    let variables = variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut overrides = Override::from_environment(variables);
    overrides.extend(args.overrides.iter().cloned());
    let config = match &args.config {
        Some(path) => ZipperConfig::load(path, &overrides),
        None => ZipperConfig::parse("", "the configuration", &overrides),
    };
    let config = config?;
    let metrics = config.metrics;
    let options = options(config)?;
    if args.test {
        let file = args.config.as_deref();
        let file = file.map_or_else(|| "the default".into(), |path| path.display().to_string());
        return match output {
            OutputFormat::Text => print_line(format_args!("{file} is valid")),
            OutputFormat::Json => print_line(json!({"file": file, "valid": true})),
        };
    }
    let shutdown = Shutdown::listen()?;
    raise_descriptor_limit();
    let (name, clients_max) = (options.name.clone(), options.clients_max);
    let zipper = Zipper::start(options)?;
    let monitoring = match metrics {
        Some(address) => Some(monitor(address, &zipper, clients_max)?),
        None => None,
    };
    let addresses: Vec<String> = zipper.addresses().iter().map(ToString::to_string).collect();
    let node = zipper.node_id().to_string();
    let metrics = monitoring.as_ref().map(Monitoring::address);
    match output {
        OutputFormat::Text => {
            let addresses = addresses.join(", ");
            print_line(format_args!("zipper {name} {node} listens on {addresses}"))?;
            if let Some(metrics) = metrics {
                print_line(format_args!("metrics are at http://{metrics}/metrics"))?;
            }
        }
        OutputFormat::Json => {
            let metrics = metrics.map(|it| it.to_string());
            print_line(json!({
                "name": name, "node": node, "addresses": addresses, "metrics": metrics,
            }))?;
        }
    }
    let _disconnected = shutdown.requested.recv();
    if let Some(monitoring) = monitoring {
        monitoring.begin_drain();
    }
    tracing::info!("draining: accepted messages are delivered first; a second signal ends at once");
    drain(zipper, &shutdown)
}

/// Serves metrics and health.
fn monitor(
    address: SocketAddr,
    zipper: &Zipper,
    clients_max: usize,
) -> Result<Monitoring, CommandError> {
    Monitoring::start(address, zipper.watch(), clients_max).map_err(|error| {
        let message = format!("cannot serve metrics on {address}: {error}");
        CommandError::new(ErrorKind::Listen, message)
    })
}

/// Closes the zipper gracefully. Logs which connections delay the end, and reports lost messages.
fn drain(zipper: Zipper, shutdown: &Shutdown) -> Result<(), CommandError> {
    let (watch, before) = (zipper.watch(), zipper.stats());
    let (result, closed) = bounded(1);
    let close = move || result.send(zipper.close(CLOSE_MAX));
    std::thread::Builder::new()
        .name("zipper-drain".into())
        .spawn(close)
        .map_err(CommandError::thread)?;
    let (mut forced, mut warn_after) = (shutdown.forced.clone(), WARN_AFTER);
    let is_delivered = loop {
        select! {
            recv(closed) -> is_delivered => break is_delivered.unwrap_or(false),
            recv(forced) -> _disconnected => {
                watch.abort();
                forced = never();
            }
            default(warn_after) => {
                warn_waiting(&watch.connections());
                warn_after *= 2;
            }
        }
    };
    let stats = watch.stats();
    log_end(&stats, is_delivered);
    if is_delivered {
        return Ok(());
    }
    let lost = |stats: &ZipperStats| stats.undelivered + stats.unreachable;
    let message = format_args!(
        "not everything was delivered before the end: {} messages may be lost; messages that were \
         not accepted are counted by their sources",
        lost(&stats) - lost(&before)
    );
    Err(CommandError::lost(shutdown.is_forced(), message))
}

fn log_end(stats: &ZipperStats, is_delivered: bool) {
    tracing::info!(
        is_delivered,
        received = stats.received,
        relayed = stats.relayed,
        delivered = stats.delivered,
        forwarded = stats.forwarded,
        unobserved = stats.unobserved,
        unreachable = stats.unreachable,
        hop_limit = stats.hop_limit,
        malformed = stats.malformed,
        undelivered = stats.undelivered,
        "the zipper ended"
    );
}

fn warn_waiting(connections: &[String]) {
    let (count, first) = (connections.len(), connections.iter().take(NAMED_MAX));
    let names = first.map(String::as_str).collect::<Vec<_>>().join(", ");
    tracing::warn!(
        count,
        names,
        "waiting at most {} s for connections that have not acknowledged their messages; a second \
         signal ends this",
        CLOSE_MAX.as_secs()
    );
}

/// Raises the soft limit of file descriptors to the hard limit. Each client takes a descriptor, and
/// the usual soft limit of 1,024 is below what `limits.clients` needs.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        let limit = limit.current.unwrap_or(u64::MAX);
        tracing::warn!(%error, limit, "cannot raise the limit of file descriptors");
    }
}

fn options(config: ZipperConfig) -> Result<ZipperOptions, CommandError> {
    let listen = config.addresses().map_err(CommandError::internal)?;
    let identity = match &config.identity {
        Some(path) => read_identity(path)?,
        None => {
            if !config.mesh.is_empty() {
                tracing::warn!(
                    "without `identity` the zipper has a new key at each start, which other \
                     zippers do not know"
                );
            }
            Identity::generate().map_err(CommandError::system)?
        }
    };
    let own = identity.node_id();
    if let Some((name, _)) = config.mesh.iter().find(|(_, it)| it.node == own) {
        let message = format_args!("`mesh.{name}.node`: this is the key of this zipper itself");
        return Err(CommandError::new(ErrorKind::Configuration, message));
    }
    let mesh = config.mesh.into_values().map(|neighbour| Neighbour {
        node: neighbour.node,
        addresses: neighbour.addresses,
    });
    Ok(ZipperOptions {
        listen,
        token: match config.auth {
            Auth::None => None,
            Auth::Token { token } => Some(token.0),
        },
        mesh: mesh.collect(),
        clients_max: config.limits.clients,
        workers: config.limits.workers,
        spin: Duration::from_micros(config.limits.spin_us),
        send_buffer: config.limits.send_buffer_bytes,
        message_max: config.limits.message_max_bytes,
        ..ZipperOptions::new(config.name, identity)
    })
}
