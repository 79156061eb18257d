//! The listeners of a worker.

use std::num::NonZeroU32;
use std::sync::{Arc, Weak};

use selvedge_transport::{Instant, Listener, Progress};
use slab::Slab;

use super::accept_rate::AcceptRate;
use super::connections::Connections;
use super::schedule::{Armed, Schedule, TimerKey};
use super::token;
use crate::wake::AcceptCallback;

struct ListenerSlot {
    listener: Box<dyn Listener>,
    accepted: AcceptCallback,
    wanted: Weak<()>,
    armed: Armed,
    rate: AcceptRate,
}

/// The table of listeners.
pub(super) struct Listeners {
    slots: Slab<ListenerSlot>,
    accepts_per_second: NonZeroU32,
}

impl Listeners {
    pub(super) const fn new(accepts_per_second: NonZeroU32) -> Self {
        Self {
            slots: Slab::new(),
            accepts_per_second,
        }
    }

    /// Those with something to do at `now`, for a simulation.
    pub(super) fn due(&self, now: Instant) -> Vec<usize> {
        let slots = self.slots.iter();
        let due = slots.filter(|(_, it)| it.listener.timeout().is_some_and(|at| at <= now));
        due.map(|(index, _)| index).collect()
    }

    /// The earliest deadline that a listener has, for a simulation.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let slots = self.slots.iter();
        slots.filter_map(|(_, it)| it.listener.timeout()).min()
    }

    /// Registers a listener and accepts the connections that wait at it.
    pub(super) fn add(
        &mut self,
        mut listener: Box<dyn Listener>,
        accepted: AcceptCallback,
        wanted: Weak<()>,
        connections: &mut Connections,
        schedule: &mut Schedule,
    ) {
        let entry = self.slots.vacant_entry();
        let index = entry.key();
        if let Err(error) = listener.register(connections.registry(), token::listener(index)) {
            tracing::error!(%error, address = %listener.local_address(), "cannot listen");
            return;
        }
        entry.insert(ListenerSlot {
            listener,
            accepted,
            wanted,
            armed: Armed::default(),
            rate: AcceptRate::new(self.accepts_per_second),
        });
        self.accept(index, connections, schedule);
    }

    /// Drops the listeners whose handle was dropped.
    pub(super) fn remove_unwanted(&mut self, connections: &Connections) {
        let registry = connections.registry();
        self.slots.retain(|_, slot| {
            let is_wanted = slot.wanted.strong_count() > 0;
            if !is_wanted && let Err(error) = slot.listener.deregister(registry) {
                tracing::debug!(%error, "cannot deregister a listener");
            }
            is_wanted
        });
    }

    pub(super) fn clear(&mut self) {
        self.slots.clear();
    }

    /// Handles an expired timer of a listener.
    pub(super) fn on_timer(
        &mut self,
        index: usize,
        connections: &mut Connections,
        schedule: &mut Schedule,
    ) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.armed.fired(schedule.now);
            self.accept(index, connections, schedule);
        }
    }

    /// Accepts the connections that wait at a listener, as fast as its rate allows.
    pub(super) fn accept(
        &mut self,
        index: usize,
        connections: &mut Connections,
        schedule: &mut Schedule,
    ) {
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let now = schedule.now;
        if let Some(until) = slot.rate.pause(now) {
            // Connections that wait already cause no further event.
            schedule.arm(&mut slot.armed, Some(until), TimerKey::Listener(index));
            return;
        }
        let mut transports = Vec::new();
        let result = slot
            .listener
            .accept(&mut connections.turn(now), &mut transports);
        slot.rate.accepted(now, transports.len());
        let next = match result {
            Ok(Progress::More) => Some(now),
            Ok(Progress::Idle) => slot.listener.timeout(),
            Err(error) => {
                tracing::error!(%error, address = %slot.listener.local_address(), "listening ended");
                self.slots.remove(index);
                return;
            }
        };
        schedule.arm(&mut slot.armed, next, TimerKey::Listener(index));
        let accepted = Arc::clone(&slot.accepted);
        for transport in transports {
            connections.begin_accepted(transport, Arc::clone(&accepted), schedule);
        }
    }
}
