//! The commands, and what they have in common.

mod connection;
mod end;
pub(crate) mod fault;
pub(crate) mod interrupt;
mod keygen;
mod run;
mod serve;
mod sink;
mod source;
mod version;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::cli::fault::Fault;
use crate::demo;

/// Routes tagged data from sources to stream functions, over a mesh of zippers.
///
/// Exit codes: 0 done; 1 failed on the way; 2 wrong usage or configuration; 3 cannot connect or
/// listen; 4 not let in; 5 the WebAssembly function cannot be used; 130 given up at a second Ctrl-C
/// or SIGTERM, where the first ends in order.
#[derive(Debug, Parser)]
#[command(name = "zipper", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// What is printed on stdout.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "ZIPPER_OUTPUT"
    )]
    output: Format,
    /// What is logged on stderr: error, warn, info, debug, trace, or a filter such as
    /// `info,selvedge_hub=debug`. Default: info for serve, else warn.
    #[arg(long, global = true, value_name = "LEVEL", env = "ZIPPER_LOG")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what it can do: two zippers, two functions, and a link that breaks.
    Demo(demo::Args),
    /// Runs a zipper until it is interrupted.
    Serve(serve::Args),
    /// Runs a WebAssembly file as a stream function.
    Run(run::Args),
    /// Writes what comes on stdin, or from a file.
    Source(source::Args),
    /// Prints the messages of some tags.
    Sink(sink::Args),
    /// Makes the key of a node.
    Keygen(keygen::Args),
    /// Prints the versions of the program and of what it speaks.
    Version,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Runs what was asked for.
pub(crate) fn main(args: Args) -> ExitCode {
    let default = match args.command {
        Command::Serve(_) => "info",
        Command::Demo(_) => "error",
        _ => "warn",
    };
    let filter = match EnvFilter::try_new(args.log.as_deref().unwrap_or(default)) {
        Ok(filter) => filter,
        Err(error) => return Fault::usage(format!("--log: {error}")).report(),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false)
        .init();
    let done = match args.command {
        Command::Demo(demo) => demo::demo(&demo, args.output),
        Command::Serve(serve) => serve::serve(&serve, args.output),
        Command::Run(run) => run::run(run),
        Command::Source(source) => source::source(source, args.output),
        Command::Sink(sink) => sink::sink(sink, args.output),
        Command::Keygen(keygen) => keygen::keygen(&keygen, args.output),
        Command::Version => version::version(args.output),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => fault.report(),
    }
}

/// Prints a line on stdout.
fn say(line: impl std::fmt::Display) -> Result<(), Fault> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(Fault::output)
}
