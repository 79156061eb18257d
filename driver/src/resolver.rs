//! Names to addresses, on a thread of its own: the system's resolver blocks.

use std::net::ToSocketAddrs;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, TrySendError, bounded};
use selvedge_transport::{Address, DialError, Place};

/// Names that may wait to be resolved; more fail at once, and may be dialed again later.
const WAITING_MAX: usize = 1024;

type Answer = Box<dyn FnOnce(Result<Address, DialError>) + Send>;

#[derive(Debug)]
pub(crate) struct Resolver {
    questions: Sender<(Address, Answer)>,
    /// Ends by itself when the questions end; a name under way is not waited for.
    _thread: JoinHandle<()>,
}

impl Resolver {
    pub(crate) fn spawn() -> std::io::Result<Self> {
        let (questions, asked) = bounded::<(Address, Answer)>(WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name("selvedge-resolver".into())
            .spawn(move || {
                for (address, answer) in asked {
                    answer(resolve(&address));
                }
            })?;
        Ok(Self {
            questions,
            _thread: thread,
        })
    }

    /// Calls `answer` with the address resolved: at once, unless it is a name.
    pub(crate) fn resolve(&self, address: &Address, answer: Answer) {
        let Place::Name { host, .. } = address.place() else {
            return answer(Ok(address.clone()));
        };
        match self.questions.try_send((address.clone(), answer)) {
            Ok(()) => {}
            Err(TrySendError::Full((_, answer)) | TrySendError::Disconnected((_, answer))) => {
                let detail = "too many names are being resolved".to_owned();
                answer(Err(DialError::Unresolved {
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
        .ok_or_else(|| unresolved("it has no address".to_owned()))?;
    Ok(address.at(first))
}
