//! Our layers beside raw sockets, interleaved: ratios of wall and CPU time, for benches/README.md.
//!
//! `cargo run --release -p selvedge-benches --bin ratios`
#![forbid(unsafe_code)]

use selvedge_benches::frames::FramesOneWay;
use selvedge_benches::many::PingStreams;
use selvedge_benches::measure::compare;
use selvedge_benches::sessions::SessionsOneWay;
use selvedge_benches::through::{Through, Work};
use selvedge_benches::{SCHEMES, Workload, endpoint, hop::Hop, raw, wasm};

fn boxed(name: &str, load: impl Workload + 'static) -> (String, Box<dyn Workload>) {
    (name.to_owned(), Box::new(load))
}

fn main() {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    compare("Round trip, 64 B", || {
        let mut loads = vec![
            boxed("raw tcp", raw::TcpRoundTrip::new(64)),
            boxed("raw udp", raw::UdpRoundTrip::new(64)),
        ];
        loads.extend(SCHEMES.map(|scheme| boxed(scheme, endpoint::RoundTrip::new(scheme, 64))));
        loads
    });
    for (title, len) in [
        ("Messages one way, 64 B", 64),
        ("Messages one way, 1 KiB", 1024),
        ("Bulk, messages of 1 MiB", 1 << 20),
    ] {
        compare(title, || {
            let mut loads = vec![boxed("raw tcp", raw::TcpOneWay::new(len))];
            loads.extend(SCHEMES.map(|scheme| boxed(scheme, endpoint::OneWay::new(scheme, len))));
            loads
        });
    }
    compare(
        "One hop by a zipper, 64 B, one at a time (raw: there and back)",
        || {
            vec![
                boxed("raw tcp", raw::TcpRoundTrip::new(64)),
                boxed("zipper, quic", Hop::new("quic", 64, 1)),
                boxed("zipper, tcp", Hop::new("tcp", 64, 1)),
            ]
        },
    );
    compare(
        "One hop by a zipper, 1 KiB, as many as go (raw: direct)",
        || {
            vec![
                boxed("raw tcp", raw::TcpOneWay::new(1024)),
                boxed("zipper, quic", Hop::new("quic", 1024, 0)),
                boxed("zipper, tcp", Hop::new("tcp", 1024, 0)),
            ]
        },
    );
    compare_own();
}

/// The cost that each layer adds to the one below.
fn compare_own() {
    compare("WebAssembly, core module, 1 KiB in and out", || {
        vec![
            boxed("wasmtime", wasm::BareCore::new(1024)),
            boxed(
                "wasmtime, by a host function",
                wasm::EmittingCore::new(1024),
            ),
            boxed("wasm-host", wasm::HostedGuest::core(1024)),
        ]
    });
    compare("WebAssembly, component, 1 KiB in and out", || {
        vec![
            boxed("wasmtime", wasm::BareComponent::new(1024)),
            boxed(
                "wasmtime, by a host function",
                wasm::EmittingComponent::new(1024),
            ),
            boxed("wasm-host", wasm::HostedGuest::component(1024)),
        ]
    });
    for scheme in ["tcp+plain", "quic"] {
        for len in [64, 8192] {
            compare(&format!("Exactly once, {scheme}, {len} B"), || {
                vec![
                    boxed("frames", FramesOneWay::new(scheme, len)),
                    boxed("session", SessionsOneWay::new(scheme, len)),
                    boxed("endpoint", endpoint::OneWay::new(scheme, len)),
                    boxed("endpoint, slices", endpoint::OneWay::copied(scheme, len)),
                ]
            });
            compare(
                &format!("Exactly once, by turns, {scheme}, {len} B"),
                || {
                    vec![
                        boxed("frames", FramesOneWay::by_turns(scheme, len)),
                        boxed("session", SessionsOneWay::by_turns(scheme, len)),
                    ]
                },
            );
        }
    }
    for len in [64, 1024] {
        compare(
            &format!("A function in a zipper, tcp+plain, {len} B"),
            || {
                vec![
                    boxed("native", Through::new("tcp+plain", len, Work::Native)),
                    boxed("wasm", Through::new("tcp+plain", len, Work::Wasm)),
                ]
            },
        );
    }
    compare_workers();
}

/// The gain of more workers. `--bin many` measures the cost of more endpoints.
fn compare_workers() {
    for (len, in_flight) in [(64, 64), (1024, 64)] {
        compare(&format!("Workers, 8 pairs, tcp+plain, {len} B"), || {
            [1, 2]
                .map(|workers| {
                    let load = PingStreams::new("tcp+plain", workers, 8, in_flight, len);
                    boxed(&format!("workers: {workers}"), load)
                })
                .into()
        });
    }
}
