//! `zipper serve`

use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::{bounded, never, select};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use selvedge_hub::Identity;
use selvedge_zipper::ZipperStats;
use selvedge_zipper::config::{Auth, Override, Text, ZipperConfig};
use selvedge_zipper::zipper::{Neighbour, Zipper, ZipperOptions};
use serde_json::json;

use crate::cli::connection::{CLOSE_MAX, read_identity};
use crate::cli::fault::Fault;
use crate::cli::interrupt::{Interrupts, SAY_AFTER, interrupted};
use crate::cli::{Format, say};

/// How many of those whom the end waits for are named.
const NAMED_MAX: usize = 8;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The configuration. Without it, that of an empty file: QUIC and TCP on port 9000.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Replaces one value of the configuration, such as `limits.clients=10`.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = Override::from_option)]
    overrides: Vec<Override>,
    /// Only checks the configuration.
    #[arg(short = 't', long)]
    test: bool,
}

pub(crate) fn serve(args: &Args, output: Format) -> Result<(), Fault> {
    let variables = std::env::vars_os();
    let variables = variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut overrides = Override::from_environment(variables);
    overrides.extend(args.overrides.iter().cloned());
    let config = match &args.config {
        Some(path) => ZipperConfig::load(path, &overrides),
        None => ZipperConfig::parse("", "the configuration", &overrides),
    };
    let config = config.map_err(Fault::usage)?;
    let options = options(config)?;
    if args.test {
        let file = args.config.as_deref();
        let file = file.map_or_else(|| "the default".into(), |path| path.display().to_string());
        return match output {
            Format::Text => say(format_args!("{file} is valid")),
            Format::Json => say(json!({"file": file, "valid": true})),
        };
    }
    let interrupted = interrupted()?;
    raise_descriptors();
    let name = options.name.clone();
    let zipper = Zipper::start(options)?;
    let addresses: Vec<String> = zipper.addresses().iter().map(ToString::to_string).collect();
    let node = zipper.node_id().to_string();
    match output {
        Format::Text => say(format_args!(
            "zipper {name} {node} listens on {}",
            addresses.join(", ")
        ))?,
        Format::Json => say(json!({"name": name, "node": node, "addresses": addresses}))?,
    }
    let _disconnected = interrupted.first.recv();
    tracing::info!("ending in order; a second signal ends at once");
    end(zipper, &interrupted)
}

/// Ends in order, says what that waits for, and what is lost.
fn end(zipper: Zipper, interrupts: &Interrupts) -> Result<(), Fault> {
    let (watch, before) = (zipper.watch(), zipper.stats());
    let (tell, ended) = bounded(1);
    let close = move || tell.send(zipper.close(CLOSE_MAX));
    std::thread::Builder::new()
        .name("zipper-end".into())
        .spawn(close)
        .map_err(|error| Fault::failed(format!("cannot start a thread: {error}")))?;
    let (mut second, mut pause) = (interrupts.second.clone(), SAY_AFTER);
    let delivered = loop {
        select! {
            recv(ended) -> delivered => break delivered.unwrap_or(false),
            recv(second) -> _disconnected => {
                watch.abort();
                second = never();
            }
            default(pause) => {
                say_who_holds_it(&watch.connections());
                // Ever more rarely.
                pause *= 2;
            }
        }
    };
    let stats = watch.stats();
    tracing::info!(?stats, delivered, "ended");
    if delivered {
        return Ok(());
    }
    let lost = |stats: &ZipperStats| stats.undelivered + stats.unreachable;
    let message = format_args!(
        "not everything was delivered before the end: {} messages may be lost; sources count those \
         that were not taken from them",
        lost(&stats) - lost(&before)
    );
    Err(Fault::lost(interrupts.is_given_up(), message))
}

fn say_who_holds_it(connections: &[String]) {
    let (count, first) = (connections.len(), connections.iter().take(NAMED_MAX));
    let named = first.map(String::as_str).collect::<Vec<_>>().join(", ");
    tracing::warn!(
        count,
        named,
        "waiting at most {} s for those who have not taken what is for them; a second signal ends this",
        CLOSE_MAX.as_secs()
    );
}

/// Asks for as many descriptors as this process may have. Each client takes one, and where nobody has
/// set another limit the default is 1,024, less than `limits.clients` needs.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = limit.current, "the limit of descriptors stays");
    }
}

fn options(config: ZipperConfig) -> Result<ZipperOptions, Fault> {
    let listen = config.addresses().map_err(Fault::usage)?;
    let identity = match &config.identity {
        Some(path) => read_identity(path)?,
        None => {
            if !config.mesh.is_empty() {
                tracing::warn!(
                    "without `identity` the key is new each time: other zippers cannot know it"
                );
            }
            Identity::generate().map_err(Fault::failed)?
        }
    };
    let own = identity.node_id();
    if let Some((name, _)) = config.mesh.iter().find(|(_, it)| it.node.0 == own) {
        let why = format_args!("`mesh`: `{name}` has the key of this zipper itself");
        return Err(Fault::usage(why));
    }
    let mesh = config.mesh.into_values().map(|neighbour| Neighbour {
        node: neighbour.node.0,
        addresses: neighbour
            .addresses
            .into_iter()
            .map(|Text(address)| address)
            .collect(),
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
