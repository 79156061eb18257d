//! The sessions with zippers on which routes are bound.

use std::collections::VecDeque;
use std::time::Duration;

use selvedge_hub::Endpoint;

/// A session with one process of a zipper: the labels of routes are unique within it. It begins with the
/// acknowledgement of the introduction.
///
/// The worker handles control messages at once, while data waits for readers: a reader must not take
/// data of a former session for data of the present one. The acknowledgement is queued for readers, so a
/// reader counts the sessions on its own, by the acknowledgements that it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::client) struct SessionKey(u32);

impl SessionKey {
    /// Before the first acknowledgement: no route is bound.
    pub(in crate::client) const NONE: Self = Self(0);
}

/// The sessions of each endpoint that have begun on its worker, and of which readers have not read the
/// beginning.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    endpoints: Vec<(Endpoint, VecDeque<SessionKey>)>,
    last: u32,
}

impl Sessions {
    /// A session has begun, on the worker.
    pub(super) fn begin(&mut self, endpoint: &Endpoint) -> SessionKey {
        self.last += 1;
        let key = SessionKey(self.last);
        let mut endpoints = self.endpoints.iter_mut();
        match endpoints.find(|(known, _)| known == endpoint) {
            Some((_, keys)) => keys.push_back(key),
            None => {
                // Of zippers that have admitted the client, and that it has not entered.
                self.endpoints
                    .retain(|(known, _)| known.wait_closed(Duration::ZERO).is_none());
                self.endpoints
                    .push((endpoint.clone(), VecDeque::from([key])));
            }
        }
        key
    }

    /// A reader has read the beginning of a session.
    pub(super) fn read(&mut self, endpoint: &Endpoint) -> SessionKey {
        let mut endpoints = self.endpoints.iter_mut();
        let keys = endpoints.find(|(known, _)| known == endpoint);
        let key = keys.and_then(|(_, keys)| keys.pop_front());
        key.unwrap_or(SessionKey::NONE)
    }
}
