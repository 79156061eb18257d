//! Resolves names to addresses on a separate thread, since the system's resolver blocks.

use std::net::ToSocketAddrs;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, TrySendError, bounded};
use selvedge_transport::{Address, DialError, Place};

/// How many names may wait to be resolved. Further dials fail at once and may be repeated.
const WAITING_MAX: usize = 1024;

/// How many addresses of one name are used.
const ADDRESSES_MAX: usize = 8;

/// Receives the addresses, of which there is at least one, in the order of the system's resolver.
type ResolveCallback = Box<dyn FnOnce(Result<Vec<Address>, DialError>) + Send>;

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

    /// Calls `done` with the resolved addresses: at once, unless the address contains a name.
    pub(crate) fn resolve(&self, address: &Address, done: ResolveCallback) {
        let Place::Name { host, .. } = address.place() else {
            return done(Ok(vec![address.clone()]));
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

fn resolve(address: &Address) -> Result<Vec<Address>, DialError> {
    let Place::Name { host, port } = address.place() else {
        return Ok(vec![address.clone()]);
    };
    let unresolved = |detail: String| DialError::Unresolved {
        host: host.clone(),
        detail,
    };
    let found = (host.as_str(), *port)
        .to_socket_addrs()
        .map_err(|error| unresolved(error.to_string()))?;
    match distinct(found.map(|found| address.at(found))) {
        found if found.is_empty() => Err(unresolved("the name has no address".to_owned())),
        found => Ok(found),
    }
}

/// The addresses without repetitions, which some resolvers return.
fn distinct(found: impl Iterator<Item = Address>) -> Vec<Address> {
    let mut distinct = Vec::new();
    for address in found {
        if distinct.len() < ADDRESSES_MAX && !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_a_name_is_used_once() {
        let address = |text: &str| -> Address { text.parse().expect("an address") };
        let both = [address("tcp://[::1]:1"), address("tcp://127.0.0.1:1")];
        let found = both.iter().cloned().chain(both.iter().cloned());
        assert_eq!(distinct(found), both);
        let many = (1..100).map(|port| address(&format!("tcp://127.0.0.1:{port}")));
        assert_eq!(distinct(many).len(), ADDRESSES_MAX);
    }
}
