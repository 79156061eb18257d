//! The guarantees of the host, tested with hostile guests. One binary, because each would link the whole
//! compiler; one guarantee per file.

mod bad_files;
mod cache;
mod components;
mod core_abi;
mod isolation;
mod limits;
mod logs;
mod numeric;
mod recycling;
mod support;
