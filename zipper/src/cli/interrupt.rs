//! Ctrl-C and SIGTERM: the first ends in order, the second at once.

use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};
use selvedge_zipper::client::Client;

use crate::cli::fault::Fault;

/// Nothing comes out of it; it is disconnected when somebody wishes to end.
pub(crate) fn interrupted() -> Result<Receiver<()>, Fault> {
    let (tell, told) = bounded(0);
    let mut tell = Some(tell);
    let handler = move || {
        if tell.take().is_none() {
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler)
        .map_err(|error| Fault::failed(format!("cannot listen to signals: {error}")))?;
    Ok(told)
}

/// Has reads and writes of a client fail when somebody wishes to end, and tells it.
pub(crate) fn stop_when_interrupted(client: &Arc<Client>) -> Result<Receiver<()>, Fault> {
    let interrupted = interrupted()?;
    let (told, client) = (interrupted.clone(), Arc::downgrade(client));
    let wait = move || {
        let _disconnected = told.recv();
        if let Some(client) = client.upgrade() {
            client.stop();
        }
    };
    std::thread::Builder::new()
        .name("zipper-signals".into())
        .spawn(wait)
        .map_err(|error| Fault::failed(format!("cannot start a thread: {error}")))?;
    Ok(interrupted)
}
