//! Messages per second in one direction.
#![allow(missing_docs, reason = "criterion makes a public function")]

use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use selvedge_benches::{SCHEMES, Workload, endpoint, raw};

/// Messages per iteration, so many that the final wake-up does not matter.
const COUNT: u64 = 10_000;

fn messages(c: &mut Criterion) {
    for len in [64, 1024] {
        let mut group = c.benchmark_group(format!("messages, {len} B"));
        group.throughput(Throughput::Elements(COUNT));
        let mut bench = |name: &str, load: &mut dyn Workload| {
            group.bench_function(name, |b| {
                b.iter_custom(|count| {
                    let began = Instant::now();
                    load.run(count * COUNT);
                    began.elapsed()
                });
            });
        };
        bench("raw tcp", &mut raw::TcpOneWay::new(len));
        for scheme in SCHEMES {
            bench(scheme, &mut endpoint::OneWay::new(scheme, len));
        }
    }
}

criterion_group!(benches, messages);
criterion_main!(benches);
