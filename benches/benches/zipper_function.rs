//! A WebAssembly function in a zipper beside the same work in native code.
#![allow(missing_docs, reason = "criterion makes a public function")]

use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use selvedge_benches::Workload;
use selvedge_benches::through::{Through, Work};

/// Messages per iteration.
const COUNT: u64 = 10_000;

fn zipper_function(c: &mut Criterion) {
    for len in [64, 1024] {
        let mut group = c.benchmark_group(format!("a function in a zipper, {len} B"));
        group.throughput(Throughput::Elements(COUNT));
        for (name, work) in [("native", Work::Native), ("wasm", Work::Wasm)] {
            let mut load = Through::new("tcp+plain", len, work);
            group.bench_function(name, |b| {
                b.iter_custom(|count| {
                    let began = Instant::now();
                    load.run(count * COUNT);
                    began.elapsed()
                });
            });
        }
    }
}

criterion_group!(benches, zipper_function);
criterion_main!(benches);
