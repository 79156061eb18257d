//! Runs: consecutive messages of one route, which reach the user without a lock.
//!
//! The first message of a run is checked under the lock of the flows. It opens the run, and one atomic addition
//! decides on each of the others. Whatever looks at the flows closes the run first and counts what was
//! taken, so a flow knows at any time which messages the user has. With a lock for each message, a message of
//! 64 B takes 60 ns more of its reader's time.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::delivery::{DeliveryOrigin, RoutedDelivery};
use super::inbound_state::{InboundRoute, InboundState};
use super::sessions::SessionKey;
use crate::wire::WireError;
use crate::wire::settlement::RoutedMessage;

/// How many messages follow the first one of a run. The lease of an instance is checked for the first one: a
/// process that was suspended gives its handler as many others without noticing.
pub(super) const RUN_LEN: u64 = 15;

/// Set while no run is open.
const CLOSED: u64 = 1 << 63;

/// How many messages of a run were taken, beside the first one.
#[derive(Debug)]
pub(super) struct RunCounter(AtomicU64);

impl RunCounter {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(CLOSED))
    }

    /// Begins to count. Only the reader does, under the lock of the flows, and no run is open.
    fn open(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Takes a message. Returns false if the run is closed: then nothing is counted.
    #[inline]
    fn take(&self) -> bool {
        self.0.fetch_add(1, Ordering::AcqRel) & CLOSED == 0
    }

    /// Ends the run. Returns how many messages were taken.
    #[inline]
    pub(super) fn close(&self) -> u64 {
        match self.0.swap(CLOSED, Ordering::AcqRel) {
            taken if taken & CLOSED == 0 => taken,
            _ => 0,
        }
    }
}

/// The open run, as the flows know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenRun {
    at: usize,
    number: u64,
    start: u64,
    awaits_acknowledgement: bool,
}

impl InboundState {
    /// Opens a run behind a message that was received in order. `now` permits to process its messages.
    pub(super) fn open_run(
        &mut self,
        counter: &RunCounter,
        (session, label): (SessionKey, u32),
        (route, sequence): (InboundRoute, u64),
        awaits_acknowledgement: bool,
    ) -> Option<ReaderRun> {
        let InboundRoute { at, number, epoch } = route;
        let flow = self.flow(at, number)?;
        let start = sequence.saturating_add(1);
        if !flow.receiving.may_take(epoch, start) {
            return None;
        }
        let origin = flow.origin.clone();
        self.run = Some(OpenRun {
            at,
            number,
            start,
            awaits_acknowledgement,
        });
        counter.open();
        Some(ReaderRun {
            session,
            label,
            messages: start..start + RUN_LEN,
            at,
            origin,
            awaits_acknowledgement,
        })
    }

    /// The run is closed, and so many messages were taken.
    pub(super) fn note_taken(&mut self, taken: u64) {
        let Some(run) = self.run.take().filter(|_| taken > 0) else {
            return;
        };
        // A flow with messages of the user is not forgotten.
        if let Some(flow) = self.flow(run.at, run.number) {
            let messages = run.start..run.start + taken;
            flow.receiving.take(messages, !run.awaits_acknowledgement);
            if !run.awaits_acknowledgement {
                self.note_news(run.at, taken);
            }
        }
    }
}

/// The open run, as its reader knows it.
#[derive(Debug)]
pub(in crate::client) struct ReaderRun {
    session: SessionKey,
    label: u32,
    /// Those that were not taken.
    messages: Range<u64>,
    at: usize,
    origin: DeliveryOrigin,
    awaits_acknowledgement: bool,
}

impl ReaderRun {
    /// Takes a message if it is the next one of the run.
    #[inline]
    pub(super) fn take(
        &mut self,
        counter: &RunCounter,
        session: SessionKey,
        header: &RoutedMessage,
    ) -> bool {
        let is_next = header.label == self.label
            && header.sequence == self.messages.start
            && !self.messages.is_empty()
            && session == self.session;
        self.messages.start += u64::from(is_next);
        is_next && counter.take()
    }

    #[inline]
    pub(super) fn deliver(
        &self,
        header: RoutedMessage,
        bytes: Bytes,
    ) -> Result<RoutedDelivery, WireError> {
        let message = (header, bytes);
        RoutedDelivery::new(&self.origin, self.at, message, self.awaits_acknowledgement)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    #[test]
    fn each_message_that_is_taken_is_counted_once_when_two_threads_close_the_run() {
        let (counter, is_done) = (RunCounter::new(), AtomicBool::new(false));
        let (mut taken, mut counted) = (0, 0);
        thread::scope(|scope| {
            let closing = scope.spawn(|| {
                let mut counted = 0;
                while !is_done.load(Ordering::Acquire) {
                    counted += counter.close();
                }
                counted
            });
            for _ in 0..20_000 {
                counted += counter.close();
                counter.open();
                while taken % 1_000 < 999 && counter.take() {
                    taken += 1;
                }
                taken += u64::from(counter.take());
            }
            is_done.store(true, Ordering::Release);
            counted += closing.join().expect("it only counts");
        });
        counted += counter.close();
        assert_eq!(taken, counted);
    }
}
