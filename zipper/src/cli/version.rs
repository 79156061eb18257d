//! `zipper version`

use selvedge_client::wire::VERSION;
use serde_json::json;

use crate::cli::fault::Fault;
use crate::cli::{Format, say};

pub(crate) fn version(output: Format) -> Result<(), Fault> {
    let zipper = env!("CARGO_PKG_VERSION");
    match output {
        Format::Text => say(format_args!("zipper {zipper}, protocol {VERSION}")),
        Format::Json => say(json!({"zipper": zipper, "protocol": VERSION})),
    }
}
