//! Metrics and health of a zipper over HTTP, for Prometheus, Kubernetes and other supervisors.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | 200 with the metrics that `zipper/METRICS.md` lists, in the Prometheus text format 0.0.4 |
//! | `/healthz` | 200 if the zipper makes progress or drains, otherwise 503: restart it |
//! | `/readyz` | 200 if the zipper admits clients, otherwise 503: send clients to another one |

mod exposition;
mod http;
mod process;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use selvedge_zipper::zipper::ZipperWatch;

use crate::monitoring::exposition::Exposition;
use crate::monitoring::http::Page;
use crate::monitoring::process::ProcessUsage;

/// The pages of a zipper, until the process ends.
#[derive(Debug)]
pub(crate) struct Monitoring {
    address: SocketAddr,
    is_draining: Arc<AtomicBool>,
    clients_max: Arc<AtomicUsize>,
}

impl Monitoring {
    /// Serves the pages of a zipper at an address.
    pub(crate) fn start(
        address: SocketAddr,
        zipper: ZipperWatch,
        clients_max: usize,
    ) -> io::Result<Self> {
        let is_draining = Arc::new(AtomicBool::new(false));
        let clients_max = Arc::new(AtomicUsize::new(clients_max));
        let pages = Pages {
            zipper,
            clients_max: Arc::clone(&clients_max),
            process: ProcessUsage::begin(),
            is_draining: Arc::clone(&is_draining),
        };
        let address = http::listen(address, Arc::new(move |path: &str| pages.make(path)))?;
        Ok(Self {
            address,
            is_draining,
            clients_max,
        })
    }

    /// The address, with the port that was bound.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The limit of clients has changed.
    pub(crate) fn set_clients_max(&self, max: usize) {
        self.clients_max.store(max, Ordering::Relaxed);
    }

    /// The zipper admits no more clients: it is not ready any more.
    pub(crate) fn begin_drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }
}

struct Pages {
    zipper: ZipperWatch,
    clients_max: Arc<AtomicUsize>,
    process: ProcessUsage,
    is_draining: Arc<AtomicBool>,
}

impl Pages {
    fn make(&self, path: &str) -> Page {
        let is_draining = self.is_draining.load(Ordering::Relaxed);
        match path {
            "/metrics" => self.metrics(is_draining),
            // A zipper that drains has stopped its checks.
            "/healthz" if is_draining => Page::text(200, "draining\n"),
            "/healthz" if self.zipper.is_live() => Page::text(200, "ok\n"),
            "/healthz" => Page::text(503, "stuck: no check of timeouts for 10 s\n"),
            "/readyz" if is_draining => Page::text(503, "draining\n"),
            "/readyz" if self.zipper.is_live() => Page::text(200, "ready\n"),
            "/readyz" => Page::text(503, "stuck: no check of timeouts for 10 s\n"),
            _ => Page::text(404, "the pages are /metrics, /healthz and /readyz\n"),
        }
    }

    fn metrics(&self, is_draining: bool) -> Page {
        let exposition = Exposition {
            name: self.zipper.name().to_owned(),
            node: self.zipper.node_id(),
            clients_max: self.clients_max.load(Ordering::Relaxed),
            is_ready: !is_draining && self.zipper.is_live(),
            stats: self.zipper.stats(),
            peers: self.zipper.peers(),
            held_flows: self.zipper.held_flows(),
            process: self.process.sample(),
        };
        match exposition.encode() {
            Ok(body) => Page {
                status: 200,
                content_type: exposition::CONTENT_TYPE,
                body,
            },
            Err(error) => Page::text(500, format!("{error}\n")),
        }
    }
}
