//! The fabric of the demo: two zippers with a link that can be cut, two functions, a source and a
//! sink.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use selvedge_client::tag::Tag;
use selvedge_client::wire::Data;
use selvedge_client::{Client, ClientOptions};
use selvedge_hub::{Address, Identity, Info};
use selvedge_wasm_host::{FunctionConfig, Host, HostConfig};
use selvedge_zipper::runner::{Runner, RunnerGuest};
use selvedge_zipper::zipper::{Neighbour, Zipper, ZipperOptions};

use crate::cli::error::CommandError;
use crate::demo::udp_relay::UdpRelay;

pub(crate) const READINGS: Tag = Tag(0x10);
pub(crate) const AVERAGES: Tag = Tag(0x11);
pub(crate) const ALERTS: Tag = Tag(0x12);

/// Time limit until every zipper knows the functions.
const READY_MAX: Duration = Duration::from_secs(10);

/// Time limit for the graceful close of one part.
const CLOSE_MAX: Duration = Duration::from_secs(5);

const MOVING_AVERAGE: &[u8] =
    include_bytes!("../../../examples/guests/prebuilt/moving-average.wasm");
const THRESHOLD_ALERT: &[u8] =
    include_bytes!("../../../examples/guests/prebuilt/threshold-alert.wasm");

/// A function that runs on a separate thread.
#[derive(Debug)]
struct RunningFunction {
    client: Arc<Client>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
pub(crate) struct DemoFabric {
    pub(crate) edge: Zipper,
    pub(crate) region: Zipper,
    pub(crate) link: UdpRelay,
    pub(crate) source: Client,
    pub(crate) results: Receiver<Data>,
    sink: Arc<Client>,
    functions: Vec<RunningFunction>,
}

impl DemoFabric {
    /// Starts all parts, and waits until both zippers know the functions and the sink.
    pub(crate) fn start(threshold: f64) -> Result<Self, CommandError> {
        let (edge, region, link) = zippers()?;
        let host = Host::new(HostConfig::default()).map_err(CommandError::function)?;
        let settings = |key: &str, value: String| BTreeMap::from([(key.to_owned(), value)]);
        let functions = vec![
            function(
                &host,
                &region,
                "moving-average",
                MOVING_AVERAGE,
                settings("window", "10".into()),
            )?,
            function(
                &host,
                &region,
                "threshold-alert",
                THRESHOLD_ALERT,
                settings("threshold", threshold.to_string()),
            )?,
        ];
        let at = edge.addresses().to_vec();
        let sink = Client::connect(ClientOptions::function(
            "sink",
            vec![AVERAGES, ALERTS],
            at.clone(),
        ))?;
        let sink = Arc::new(sink);
        let (sender, results) = unbounded();
        let reader = Arc::clone(&sink);
        spawn("demo-sink", move || {
            while let Ok(data) = reader.read() {
                if sender.send(data).is_err() {
                    return;
                }
            }
        })?;
        let source = Client::connect(ClientOptions::source("source", at))?;
        let fabric = Self {
            edge,
            region,
            link,
            source,
            results,
            sink,
            functions,
        };
        fabric.wait_until_ready()?;
        Ok(fabric)
    }

    fn wait_until_ready(&self) -> Result<(), CommandError> {
        let deadline = Instant::now() + READY_MAX;
        let is_ready = || {
            self.edge.observers(READINGS).len() == 1
                && self.region.observers(AVERAGES).len() == 2
                && self.region.observers(ALERTS).len() == 1
        };
        while !is_ready() {
            if Instant::now() > deadline {
                return Err(CommandError::internal(format_args!(
                    "the two zippers did not connect within {} s",
                    READY_MAX.as_secs()
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Connection between the zippers, as seen by the region, which dials.
    pub(crate) fn connection(&self) -> Option<Info> {
        self.region.neighbour(self.edge.node_id())?.transport()
    }

    /// Closes all parts gracefully, beginning with the source.
    pub(crate) fn close(self) {
        let _late_results_are_counted = self.source.close(CLOSE_MAX);
        for RunningFunction { client, thread } in self.functions {
            client.stop();
            drop(thread.join());
        }
        self.sink.stop();
        for zipper in [self.region, self.edge] {
            let _no_client_is_left = zipper.close(CLOSE_MAX);
        }
    }
}

/// Starts the zippers. The edge listens; the region dials it over the QUIC link that can be cut,
/// with TCP as the second address.
fn zippers() -> Result<(Zipper, Zipper, UdpRelay), CommandError> {
    let identity = || Identity::generate().map_err(CommandError::internal);
    let mut edge = ZipperOptions::new("edge", identity()?);
    let mut region = ZipperOptions::new("region", identity()?);
    for options in [&mut edge, &mut region] {
        for text in ["quic://127.0.0.1:0", "tcp://127.0.0.1:0"] {
            let address = text.parse().map_err(CommandError::internal)?;
            options.listen.push(address);
        }
    }
    edge.mesh.push(Neighbour {
        node: region.identity.node_id(),
        addresses: Vec::new(),
    });
    let edge_node = edge.identity.node_id();
    let edge = Zipper::start(edge)?;
    let [quic, tcp] = edge.addresses() else {
        return Err(CommandError::internal("the edge listens on two addresses"));
    };
    let quic = quic
        .as_socket()
        .ok_or_else(|| CommandError::internal("the edge listens on an IP address"))?;
    let link = UdpRelay::start(quic).map_err(|error| {
        CommandError::internal(format!("cannot open the link between the zippers: {error}"))
    })?;
    region.mesh.push(Neighbour {
        node: edge_node,
        addresses: vec![Address::socket("quic", link.address()), tcp.clone()],
    });
    Ok((edge, Zipper::start(region)?, link))
}

fn function(
    host: &Host,
    zipper: &Zipper,
    name: &'static str,
    wasm: &[u8],
    settings: BTreeMap<String, String>,
) -> Result<RunningFunction, CommandError> {
    let config = FunctionConfig {
        config: settings,
        ..FunctionConfig::named(name)
    };
    let loaded = host
        .load_bytes(wasm, config)
        .map_err(CommandError::function)?;
    let instance = loaded.instantiate().map_err(CommandError::function)?;
    let tags = loaded.observed().iter().map(|&tag| Tag(tag)).collect();
    let at = zipper.addresses().to_vec();
    let client = Arc::new(Client::connect(ClientOptions::function(name, tags, at))?);
    let reader = Arc::clone(&client);
    let thread = spawn(name, move || {
        let guest = RunnerGuest::Function(Box::new(instance));
        let reason = Runner::new(&reader, guest, name).run();
        tracing::debug!(name, %reason, "a function ended");
    })?;
    Ok(RunningFunction { client, thread })
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, CommandError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(CommandError::thread)
}
