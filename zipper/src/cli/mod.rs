//! The command line: one module per command, and the parts that commands share.

mod connection;
mod drain;
pub(crate) mod error;
mod inspect;
mod keygen;
mod logging;
pub(crate) mod number;
mod reloader;
mod run;
mod serve;
pub(crate) mod shutdown;
mod sink;
mod source;
mod source_outcome;
mod suspension;
mod version;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::cli::error::CommandError;
use crate::cli::logging::LogFormat;
use crate::demo;

const JSON_HELP: &str = "\
With `--output json` an error is one line on stderr:
  {\"error\": {\"kind\": \"connect\", \"exit\": 3, \"side\": \"zipper\", \"retry\": true, \"message\": \"...\"}}
`kind` is configuration, connect, disconnected, forced, function, input, internal, listen, output,
rejected, system, undelivered or usage. `side` has to act: caller, zipper, system or program (a bug).
`retry` states whether the same command can succeed later. Errors of a configuration also have
`details`, a list of {\"origin\", \"line\", \"column\", \"message\"}.";

/// Routes tagged messages from sources to stream functions, over a mesh of zippers.
///
/// Exit codes: 0 success; 1 failure while running; 2 wrong command line or configuration; 3 cannot
/// connect or listen; 4 refused by the zipper; 5 the WebAssembly function cannot be used; 130 forced
/// shutdown.
///
/// Ctrl-C or SIGTERM requests a graceful shutdown. A second one forces the shutdown.
#[derive(Debug, Parser)]
#[command(name = "zipper", version, max_term_width = 100, after_long_help = JSON_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: CliCommand,
    /// Format of results on stdout and of errors on stderr.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "ZIPPER_OUTPUT"
    )]
    output: OutputFormat,
    /// Log level on stderr: off, error, warn, info, debug, trace, or a filter such as
    /// `info,selvedge_hub=debug`. Default: info for serve and run, error for demo, otherwise
    /// warn.
    #[arg(long, global = true, value_name = "LEVEL", env = "ZIPPER_LOG", value_parser = logging::filter)]
    log: Option<Targets>,
    /// Format of logs on stderr. Default: that of `--output`.
    #[arg(long, global = true, value_enum, env = "ZIPPER_LOG_FORMAT")]
    log_format: Option<LogFormat>,
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
    ///
    /// Of messages that are settled, those of the level `received` count as settled when they are read, and
    /// those of the level `processed` when they are printed: if this process is killed, no line that its
    /// source reports as settled is missing in the output. A shutdown prints what was received.
    Sink(sink::SinkArgs),
    /// Prints the state of a zipper. Needs the permission `admin`.
    Status(inspect::StatusArgs),
    /// Lists the clients, functions, tags, routes, neighbours or the backlog of a zipper. Needs the
    /// permission `admin`.
    Ls(inspect::LsArgs),
    /// Has a zipper read its configuration again. Prints which changes are in use, and which need a
    /// restart. Needs the permission `admin`.
    Reload(inspect::StatusArgs),
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
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && requested_output() == OutputFormat::Json => {
            return usage_error(&error).report(OutputFormat::Json);
        }
        Err(error) => error.exit(),
    };
    let default = match cli.command {
        CliCommand::Serve(_) | CliCommand::Run(_) => LevelFilter::INFO,
        CliCommand::Demo(_) => LevelFilter::ERROR,
        _ => LevelFilter::WARN,
    };
    let has_log_option = cli.log.is_some();
    let filter = cli
        .log
        .unwrap_or_else(|| Targets::new().with_default(default));
    logging::start(filter, cli.log_format.unwrap_or_else(|| cli.output.into()));
    let result = match cli.command {
        CliCommand::Demo(args) => demo::demo(&args, cli.output),
        CliCommand::Serve(args) => serve::serve(&args, cli.output, has_log_option),
        CliCommand::Run(args) => run::run(args, cli.output),
        CliCommand::Source(args) => source::source(args, cli.output),
        CliCommand::Sink(args) => sink::sink(args, cli.output),
        CliCommand::Status(args) => inspect::status(&args, cli.output),
        CliCommand::Ls(args) => inspect::ls(&args, cli.output),
        CliCommand::Reload(args) => inspect::reload(&args, cli.output),
        CliCommand::Keygen(args) => keygen::keygen(&args, cli.output),
        CliCommand::Version => version::version(cli.output),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(cli.output),
    }
}

/// The output format of a command line that cannot be parsed.
fn requested_output() -> OutputFormat {
    let mut requested = std::env::var("ZIPPER_OUTPUT").ok();
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        match arg.strip_prefix("--output") {
            Some("") => requested = args.next(),
            Some(value) if value.starts_with('=') => requested = Some(value[1..].to_owned()),
            _ => (),
        }
    }
    let requested = requested.and_then(|text| OutputFormat::from_str(&text, true).ok());
    requested.unwrap_or_default()
}

/// The error of the command line without the advice for people that follows it.
fn usage_error(error: &clap::Error) -> CommandError {
    let text = error.render().to_string();
    let message = text.split("\n\nUsage:").next().unwrap_or_default();
    let message = message.split("\n\nFor more").next().unwrap_or_default();
    let words: Vec<&str> = message.split_whitespace().collect();
    CommandError::usage(words.join(" ").trim_start_matches("error: "))
}

/// Prints a line on stdout.
fn print_line(line: impl std::fmt::Display) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(CommandError::output)
}
