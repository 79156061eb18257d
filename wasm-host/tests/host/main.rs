//! What the host promises, kept against guests written to break it. One binary, because each would link
//! the whole compiler; one promise a file.

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
