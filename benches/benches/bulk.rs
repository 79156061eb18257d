//! Bytes per second in one direction, in messages of 1 MiB.
#![allow(missing_docs, reason = "criterion makes a public function")]

use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use selvedge_benches::{SCHEMES, Workload, endpoint, raw};

const LEN: usize = 1 << 20;

/// Messages per iteration.
const COUNT: u64 = 64;

fn bulk(c: &mut Criterion) {
    let mut group = c.benchmark_group("bulk, 1 MiB");
    group.throughput(Throughput::Bytes(COUNT * LEN as u64));
    group.sample_size(20);
    let mut bench = |name: &str, load: &mut dyn Workload| {
        group.bench_function(name, |b| {
            b.iter_custom(|count| {
                let began = Instant::now();
                load.run(count * COUNT);
                began.elapsed()
            });
        });
        if let Some(losses) = load.losses() {
            eprintln!("bulk, 1 MiB/{name}: {losses}");
        }
    };
    bench("raw tcp", &mut raw::TcpOneWay::new(LEN));
    for scheme in SCHEMES {
        bench(scheme, &mut endpoint::OneWay::new(scheme, LEN));
    }
}

criterion_group!(benches, bulk);
criterion_main!(benches);
