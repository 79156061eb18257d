//! Ctrl-C and SIGTERM: the first ends in order, the second at once.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use selvedge_zipper::client::Client;

use crate::cli::fault::Fault;

/// How long a function may handle what has come: with [`CLOSE_MAX`] less than the 90 s after which
/// systemd kills what it has asked to end.
///
/// [`CLOSE_MAX`]: crate::cli::connection::CLOSE_MAX
const FINISH_MAX: Duration = Duration::from_secs(15);

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
    when_interrupted(client, Client::stop)
}

/// Has a client finish when somebody wishes to end, and stop if what is returned is still there
/// [`FINISH_MAX`] later.
pub(crate) fn finish_when_interrupted(client: &Arc<Client>) -> Result<Sender<()>, Fault> {
    let (reading, has_read) = bounded(0);
    when_interrupted(client, move |client| {
        client.finish();
        let _disconnected_or_late = has_read.recv_timeout(FINISH_MAX);
        client.stop();
    })?;
    Ok(reading)
}

fn when_interrupted(
    client: &Arc<Client>,
    end: impl FnOnce(&Client) + Send + 'static,
) -> Result<Receiver<()>, Fault> {
    let interrupted = interrupted()?;
    let (told, client) = (interrupted.clone(), Arc::downgrade(client));
    let wait = move || {
        let _disconnected = told.recv();
        if let Some(client) = client.upgrade() {
            end(&client);
        }
    };
    std::thread::Builder::new()
        .name("zipper-signals".into())
        .spawn(wait)
        .map_err(|error| Fault::failed(format!("cannot start a thread: {error}")))?;
    Ok(interrupted)
}
