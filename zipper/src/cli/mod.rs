//! The command line: one module per command, and the parts that commands share.

mod connection;
mod drain;
pub(crate) mod error;
mod keygen;
mod run;
mod serve;
pub(crate) mod shutdown;
mod sink;
mod source;
mod version;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::cli::error::CommandError;
use crate::demo;

/// Routes tagged messages from sources to stream functions, over a mesh of zippers.
///
/// Exit codes: 0 success; 1 failure while running; 2 wrong command line or configuration; 3 cannot
/// connect or listen; 4 refused by the zipper; 5 the WebAssembly function cannot be used; 130 forced
/// shutdown.
///
/// Ctrl-C or SIGTERM requests a graceful shutdown. A second one forces the shutdown.
#[derive(Debug, Parser)]
#[command(name = "zipper", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: CliCommand,
    /// Format of results on stdout.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "ZIPPER_OUTPUT"
    )]
    output: OutputFormat,
    /// Log level on stderr: error, warn, info, debug, trace, or a filter such as
    /// `info,selvedge_hub=debug`. Default: info for serve, otherwise warn.
    #[arg(long, global = true, value_name = "LEVEL", env = "ZIPPER_LOG")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Shows a fabric of two zippers and two functions whose link fails.
    Demo(demo::DemoArgs),
    /// Runs a zipper until it receives Ctrl-C or SIGTERM.
    Serve(serve::ServeArgs),
    /// Runs a WebAssembly file as a stream function.
    Run(run::RunArgs),
    /// Sends messages from stdin or a file.
    Source(source::SourceArgs),
    /// Prints the messages of some tags.
    Sink(sink::SinkArgs),
    /// Creates the key of a node.
    Keygen(keygen::KeygenArgs),
    /// Prints the versions of the program and of its protocol.
    Version,
}

/// Format of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Runs the command.
pub(crate) fn main(cli: Cli) -> ExitCode {
    let default = match cli.command {
        CliCommand::Serve(_) => "info",
        CliCommand::Demo(_) => "error",
        _ => "warn",
    };
    let filter = match EnvFilter::try_new(cli.log.as_deref().unwrap_or(default)) {
        Ok(filter) => filter,
        Err(error) => return CommandError::usage(format!("--log: {error}")).report(),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false)
        .init();
    let result = match cli.command {
        CliCommand::Demo(args) => demo::demo(&args, cli.output),
        CliCommand::Serve(args) => serve::serve(&args, cli.output),
        CliCommand::Run(args) => run::run(args),
        CliCommand::Source(args) => source::source(args, cli.output),
        CliCommand::Sink(args) => sink::sink(args, cli.output),
        CliCommand::Keygen(args) => keygen::keygen(&args, cli.output),
        CliCommand::Version => version::version(cli.output),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

/// Prints a line on stdout.
fn print_line(line: impl std::fmt::Display) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(CommandError::output)
}
