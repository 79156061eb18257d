//! The receiving end of a flow, in the process of an instance.

use super::{RouteEpoch, SequenceSet};

/// What the process of an instance knows of one flow: which messages it has processed, and which it
/// holds for its handler.
#[derive(Debug, Clone, Default)]
pub struct ReceivingFlow {
    /// The route that messages are accepted from.
    epoch: Option<RouteEpoch>,
    /// The source has removed everything below from its log: it is never sent again.
    floor: u64,
    processed: SequenceSet,
    held: SequenceSet,
    /// Behind the highest message that was ever accepted.
    end: u64,
    /// Whether anything was processed since the last report.
    has_news: bool,
}

/// What becomes of a message that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// The handler must process it.
    New,
    /// It was received before: discard it.
    Duplicate,
    /// It took a route that is superseded: discard it.
    Superseded,
}

/// The state of a flow at an instance, for the entry zipper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivingReport {
    /// The route that the report belongs to.
    pub epoch: RouteEpoch,
    /// Messages that the handler has processed, without those that the source has removed from its log.
    pub processed: SequenceSet,
    /// Messages that the handler will process.
    pub held: SequenceSet,
    /// Behind the highest message that was ever accepted.
    pub end: u64,
}

impl ReceivingFlow {
    /// The entry zipper binds the instance to a route. Returns what the instance has, or `None` if a
    /// later route was bound before.
    pub fn bind(&mut self, epoch: RouteEpoch) -> Option<ReceivingReport> {
        if self.epoch.is_some_and(|current| epoch < current) {
            return None;
        }
        self.epoch = Some(epoch);
        self.has_news = false;
        self.report()
    }

    /// A message has arrived over a route.
    #[inline]
    pub fn receive(&mut self, epoch: RouteEpoch, sequence: u64) -> Receipt {
        if self.epoch != Some(epoch) {
            return Receipt::Superseded;
        }
        let is_known = sequence == u64::MAX
            || sequence < self.floor
            || self.processed.contains(sequence)
            || self.held.contains(sequence);
        if is_known {
            return Receipt::Duplicate;
        }
        self.held.insert(sequence..sequence + 1);
        self.end = self.end.max(sequence + 1);
        Receipt::New
    }

    /// The handler has processed a message that was [new](Receipt::New).
    #[inline]
    pub fn process(&mut self, sequence: u64) {
        if !self.held.contains(sequence) {
            return;
        }
        self.held.remove(sequence..sequence + 1);
        self.processed.insert(sequence..sequence + 1);
        self.has_news = true;
    }

    /// The source has removed everything below `floor` from its log: forgets it.
    pub fn raise_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        self.processed.remove_below(self.floor);
    }

    /// The instance has lost its lease: it must not process what it holds. Returns these messages.
    pub fn fence(&mut self) -> SequenceSet {
        self.epoch = None;
        std::mem::take(&mut self.held)
    }

    /// What was processed since the last report, if anything was.
    pub fn take_news(&mut self) -> Option<ReceivingReport> {
        if !std::mem::take(&mut self.has_news) {
            return None;
        }
        self.report()
    }

    /// The present state; `None` before the instance is bound to a route.
    #[must_use]
    pub fn report(&self) -> Option<ReceivingReport> {
        Some(ReceivingReport {
            epoch: self.epoch?,
            processed: self.processed.clone(),
            held: self.held.clone(),
            end: self.end,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: RouteEpoch = RouteEpoch {
        attachment: 1,
        route: 1,
    };
    const SECOND: RouteEpoch = RouteEpoch {
        attachment: 1,
        route: 2,
    };

    #[test]
    fn a_message_is_new_once_whichever_routes_bring_it() {
        let mut flow = ReceivingFlow::default();
        assert_eq!(flow.receive(FIRST, 0), Receipt::Superseded);
        assert!(flow.bind(FIRST).is_some());
        assert_eq!(flow.receive(FIRST, 0), Receipt::New);
        assert_eq!(flow.receive(FIRST, 0), Receipt::Duplicate);
        flow.process(0);
        assert_eq!(flow.receive(FIRST, 0), Receipt::Duplicate);
        assert_eq!(flow.receive(FIRST, 1), Receipt::New);
        let report = flow.bind(SECOND).expect("a later route");
        assert_eq!(report.processed, SequenceSet::from(0..1));
        assert_eq!(report.held, SequenceSet::from(1..2));
        assert_eq!(report.end, 2);
        assert_eq!(flow.receive(FIRST, 2), Receipt::Superseded);
        assert_eq!(flow.receive(SECOND, 1), Receipt::Duplicate);
        assert!(flow.bind(FIRST).is_none());
    }

    #[test]
    fn what_the_source_has_removed_is_forgotten_and_stays_a_duplicate() {
        let mut flow = ReceivingFlow::default();
        flow.bind(FIRST);
        for sequence in 0..4 {
            flow.receive(FIRST, sequence);
        }
        flow.process(0);
        flow.process(1);
        flow.raise_floor(2);
        assert_eq!(flow.receive(FIRST, 1), Receipt::Duplicate);
        let report = flow.take_news().expect("two were processed");
        assert_eq!(report.processed, SequenceSet::default());
        assert_eq!(report.held, SequenceSet::from(2..4));
        assert_eq!(flow.take_news(), None);
    }

    #[test]
    fn a_fenced_instance_processes_nothing_of_what_it_held() {
        let mut flow = ReceivingFlow::default();
        flow.bind(FIRST);
        flow.receive(FIRST, 0);
        assert_eq!(flow.fence(), SequenceSet::from(0..1));
        flow.process(0);
        assert_eq!(flow.take_news(), None);
        assert_eq!(flow.receive(FIRST, 1), Receipt::Superseded);
    }
}
