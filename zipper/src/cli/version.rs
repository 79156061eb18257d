//! `zipper version`: prints the versions of the program and of its protocol.

use selvedge_client::wire::VERSION;
use serde_json::json;

use crate::cli::error::CommandError;
use crate::cli::{OutputFormat, print_line};

pub(crate) fn version(output: OutputFormat) -> Result<(), CommandError> {
    let zipper = env!("CARGO_PKG_VERSION");
    match output {
        OutputFormat::Text => print_line(format_args!("zipper {zipper}, protocol {VERSION}")),
        OutputFormat::Json => print_line(json!({"zipper": zipper, "protocol": VERSION})),
    }
}
