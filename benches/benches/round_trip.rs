//! The duration of a 64-byte request and its response.
#![allow(missing_docs, reason = "criterion makes a public function")]

use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use selvedge_benches::{SCHEMES, Workload, endpoint, raw};

fn round_trip(c: &mut Criterion) {
    let mut group = c.benchmark_group("round trip, 64 B");
    let mut bench = |name: &str, load: &mut dyn Workload| {
        group.bench_function(name, |b| {
            b.iter_custom(|count| {
                let began = Instant::now();
                load.run(count);
                began.elapsed()
            });
        });
    };
    bench("raw tcp", &mut raw::TcpRoundTrip::new(64));
    bench("raw udp", &mut raw::UdpRoundTrip::new(64));
    for scheme in SCHEMES {
        bench(scheme, &mut endpoint::RoundTrip::new(scheme, 64));
    }
}

criterion_group!(benches, round_trip);
criterion_main!(benches);
