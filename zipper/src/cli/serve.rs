//! `zipper serve`

use crate::cli::Format;
use crate::cli::fault::Fault;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn serve(_args: Args, _output: Format) -> Result<(), Fault> {
    Ok(())
}
