//! Checks `driver/src/wake/queue.rs`, unchanged, with loom: tries the orders in which threads can run and
//! the values that each may see of the others' writes. A lost wake-up shows as a deadlock.
#![cfg(test)]

#[path = "../../src/wake/queue.rs"]
mod queue;
mod sync;
#[cfg(test)]
mod tests;
