//! The pieces of the demonstration: two zippers with a link that can be cut, two functions, a source
//! and a sink.

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
use selvedge_zipper::zipper::{self, Neighbour, Zipper};

use crate::cli::fault::Fault;
use crate::demo::relay::Relay;

pub(crate) const READINGS: Tag = Tag(0x10);
pub(crate) const AVERAGES: Tag = Tag(0x11);
pub(crate) const ALERTS: Tag = Tag(0x12);

/// How long the pieces may take to find each other.
const READY_MAX: Duration = Duration::from_secs(10);

/// How long an orderly end of one piece may take.
const CLOSE_MAX: Duration = Duration::from_secs(5);

const MOVING_AVERAGE: &[u8] =
    include_bytes!("../../../examples/guests/prebuilt/moving-average.wasm");
const THRESHOLD_ALERT: &[u8] =
    include_bytes!("../../../examples/guests/prebuilt/threshold-alert.wasm");

/// A function at work on a thread of its own.
#[derive(Debug)]
struct Working {
    client: Arc<Client>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) edge: Zipper,
    pub(crate) region: Zipper,
    pub(crate) link: Relay,
    pub(crate) source: Client,
    pub(crate) results: Receiver<Data>,
    sink: Arc<Client>,
    functions: Vec<Working>,
}

impl Stage {
    /// Sets everything up, and waits until everybody knows of everybody.
    pub(crate) fn set(threshold: f64) -> Result<Self, Fault> {
        let (edge, region, link) = zippers()?;
        let host = Host::new(HostConfig::default()).map_err(Fault::function)?;
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
        let (give, results) = unbounded();
        let reading = Arc::clone(&sink);
        spawn("demo-sink", move || {
            while let Ok(data) = reading.read() {
                if give.send(data).is_err() {
                    return;
                }
            }
        })?;
        let source = Client::connect(ClientOptions::source("source", at))?;
        let stage = Self {
            edge,
            region,
            link,
            source,
            results,
            sink,
            functions,
        };
        stage.wait_until_known()?;
        Ok(stage)
    }

    fn wait_until_known(&self) -> Result<(), Fault> {
        let deadline = Instant::now() + READY_MAX;
        let is_known = || {
            self.edge.observers(READINGS).len() == 1
                && self.region.observers(AVERAGES).len() == 2
                && self.region.observers(ALERTS).len() == 1
        };
        while !is_known() {
            if Instant::now() > deadline {
                return Err(Fault::failed("the two zippers do not find each other"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// What the zippers are connected by, as the region, which dials, sees it.
    pub(crate) fn connection(&self) -> Option<Info> {
        self.region.neighbour(self.edge.node_id())?.transport()
    }

    /// Ends everything in order, from the source on.
    pub(crate) fn end(self) {
        let _what_is_late_is_counted = self.source.close(CLOSE_MAX);
        for Working { client, thread } in self.functions {
            client.stop();
            drop(thread.join());
        }
        self.sink.stop();
        for zipper in [self.region, self.edge] {
            let _nobody_is_left = zipper.close(CLOSE_MAX);
        }
    }
}

/// The edge listens; the region dials it: QUIC over the link that can be cut, then TCP.
fn zippers() -> Result<(Zipper, Zipper, Relay), Fault> {
    let identity = || Identity::generate().map_err(Fault::failed);
    let mut edge = zipper::ZipperOptions::new("edge", identity()?);
    let mut region = zipper::ZipperOptions::new("region", identity()?);
    for options in [&mut edge, &mut region] {
        for text in ["quic://127.0.0.1:0", "tcp://127.0.0.1:0"] {
            options.listen.push(text.parse().map_err(Fault::failed)?);
        }
    }
    edge.mesh.push(Neighbour {
        node: region.identity.node_id(),
        addresses: Vec::new(),
    });
    let edge_node = edge.identity.node_id();
    let edge = Zipper::start(edge)?;
    let [quic, tcp] = edge.addresses() else {
        return Err(Fault::failed("the edge listens on two addresses"));
    };
    let quic: String = quic.to_string();
    let to = quic.trim_start_matches("quic://").parse();
    let link = Relay::start(to.map_err(Fault::failed)?).map_err(|error| {
        Fault::failed(format!("cannot make the link between the zippers: {error}"))
    })?;
    let through: Address = format!("quic://{}", link.address())
        .parse()
        .map_err(Fault::failed)?;
    region.mesh.push(Neighbour {
        node: edge_node,
        addresses: vec![through, tcp.clone()],
    });
    Ok((edge, Zipper::start(region)?, link))
}

fn function(
    host: &Host,
    zipper: &Zipper,
    name: &'static str,
    wasm: &[u8],
    settings: BTreeMap<String, String>,
) -> Result<Working, Fault> {
    let config = FunctionConfig {
        config: settings,
        ..FunctionConfig::named(name)
    };
    let loaded = host.load_bytes(wasm, config).map_err(Fault::function)?;
    let instance = loaded.instantiate().map_err(Fault::function)?;
    let tags = loaded.observed().iter().map(|&tag| Tag(tag)).collect();
    let at = zipper.addresses().to_vec();
    let client = Arc::new(Client::connect(ClientOptions::function(name, tags, at))?);
    let working = Arc::clone(&client);
    let thread = spawn(name, move || {
        let guest = RunnerGuest::Function(Box::new(instance));
        let ended = Runner::new(&working, guest, name).run();
        tracing::debug!(name, %ended, "a function has ended");
    })?;
    Ok(Working { client, thread })
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Fault> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(|error| Fault::failed(format!("cannot start a thread: {error}")))
}
