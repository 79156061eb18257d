//! Resolves names to addresses on a separate thread, since the system's resolver blocks.

use std::net::ToSocketAddrs;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, TrySendError, bounded};
use selvedge_transport::{Address, DialError, Place};

/// How many names may wait to be resolved. Further dials fail at once and may be repeated.
const WAITING_MAX: usize = 1024;

/// Receives the resolved address.
type ResolveCallback = Box<dyn FnOnce(Result<Address, DialError>) + Send>;

/// The resolver thread of a driver.
#[derive(Debug)]
pub(crate) struct Resolver {
    requests: Sender<(Address, ResolveCallback)>,
    /// Ends when `requests` is dropped. It is not joined: resolving a name may take long.
    _thread: Option<JoinHandle<()>>,
}

impl Resolver {
    pub(crate) fn spawn() -> std::io::Result<Self> {
        let (requests, queue) = bounded::<(Address, ResolveCallback)>(WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name("selvedge-resolver".into())
            .spawn(move || {
                for (address, done) in queue {
                    done(resolve(&address));
                }
            })?;
        Ok(Self {
            requests,
            _thread: Some(thread),
        })
    }

    /// A resolver without a thread, which fails for every name.
    pub(crate) fn none() -> Self {
        Self {
            requests: bounded(0).0,
            _thread: None,
        }
    }

    /// Calls `done` with the resolved address: at once, unless the address contains a name.
    pub(crate) fn resolve(&self, address: &Address, done: ResolveCallback) {
        let Place::Name { host, .. } = address.place() else {
            return done(Ok(address.clone()));
        };
        match self.requests.try_send((address.clone(), done)) {
            Ok(()) => {}
            Err(TrySendError::Full((_, done)) | TrySendError::Disconnected((_, done))) => {
                let detail = "too many names are being resolved".to_owned();
                done(Err(DialError::Unresolved {
                    host: host.clone(),
                    detail,
                }));
            }
        }
    }
}

fn resolve(address: &Address) -> Result<Address, DialError> {
    let Place::Name { host, port } = address.place() else {
        return Ok(address.clone());
    };
    let unresolved = |detail: String| DialError::Unresolved {
        host: host.clone(),
        detail,
    };
    let mut found = (host.as_str(), *port)
        .to_socket_addrs()
        .map_err(|error| unresolved(error.to_string()))?;
    let first = found
        .next()
        .ok_or_else(|| unresolved("the name has no address".to_owned()))?;
    Ok(address.at(first))
}
