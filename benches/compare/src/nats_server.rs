//! The command of a NATS server: alone, or one of two that a leaf node connection joins.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::job::free_address;

/// The place of a server.
#[derive(Clone, Copy)]
pub(crate) enum NatsRole {
    Alone,
    /// The server that accepts leaf node connections.
    Hub,
    /// The server that connects to the hub, which started before it.
    Leaf,
}

impl NatsRole {
    /// The command of the server `program`, and the addresses that it will have: the one for clients first. A hub has
    /// another one for leaf nodes; `addresses` are those of the servers that started before. The configuration is
    /// written to `folder`.
    pub(crate) fn command(
        self,
        program: &Path,
        folder: &Path,
        addresses: &[String],
    ) -> io::Result<(Command, Vec<String>)> {
        let mut own = vec![free_address()];
        let (_, port) = own[0].rsplit_once(':').unwrap_or_default();
        // It does not watch its input, and must not outlive this process.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command.args(["--addr", "127.0.0.1", "--port", port]);
        let (name, settings) = match self {
            Self::Alone => return Ok((command, own)),
            Self::Hub => {
                own.push(free_address());
                // The default (`s2_auto`) frames and copies the data of a fast connection, which it does not
                // compress. This applies to both ends.
                let settings = format!("listen: {:?}, compression: off", own[1]);
                ("nats-hub.conf", settings)
            }
            Self::Leaf => {
                let hub = addresses.last().map_or("", String::as_str);
                let settings = format!("remotes: [{{ url: \"nats-leaf://{hub}\" }}]");
                ("nats-leaf.conf", settings)
            }
        };
        let file = folder.join(name);
        fs::write(&file, format!("leafnodes {{ {settings} }}\n"))?;
        command.arg("--config").arg(file);
        Ok((command, own))
    }
}
