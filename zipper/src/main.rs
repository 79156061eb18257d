//! The command `zipper`: routes data, and runs what writes, handles and reads it.

#![forbid(unsafe_code)]

mod cli;
mod demo;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::main(cli::Args::parse())
}
