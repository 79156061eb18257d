//! The cost of one zipper between a source and a function.
#![allow(missing_docs, reason = "criterion makes a public function")]

use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use selvedge_benches::{Workload, endpoint, hop::Hop, raw};

/// Messages per iteration of the throughput bench.
const COUNT: u64 = 10_000;

fn timed(c: &mut Criterion, group: &str, per: u64, loads: &mut [(&str, &mut dyn Workload)]) {
    let mut group = c.benchmark_group(group);
    group.throughput(Throughput::Elements(per));
    for (name, load) in loads {
        group.bench_function(*name, |b| {
            b.iter_custom(|count| {
                let began = Instant::now();
                load.run(count * per);
                began.elapsed()
            });
        });
    }
}

fn zipper_hop(c: &mut Criterion) {
    timed(
        c,
        "one hop, 64 B, one at a time",
        1,
        &mut [
            // Back and forth: two wake-ups of a remote end, as a hop has.
            ("raw tcp, there and back", &mut raw::TcpRoundTrip::new(64)),
            ("zipper, quic", &mut Hop::new("quic", 64, 1)),
            ("zipper, tcp", &mut Hop::new("tcp", 64, 1)),
        ],
    );
    timed(
        c,
        "one hop, 1 KiB, as many as go",
        COUNT,
        &mut [
            ("raw tcp, direct", &mut raw::TcpOneWay::new(1024)),
            (
                "endpoint, tcp, direct",
                &mut endpoint::OneWay::new("tcp", 1024),
            ),
            ("zipper, quic", &mut Hop::new("quic", 1024, 0)),
            ("zipper, tcp", &mut Hop::new("tcp", 1024, 0)),
        ],
    );
}

criterion_group!(benches, zipper_hop);
criterion_main!(benches);
