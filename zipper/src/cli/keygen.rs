//! `zipper keygen`

use std::io::Write;
use std::path::PathBuf;

use selvedge_hub::Identity;
use serde_json::json;

use crate::cli::connection::read_identity;
use crate::cli::fault::Fault;
use crate::cli::{Format, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to put it; the file must not exist yet.
    #[arg(default_value = "node.key")]
    file: PathBuf,
    /// Only print the id of the key in the file.
    #[arg(long)]
    show: bool,
}

pub(crate) fn keygen(args: &Args, output: Format) -> Result<(), Fault> {
    let file = args.file.display();
    let identity = if args.show {
        read_identity(&args.file)?
    } else {
        let identity = Identity::generate().map_err(Fault::failed)?;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
            .open(&args.file)
            .and_then(|mut open| open.write_all(identity.to_pem().as_bytes()))
            .map_err(|error| Fault::failed(format!("{file}: {error}")))?;
        identity
    };
    let node = identity.node_id();
    match output {
        Format::Text => say(node),
        Format::Json => say(json!({"file": args.file, "node": node.to_string()})),
    }
}
