//! The hub of a client, which is replaced when the client moves to another zipper.

use std::sync::{Arc, Mutex, PoisonError};

use selvedge_hub::Hub;

/// The hub whose only peer is the zipper of the client.
#[derive(Debug)]
pub(super) struct HubSlot(Mutex<Arc<Hub>>);

impl HubSlot {
    pub(super) const fn new(hub: Arc<Hub>) -> Self {
        Self(Mutex::new(hub))
    }

    pub(super) fn get(&self) -> Arc<Hub> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the hub, and returns the one before. Dropping that waits for an actor, so it must not be done
    /// under a lock.
    pub(super) fn replace(&self, hub: Arc<Hub>) -> Arc<Hub> {
        std::mem::replace(
            &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner),
            hub,
        )
    }
}
