//! Selvedge wasm-host.
