//! What a datagram listener and the transports that it let in know of each other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by a listener and its transports. Touched when one opens or ends, never in between.
#[derive(Debug, Default)]
pub(super) struct Door {
    handshakes: AtomicUsize,
    left: Mutex<Vec<u32>>,
}

impl Door {
    /// How many transports are still in their handshake.
    pub(super) fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// The slots of the transports that have gone since the last call.
    pub(super) fn take_left(&self) -> Vec<u32> {
        std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A transport's place behind a [`Door`], given back when it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    door: Arc<Door>,
    slot: u32,
    handshaking: bool,
}

impl Lease {
    /// Takes a place for a transport whose handshake begins.
    pub(super) fn new(door: &Arc<Door>, slot: u32) -> Self {
        door.handshakes.fetch_add(1, Ordering::Relaxed);
        Self {
            door: Arc::clone(door),
            slot,
            handshaking: true,
        }
    }

    /// The handshake is over.
    pub(super) fn opened(&mut self) {
        if std::mem::take(&mut self.handshaking) {
            self.door.handshakes.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.opened();
        self.door
            .left
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
        let door = Arc::new(Door::default());
        let (mut first, second) = (Lease::new(&door, 1), Lease::new(&door, 2));
        assert_eq!(door.handshakes(), 2);
        first.opened();
        first.opened();
        assert_eq!(door.handshakes(), 1);
        drop(second);
        assert_eq!((door.handshakes(), door.take_left()), (0, vec![2]));
        drop(first);
        assert_eq!((door.handshakes(), door.take_left()), (0, vec![1]));
    }
}
