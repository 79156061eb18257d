//! Selvedge benches.
