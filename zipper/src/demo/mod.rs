//! `zipper demo`: live readings of this machine through two zippers into WebAssembly and back.

mod readings;
mod relay;
mod screen;
mod stage;
mod story;
mod tally;

use crate::cli::Format;
use crate::cli::fault::Fault;
use crate::demo::story::Story;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long readings are sent.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
}

pub(crate) fn demo(args: &Args, output: Format) -> Result<(), Fault> {
    let interrupted = crate::cli::interrupt::interrupted()?;
    Story::begin(args.seconds, output == Format::Json)?.tell(&interrupted.first)
}
