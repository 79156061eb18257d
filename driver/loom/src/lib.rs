//! `driver/src/bells.rs`, as it is, under loom: tries the orders in which threads can run and what each
//! may see of the others' writes. A message that nobody comes for shows as a deadlock.
#![cfg(test)]

#[path = "../../src/bells.rs"]
mod bells;
mod sync;
#[cfg(test)]
mod tests;
