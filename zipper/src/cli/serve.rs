//! `zipper serve`: runs a zipper.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::{bounded, never, select};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use selvedge_hub::{Address, Identity};
use selvedge_zipper::ZipperStats;
use selvedge_zipper::config::{Auth, Override, ZipperConfig};
use selvedge_zipper::reload::ReloadRequest;
use selvedge_zipper::zipper::{Neighbour, Zipper, ZipperOptions};
use serde_json::json;

use crate::cli::connection::read_identity;
use crate::cli::error::{CommandError, ErrorKind};
use crate::cli::reloader::{ConfigOrigin, Reloader, variable};
use crate::cli::shutdown::{Shutdown, ShutdownArgs, WARN_AFTER, has_terminal};
use crate::cli::{OutputFormat, logging, print_line};
use crate::monitoring::Monitoring;

/// File descriptors that are not for clients: listeners, threads, other zippers, connections that are
/// being replaced, and those that are being refused.
const DESCRIPTORS_RESERVED: usize = 128;

/// Number of connections that a warning names.
const NAMED_MAX: usize = 8;

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Configuration file. Without it, the defaults apply: QUIC and TCP on port 9000 of this
    /// host, for clients of this host.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Replaces one value of the configuration, such as `limits.clients=10`.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = Override::from_option)]
    overrides: Vec<Override>,
    /// Only checks the configuration: reports everything that `serve` would refuse, except a port in
    /// use.
    #[arg(short = 't', long)]
    test: bool,
    #[command(flatten)]
    shutdown: ShutdownArgs,
}

pub(crate) fn serve(
    args: &ServeArgs,
    output: OutputFormat,
    has_log_option: bool,
) -> Result<(), CommandError> {
    let variables = std::env::vars_os();
    let variables = variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut overrides = Override::from_environment(variables);
    overrides.extend(args.overrides.iter().cloned());
    let origin = ConfigOrigin {
        file: args.config.clone(),
        overrides,
    };
    let config = origin.load()?;
    if !has_log_option {
        logging::set_level(config.log);
    }
    let mut options = options(config.clone(), &origin.name())?;
    options.clients_max = clients_within_descriptors(options.clients_max);
    if args.test {
        check_listen(&options.listen, config.metrics)?;
        let file = origin.name();
        return match output {
            OutputFormat::Text => print_line(format_args!("{file} is valid")),
            OutputFormat::Json => print_line(json!({"file": file, "valid": true})),
        };
    }
    // Without a file there is nothing to read again, and SIGHUP of a terminal reports its end.
    let (shutdown, signals) = match origin.file.is_some() && !has_terminal() {
        true => Shutdown::listen_for_reload(args.shutdown)?,
        false => (Shutdown::listen(args.shutdown)?, never()),
    };
    let (name, clients_max) = (options.name.clone(), options.clients_max);
    let zipper = Zipper::start(options)?;
    let monitoring = match config.metrics {
        Some(address) => Some(monitor(address, &zipper, clients_max)?),
        None => None,
    };
    print_start(&name, &zipper, monitoring.as_ref(), output)?;
    let requests = match origin.file.is_some() {
        true => zipper.reload_requests(),
        false => never(),
    };
    let mut reloader = Reloader::new(origin, config, has_log_option)?;
    loop {
        select! {
            recv(shutdown.requested) -> _disconnected => break,
            recv(signals) -> _signal => {
                reload(&mut reloader, &zipper, monitoring.as_ref(), None);
            }
            recv(requests) -> request => {
                reload(&mut reloader, &zipper, monitoring.as_ref(), request.ok());
            }
        }
    }
    if let Some(monitoring) = monitoring {
        monitoring.begin_drain();
    }
    tracing::info!("draining: accepted messages are delivered first; a second signal ends at once");
    drain(zipper, &shutdown)
}

/// Reports where the zipper can be reached.
fn print_start(
    name: &str,
    zipper: &Zipper,
    monitoring: Option<&Monitoring>,
    output: OutputFormat,
) -> Result<(), CommandError> {
    let addresses: Vec<String> = zipper.addresses().iter().map(ToString::to_string).collect();
    let node = zipper.node_id().to_string();
    let metrics = monitoring.map(|it| it.address().to_string());
    match output {
        OutputFormat::Text => {
            let addresses = addresses.join(", ");
            print_line(format_args!("zipper {name} {node} listens on {addresses}"))?;
            metrics.map_or(Ok(()), |metrics| {
                print_line(format_args!("metrics are at http://{metrics}/metrics"))
            })
        }
        OutputFormat::Json => print_line(json!({
            "name": name, "node": node, "addresses": addresses, "metrics": metrics,
        })),
    }
}

/// Reads the configuration again, for an operator or after a signal.
fn reload(
    reloader: &mut Reloader,
    zipper: &Zipper,
    monitoring: Option<&Monitoring>,
    request: Option<ReloadRequest>,
) {
    match (reloader.reload(zipper, monitoring), request) {
        (Ok(changes), Some(request)) => request.answer(&changes),
        (Ok(_), None) => {}
        (Err(error), request) => {
            let error = error.to_string();
            tracing::error!(error, "the configuration is wrong; nothing has changed");
            if let Some(request) = request {
                request.refuse(&error);
            }
        }
    }
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

/// Checks that the system lets this user bind each address. A port in use is no error: a check is often
/// made beside a running zipper.
fn check_listen(listen: &[Address], metrics: Option<SocketAddr>) -> Result<(), CommandError> {
    let problem = |name: String, bound: io::Result<()>| {
        let error = bound.err()?;
        let is_in_use = error.kind() == io::ErrorKind::AddrInUse;
        (!is_in_use).then(|| format!("cannot listen at {name}: {error}"))
    };
    let check = |address: &Address| {
        let socket = address.as_socket()?;
        let bound = match address.scheme() {
            "tcp" | "tcp+plain" => TcpListener::bind(socket).map(drop),
            _ => UdpSocket::bind(socket).map(drop),
        };
        problem(address.to_string(), bound)
    };
    let check_metrics = |socket| {
        problem(
            format!("metrics {socket}"),
            TcpListener::bind(socket).map(drop),
        )
    };
    let problems = listen.iter().filter_map(check);
    let problems: Vec<String> = problems.chain(metrics.and_then(check_metrics)).collect();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(CommandError::new(ErrorKind::Listen, problems.join("; "))),
    }
}

/// Closes the zipper gracefully. Logs which connections delay the end, and reports lost messages.
fn drain(zipper: Zipper, shutdown: &Shutdown) -> Result<(), CommandError> {
    let (watch, before) = (zipper.watch(), zipper.stats());
    let (result, closed) = bounded(1);
    let graceful_max = shutdown.graceful_max;
    // `over` ends it, with a warning. A limit of its own at the same moment would end it without, now and then.
    let close = move || result.send(zipper.close(graceful_max.saturating_mul(2)));
    std::thread::Builder::new()
        .name("zipper-drain".into())
        .spawn(close)
        .map_err(CommandError::thread)?;
    let (mut over, mut warn_after) = (shutdown.over.clone(), WARN_AFTER);
    let is_delivered = loop {
        select! {
            recv(closed) -> is_delivered => break is_delivered.unwrap_or(false),
            recv(over) -> _disconnected => {
                watch.abort();
                over = never();
            }
            default(warn_after) => {
                warn_waiting(&watch.connections(), graceful_max);
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
        no_room = stats.no_room,
        hop_limit = stats.hop_limit,
        malformed = stats.malformed,
        forbidden = stats.forbidden,
        too_deep = stats.too_deep,
        undelivered = stats.undelivered,
        discarded = stats.discarded,
        stalled = stats.stalled,
        "the zipper ended"
    );
}

fn warn_waiting(connections: &[String], graceful_max: Duration) {
    let (count, first) = (connections.len(), connections.iter().take(NAMED_MAX));
    let names = first.map(String::as_str).collect::<Vec<_>>().join(", ");
    tracing::warn!(
        count,
        names,
        "waiting at most {} s for connections that have not acknowledged their messages; a second \
         signal ends this",
        graceful_max.as_secs()
    );
}

/// The number of clients for which there are file descriptors, at most `clients_max`. A further client
/// is refused with the reason; without descriptors it would get no answer at all.
fn clients_within_descriptors(clients_max: usize) -> usize {
    let Some(limit) = raise_descriptor_limit() else {
        return clients_max;
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let left = limit - DESCRIPTORS_RESERVED.min(limit / 2);
    if left < clients_max {
        tracing::warn!(
            clients = left,
            limit,
            "limits.clients is reduced, because the system allows too few file descriptors"
        );
    }
    clients_max.min(left.max(1))
}

/// Raises the soft limit of file descriptors to the hard limit, and returns it. Each client takes a
/// descriptor, and the usual soft limit of 1,024 is below what `limits.clients` needs.
fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        let current = limit.current.unwrap_or(u64::MAX);
        tracing::warn!(%error, limit = current, "cannot raise the limit of file descriptors");
        return limit.current;
    }
    limit.maximum
}

fn options(config: ZipperConfig, origin: &str) -> Result<ZipperOptions, CommandError> {
    let listen = config.addresses().map_err(CommandError::internal)?;
    let identity = match &config.identity {
        Some(path) => read_identity(path)?,
        None => {
            tracing::warn!(
                "without `identity` the zipper has a new key at each start, which other zippers and \
                 clients that were given a key do not know; `zipper keygen FILE` creates one to keep"
            );
            Identity::generate().map_err(CommandError::system)?
        }
    };
    let own = identity.node_id();
    if let Some((name, _)) = config.mesh.iter().find(|(_, it)| it.node == own) {
        let message = format_args!("`mesh.{name}.node`: this is the key of this zipper itself");
        return Err(CommandError::new(ErrorKind::Configuration, message));
    }
    let access = config.auth.access_rules(origin, variable)?;
    let mesh = config.mesh.into_values().map(|neighbour| Neighbour {
        node: neighbour.node,
        addresses: neighbour.addresses,
    });
    Ok(ZipperOptions {
        listen,
        is_open: config.auth == Auth::Open,
        token: match config.auth {
            Auth::None | Auth::Open => None,
            Auth::Token { token } => Some(token.0),
            Auth::Permissions(_) => None,
        },
        access,
        mesh: mesh.collect(),
        clients_max: config.limits.clients,
        workers: config.limits.workers,
        spin: Duration::from_micros(config.limits.spin_us),
        send_buffer: config.limits.send_buffer_bytes,
        message_max: config.limits.message_max_bytes,
        stalled_max: Duration::from_secs(config.limits.stalled_max),
        function_depth: config.limits.function_depth,
        ..ZipperOptions::new(config.name, identity)
    })
}
