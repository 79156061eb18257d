//! The cost of idle quinn connections: memory per connection, and wake-ups of the process. Counted as in
//! `idle` of `selvedge-benches`.
//!
//! `cargo run --release --bin idle [ends]`
//!
//! Each connection has carried one message in each direction on one stream, and both ends, on one tokio
//! thread, send keep-alives as often as our sessions. Each side has one socket, as usual with quinn; ours has
//! one per connection.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "printing is what this program does")]

#[path = "../at_rest.rs"]
mod at_rest;

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use quinn::{
    ClientConfig, Connection, Endpoint, RecvStream, SendStream, ServerConfig, TransportConfig,
};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The heartbeat of our sessions.
const ALIVE: Duration = Duration::from_secs(1);

const ANY_PORT: &str = "127.0.0.1:0";

/// One end of a connection with its stream.
type End = (Connection, SendStream, RecvStream);

/// CPU time of this process.
fn cpu() -> Duration {
    let spent = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("Linux has the clock");
    spent.into()
}

fn endpoints() -> [Endpoint; 2] {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("randomness");
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(ALIVE));
    let transport = Arc::new(transport);

    let mut roots = RootCertStore::empty();
    let shown = made.cert.der().clone();
    roots.add(shown.clone()).expect("it is a certificate");
    let client = ClientConfig::with_root_certificates(Arc::new(roots));
    let mut client = client.expect("it is not empty");
    client.transport_config(Arc::clone(&transport));

    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("it is PKCS #8");
    let server = ServerConfig::with_single_cert(vec![shown], key);
    let mut server = server.expect("a certificate and its key");
    server.transport_config(transport);

    let at = ANY_PORT.parse().expect("an address");
    let mut near = Endpoint::client(at).expect("a port");
    near.set_default_client_config(client);
    [near, Endpoint::server(server, at).expect("a port")]
}

async fn connect(near: &Endpoint, far: &Endpoint) -> [End; 2] {
    let at = far.local_addr().expect("it is bound");
    let dialed = near.connect(at, "localhost").expect("an address");
    let accepting = tokio::spawn({
        let far = far.clone();
        async move {
            let incoming = far.accept().await.expect("it is open");
            let connection = incoming.await.expect("the peer wants it");
            let (mut send, mut recv) = connection.accept_bi().await.expect("it opens one");
            let mut message = [0];
            recv.read_exact(&mut message).await.expect("it is sent");
            send.write_all(&message).await.expect("the peer reads");
            (connection, send, recv)
        }
    });
    let connection = dialed.await.expect("it listens");
    let (mut send, mut recv) = connection.open_bi().await.expect("one is allowed");
    send.write_all(&[7]).await.expect("the peer reads");
    recv.read_exact(&mut [0]).await.expect("it answers");
    let accepted = accepting.await.expect("it does not panic");
    [(connection, send, recv), accepted]
}

fn main() {
    let wanted = std::env::args()
        .nth(1)
        .map(|it| it.parse().expect("a number"));
    let ends: usize = wanted.unwrap_or(10_000);
    let region = Region::new(ALLOCATOR);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build();
    let runtime = runtime.expect("threads");
    let opened = runtime.spawn(async move {
        let [near, far] = endpoints();
        let mut all = Vec::new();
        for _ in 0..ends / 2 {
            all.push(connect(&near, &far).await);
        }
        (near, far, all)
    });
    let opened = runtime.block_on(opened).expect("it does not panic");
    at_rest::begin(&format!("{ends} ends of connections on one thread"));
    at_rest::watch(&format!("quinn, {ends}"), ends, &region, cpu);
    drop(opened);
}
