//! `zipper keygen`: creates the key of a node.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use selvedge_hub::Identity;
use serde_json::json;

use crate::cli::connection::read_identity;
use crate::cli::error::CommandError;
use crate::cli::{OutputFormat, print_line};

#[derive(Debug, clap::Args)]
pub(crate) struct KeygenArgs {
    /// File to create; it must not exist yet.
    #[arg(default_value = "node.key")]
    file: PathBuf,
    /// Only print the node id of an existing key file.
    #[arg(long)]
    show: bool,
}

pub(crate) fn keygen(args: &KeygenArgs, output: OutputFormat) -> Result<(), CommandError> {
    let file = args.file.display();
    let identity = if args.show {
        read_identity(&args.file)?
    } else {
        let identity = Identity::generate().map_err(CommandError::system)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
            .open(&args.file)
            .and_then(|mut open| open.write_all(identity.to_pem().as_bytes()))
            .map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists => CommandError::system(format!(
                    "{file} exists already; `zipper keygen --show {file}` prints its node id"
                )),
                _ => CommandError::system(format!("{file}: {error}")),
            })?;
        identity
    };
    let node = identity.node_id();
    match output {
        OutputFormat::Text => print_line(node),
        OutputFormat::Json => print_line(json!({"file": args.file, "node": node.to_string()})),
    }
}
