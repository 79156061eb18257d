//! The duration of a WebAssembly call with 1 KiB in and out, beside bare wasmtime.
#![allow(missing_docs, reason = "criterion makes a public function")]

use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use selvedge_benches::{Workload, wasm};

const LEN: usize = 1024;

fn wasm_call(c: &mut Criterion) {
    let mut group = c.benchmark_group("wasm call, 1 KiB");
    let mut bench = |name: &str, load: &mut dyn Workload| {
        group.bench_function(name, |b| {
            b.iter_custom(|count| {
                let began = Instant::now();
                load.run(count);
                began.elapsed()
            });
        });
    };
    bench("core, wasmtime", &mut wasm::BareCore::new(LEN));
    bench("core, wasm-host", &mut wasm::HostedGuest::core(LEN));
    bench("component, wasmtime", &mut wasm::BareComponent::new(LEN));
    bench(
        "component, wasm-host",
        &mut wasm::HostedGuest::component(LEN),
    );
}

criterion_group!(benches, wasm_call);
criterion_main!(benches);
