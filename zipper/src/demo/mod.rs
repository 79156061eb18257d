//! `zipper demo`: sends live readings of this machine through two zippers and two functions.

mod fabric;
mod readings;
mod scenario;
mod screen;
mod tally;
mod udp_relay;

use crate::cli::OutputFormat;
use crate::cli::error::CommandError;
use crate::cli::number::number;
use crate::cli::shutdown::{Shutdown, ShutdownArgs};
use crate::demo::scenario::Scenario;

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Duration of the demo, in seconds.
    #[arg(long, default_value_t = 20, value_parser = number(1..=86_400))]
    seconds: u64,
}

pub(crate) fn demo(args: &DemoArgs, output: OutputFormat) -> Result<(), CommandError> {
    let shutdown = Shutdown::listen(ShutdownArgs::default())?;
    Scenario::begin(args.seconds, output == OutputFormat::Json)?.play(&shutdown)
}
