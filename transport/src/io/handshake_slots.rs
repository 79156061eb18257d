//! The state that a datagram listener shares with the transports that it accepted.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts the handshakes in progress and collects the slots of dropped transports. It is accessed
/// only when a transport opens or is dropped, not on the hot path.
#[derive(Debug, Default)]
pub(super) struct HandshakeSlots {
    handshakes: AtomicUsize,
    released: Mutex<Vec<u32>>,
}

impl HandshakeSlots {
    /// The number of transports whose handshake is in progress.
    pub(super) fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// Returns the slots of the transports that were dropped since the last call.
    pub(super) fn take_released(&self) -> Vec<u32> {
        std::mem::take(&mut *self.released.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A slot of an accepted transport in [`HandshakeSlots`]. Dropping it releases the slot.
#[derive(Debug)]
pub(super) struct SlotLease {
    slots: Arc<HandshakeSlots>,
    slot: u32,
    handshaking: bool,
}

impl SlotLease {
    /// Acquires a slot for a transport whose handshake begins.
    pub(super) fn new(slots: &Arc<HandshakeSlots>, slot: u32) -> Self {
        slots.handshakes.fetch_add(1, Ordering::Relaxed);
        Self {
            slots: Arc::clone(slots),
            slot,
            handshaking: true,
        }
    }

    /// Records that the handshake is complete.
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
    fn a_slot_counts_as_a_handshake_until_it_opens_or_is_dropped() {
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
