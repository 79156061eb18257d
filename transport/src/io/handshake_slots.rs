//! What a datagram listener and the transports that it let in know of each other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by a listener and its transports. Touched when one opens or ends, never in between.
#[derive(Debug, Default)]
pub(super) struct HandshakeSlots {
    handshakes: AtomicUsize,
    released: Mutex<Vec<u32>>,
}

impl HandshakeSlots {
    /// How many transports are still in their handshake.
    pub(super) fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// The slots of the transports that have gone since the last call.
    pub(super) fn take_released(&self) -> Vec<u32> {
        std::mem::take(&mut *self.released.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A transport's place behind a [`HandshakeSlots`], given back when it is dropped.
#[derive(Debug)]
pub(super) struct SlotLease {
    slots: Arc<HandshakeSlots>,
    slot: u32,
    handshaking: bool,
}

impl SlotLease {
    /// Takes a place for a transport whose handshake begins.
    pub(super) fn new(slots: &Arc<HandshakeSlots>, slot: u32) -> Self {
        slots.handshakes.fetch_add(1, Ordering::Relaxed);
        Self {
            slots: Arc::clone(slots),
            slot,
            handshaking: true,
        }
    }

    /// The handshake is over.
    pub(super) fn handshake_done(&mut self) {
        if std::mem::take(&mut self.handshaking) {
            self.slots.handshakes.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for SlotLease {
    fn drop(&mut self) {
        self.handshake_done();
        self.slots
            .released
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_as_a_handshake_until_it_opens_or_ends() {
        let slots = Arc::new(HandshakeSlots::default());
        let (mut first, second) = (SlotLease::new(&slots, 1), SlotLease::new(&slots, 2));
        assert_eq!(slots.handshakes(), 2);
        first.handshake_done();
        first.handshake_done();
        assert_eq!(slots.handshakes(), 1);
        drop(second);
        assert_eq!((slots.handshakes(), slots.take_released()), (0, vec![2]));
        drop(first);
        assert_eq!((slots.handshakes(), slots.take_released()), (0, vec![1]));
    }
}
