//! The cost of a session above its transport: messages in one direction, beside frames alone.
#![allow(missing_docs, reason = "criterion makes a public function")]

use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use selvedge_benches::{Workload, endpoint, frames::FramesOneWay, sessions::SessionsOneWay};

/// Messages per iteration, so many that the final wake-up does not matter.
const COUNT: u64 = 10_000;

fn exactly_once(c: &mut Criterion) {
    for scheme in ["tcp+plain", "quic"] {
        for len in [64, 8192] {
            let mut group = c.benchmark_group(format!("exactly once, {scheme}, {len} B"));
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
            bench("frames", &mut FramesOneWay::new(scheme, len));
            bench("session", &mut SessionsOneWay::new(scheme, len));
            bench("endpoint", &mut endpoint::OneWay::new(scheme, len));
            bench(
                "endpoint, slices",
                &mut endpoint::OneWay::copied(scheme, len),
            );
        }
    }
}

criterion_group!(benches, exactly_once);
criterion_main!(benches);
