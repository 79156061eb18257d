//! What a session adds to its transport: messages one way, beside the same as frames only.
#![allow(missing_docs, reason = "criterion makes a public function")]

use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use selvedge_benches::{Load, endpoint, frames::FramesOneWay, sessions::SessionsOneWay};

/// Messages an iteration: waking up at its end must not count.
const COUNT: u64 = 10_000;

fn exactly_once(c: &mut Criterion) {
    for scheme in ["tcp+plain", "quic"] {
        for len in [64, 8192] {
            let mut group = c.benchmark_group(format!("exactly once, {scheme}, {len} B"));
            group.throughput(Throughput::Elements(COUNT));
            let mut bench = |name: &str, load: &mut dyn Load| {
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
