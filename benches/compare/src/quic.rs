//! quinn on tokio's threads, with its defaults: one stream.

use std::sync::Arc;
use std::time::Instant;

use quinn::{ClientConfig, Connection, Endpoint, ServerConfig};
use tokio::runtime::{Builder, Runtime};

use crate::certificate;
use crate::job::Job;
use crate::meter::Losses;
use crate::raw::WRITE_LEN;

const ANY_PORT: &str = "127.0.0.1:0";

/// One thread per core.
fn runtime() -> Runtime {
    let mut runtime = Builder::new_multi_thread();
    runtime.enable_all().build().expect("threads")
}

/// Runs as a task of the runtime, on one of its threads.
pub(crate) fn block_on(work: impl Future<Output = ()> + Send + 'static) {
    let runtime = runtime();
    let worked = runtime.block_on(runtime.spawn(work));
    worked.expect("the work does not panic");
}

async fn accept(job: &'static Job) -> (Endpoint, Connection) {
    let (certificates, key) = certificate::server(&job.order.folder);
    let config =
        ServerConfig::with_single_cert(certificates, key).expect("a certificate and its key");
    let at = ANY_PORT.parse().expect("an address");
    let endpoint = Endpoint::server(config, at).expect("a port");
    job.ready(&endpoint.local_addr().expect("it is bound").to_string());
    let incoming = endpoint.accept().await.expect("it is open");
    let connection = incoming.await.expect("the peer wants it");
    (endpoint, connection)
}

async fn connect(job: &'static Job) -> (Endpoint, Connection) {
    let mut endpoint = Endpoint::client(ANY_PORT.parse().expect("an address")).expect("a port");
    let roots = Arc::new(certificate::roots(&job.order.folder));
    let config = ClientConfig::with_root_certificates(roots).expect("it is not empty");
    endpoint.set_default_client_config(config);
    let at = job.address().parse().expect("the other side reported it");
    let connecting = endpoint.connect(at, "localhost").expect("an address");
    let connection = connecting.await.expect("it listens");
    let watched = connection.clone();
    job.meter.watch(move || {
        let path = watched.stats().path;
        Losses {
            packets_lost: path.lost_packets,
            // quinn does not expose them.
            send_errors: 0,
            mtu: path.current_mtu,
        }
    });
    (endpoint, connection)
}

/// Echoes each message.
pub(crate) fn echo(job: &'static Job) {
    block_on(async move {
        let (_endpoint, connection) = accept(job).await;
        let (mut send, mut recv) = connection.accept_bi().await.expect("the peer opens it");
        let mut buffer = vec![0; job.size()];
        while recv.read_exact(&mut buffer).await.is_ok() {
            send.write_all(&buffer).await.expect("the peer reads");
        }
    });
}

async fn ask_all(job: &'static Job) {
    let (_endpoint, connection) = connect(job).await;
    let (mut send, mut recv) = connection.open_bi().await.expect("one is allowed");
    let (payload, mut buffer) = (job.payload(), vec![0; job.size()]);
    job.ready("");
    loop {
        let asked = Instant::now();
        send.write_all(&payload).await.expect("the peer reads");
        if recv.read_exact(&mut buffer).await.is_err() {
            return;
        }
        job.meter.trip(asked.elapsed());
    }
}

/// Sends requests, one at a time.
pub(crate) fn ask(job: &'static Job) {
    block_on(ask_all(job));
}

/// Sends requests from the main thread, which is outside the runtime, as with `#[tokio::main]`: the runtime
/// wakes it for each response.
pub(crate) fn ask_outside(job: &'static Job) {
    runtime().block_on(ask_all(job));
}

/// Reads bytes in place.
pub(crate) fn drain(job: &'static Job) {
    block_on(async move {
        let (_endpoint, connection) = accept(job).await;
        let mut recv = connection.accept_uni().await.expect("the peer opens it");
        while let Ok(Some(chunk)) = recv.read_chunk(usize::MAX, true).await {
            job.meter.add(0, chunk.bytes.len());
        }
    });
}

/// Writes bytes in pieces of one size.
pub(crate) fn pour(job: &'static Job) {
    block_on(async move {
        let (_endpoint, connection) = connect(job).await;
        let mut send = connection.open_uni().await.expect("one is allowed");
        let block = vec![7; WRITE_LEN];
        job.ready("");
        while send.write_all(&block).await.is_ok() {}
    });
}
