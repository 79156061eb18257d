//! The command `zipper`: routes messages, and runs sources, functions and sinks.

#![forbid(unsafe_code)]

mod cli;
mod demo;
mod monitoring;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
