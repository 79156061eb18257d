//! The receiving end of a flow, in the process of an instance.

use std::ops::Range;
use std::time::Duration;

use selvedge_hub::Instant;

use super::{LEASE, RANGES_MAX, ReceivingReport, ReportKind, RouteEpoch, SequenceSet};

/// Above it, counting on would overflow.
const SEQUENCE_MAX: u64 = 1 << 62;

/// What the process of an instance knows of one group of a flow: which messages it has processed, and
/// which it holds for its handler.
///
/// ```text
///   receive ──▶ held ── begin ──▶ begun ── process ──▶ processed ── report ──▶ entry zipper
///                 └──────────── process ────────────────▲
/// ```
///
/// The instance may give messages to its handler only while [`may_process`](Self::may_process) allows
/// it. `now` must not go backwards.
#[derive(Debug, Clone)]
pub struct ReceivingFlow {
    lease: Duration,
    /// The highest route that was bound.
    epoch: Option<RouteEpoch>,
    /// Whether messages of that route are accepted.
    is_open: bool,
    /// The source has removed everything below from its log: it is never sent again.
    floor: u64,
    processed: SequenceSet,
    held: SequenceSet,
    begun: SequenceSet,
    /// Processed messages that were not reported.
    news: SequenceSet,
    /// Behind the highest message that was accepted and not dropped.
    end: u64,
    permitted_until: Option<Instant>,
    /// Since when messages wait for the permission to process them.
    waits_since: Option<Instant>,
    reported_at: Option<Instant>,
    /// Whether a report is to be sent, with or without news.
    wants_report: bool,
    /// The first number that the next part of the answer to a bind covers.
    answer_from: Option<u64>,
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

impl Default for ReceivingFlow {
    /// With a lease of [`LEASE`].
    fn default() -> Self {
        Self::new(LEASE)
    }
}

impl ReceivingFlow {
    /// A flow without messages. The lease must be that of every entry zipper.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self {
            lease,
            epoch: None,
            is_open: false,
            floor: 0,
            processed: SequenceSet::default(),
            held: SequenceSet::default(),
            begun: SequenceSet::default(),
            news: SequenceSet::default(),
            end: 0,
            permitted_until: None,
            waits_since: None,
            reported_at: None,
            wants_report: false,
            answer_from: None,
        }
    }

    /// The entry zipper binds the instance to a route: [`poll_report`](Self::poll_report) returns the
    /// answer. Returns held messages that must be removed from the handler's queue: the lease has ended,
    /// so another instance may have received them. `None` if a later route was bound before.
    pub fn bind(&mut self, now: Instant, epoch: RouteEpoch) -> Option<SequenceSet> {
        if self.epoch.is_some_and(|current| epoch < current) {
            return None;
        }
        let dropped = match self.is_permitted(now) {
            true => SequenceSet::default(),
            false => self.drop_held(),
        };
        self.epoch = Some(epoch);
        self.is_open = true;
        self.waits_since = None;
        self.news = SequenceSet::default();
        self.answer_from = Some(0);
        Some(dropped)
    }

    /// A message has arrived over a route.
    #[inline]
    pub fn receive(&mut self, epoch: RouteEpoch, sequence: u64) -> Receipt {
        let receipt = self.accept(epoch, sequence);
        if receipt == Receipt::New {
            self.held.insert(sequence..sequence + 1);
        }
        receipt
    }

    /// A message has arrived over a route, and its handler processes it at once. Allowed while
    /// [`may_process`](Self::may_process) is.
    #[inline]
    pub fn receive_and_process(&mut self, epoch: RouteEpoch, sequence: u64) -> Receipt {
        let receipt = self.accept(epoch, sequence);
        if receipt == Receipt::New {
            self.processed.insert(sequence..sequence + 1);
            self.news.insert(sequence..sequence + 1);
        }
        receipt
    }

    #[inline]
    fn accept(&mut self, epoch: RouteEpoch, sequence: u64) -> Receipt {
        if self.epoch != Some(epoch) || !self.is_open {
            return Receipt::Superseded;
        }
        if sequence < self.end || sequence < self.floor || sequence == u64::MAX {
            return self.accept_late(sequence);
        }
        self.end = sequence + 1;
        Receipt::New
    }

    /// Whether [`take`](Self::take) is allowed for messages from `first` on that arrive over a route, as long as
    /// nothing else happens to the flow, and [`may_process`](Self::may_process) is.
    #[must_use]
    pub fn may_take(&self, epoch: RouteEpoch, first: u64) -> bool {
        let is_bound = self.epoch == Some(epoch) && self.is_open;
        is_bound && first >= self.end.max(self.floor) && first < SEQUENCE_MAX
    }

    /// Messages that [may be taken](Self::may_take) have arrived, and the handler has received them. It has
    /// also processed them, or [will](Self::process).
    pub fn take(&mut self, messages: Range<u64>, is_processed: bool) {
        self.end = messages.end;
        match is_processed {
            true => {
                self.processed.insert(messages.clone());
                self.news.insert(messages);
            }
            false => self.begun.insert(messages),
        }
    }

    fn accept_late(&self, sequence: u64) -> Receipt {
        let is_known = sequence == u64::MAX
            || sequence < self.floor
            || self.processed.contains(sequence)
            || self.held.contains(sequence)
            || self.begun.contains(sequence);
        match is_known {
            true => Receipt::Duplicate,
            false => Receipt::New,
        }
    }

    /// Whether messages may be given to the handler now. If not, the entry zipper is asked to extend the
    /// lease. To be called before a message or a batch of messages is given to the handler.
    #[inline]
    pub fn may_process(&mut self, now: Instant) -> bool {
        let is_permitted = self.is_permitted(now);
        if !is_permitted && self.waits_since.is_none() {
            self.waits_since = Some(now);
            self.wants_report = true;
        }
        is_permitted
    }

    /// Whether the lease allows to process messages.
    #[inline]
    #[must_use]
    pub fn is_permitted(&self, now: Instant) -> bool {
        self.permitted_until.is_some_and(|until| now < until)
    }

    /// The handler receives a held message. From now on the message is never dropped. Returns false if
    /// it was dropped before, or is unknown: the handler must not receive it.
    pub fn begin(&mut self, sequence: u64) -> bool {
        let is_held = self.held.contains(sequence);
        if is_held {
            self.held.remove(sequence..sequence + 1);
            self.begun.insert(sequence..sequence + 1);
        }
        is_held
    }

    /// The handler has processed a message, which was held or [begun](Self::begin).
    #[inline]
    pub fn process(&mut self, sequence: u64) {
        let one = sequence..sequence + 1;
        let set = match self.held.contains(sequence) {
            true => &mut self.held,
            false if self.begun.contains(sequence) => &mut self.begun,
            false => return,
        };
        set.remove(one.clone());
        self.processed.insert(one.clone());
        self.news.insert(one);
    }

    /// The handler has processed everything that it has received. Returns how many messages that were.
    pub fn process_begun(&mut self) -> u64 {
        let begun = std::mem::take(&mut self.begun);
        self.processed.insert_all(&begun);
        self.news.insert_all(&begun);
        begun.ranges().map(|it| it.end - it.start).sum()
    }

    /// The source has removed everything below `floor` from its log: forgets it.
    pub fn raise_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        self.processed.remove_below(self.floor);
        self.news.remove_below(self.floor);
    }

    /// The entry zipper returns the stamp of a report, because the source was attached to it later.
    pub fn handle_renew(&mut self, epoch: RouteEpoch, stamp: u64) {
        if self.epoch != Some(epoch) || !self.is_open {
            return;
        }
        let stamp = Instant::from_origin(Duration::from_micros(stamp));
        // No stamp of this process is later than its last report.
        if self.reported_at.is_none_or(|last| stamp > last) {
            return;
        }
        let until = stamp + self.lease * 9 / 10;
        self.permitted_until = self.permitted_until.max(Some(until));
        self.waits_since = None;
    }

    /// The instance must not process what it holds, and accepts nothing until it is bound again. Returns
    /// the messages, which must be removed from the handler's queue.
    pub fn fence(&mut self) -> SequenceSet {
        self.is_open = false;
        self.waits_since = None;
        self.answer_from = None;
        self.drop_held()
    }

    /// The instance leaves in order, after its handler has processed what it has begun: everything that was
    /// processed is reported once more, completely, and nothing more is accepted. Returns the messages that
    /// must be removed from the handler's queue.
    pub fn leave(&mut self) -> SequenceSet {
        let dropped = self.fence();
        self.answer_from = self.epoch.map(|_| 0);
        dropped
    }

    /// Messages that follow what the handler has received are in order again.
    fn drop_held(&mut self) -> SequenceSet {
        let last = self.processed.last().max(self.begun.last());
        self.end = last.map_or(0, |last| last + 1).max(self.floor);
        std::mem::take(&mut self.held)
    }

    /// The next time limit. None if the flow holds no messages.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let is_idle = self.held.is_empty() && self.begun.is_empty();
        let last = self.reported_at.filter(|_| self.is_open && !is_idle)?;
        Some(last + self.lease / 15)
    }

    /// Time has passed. Returns messages that must be removed from the handler's queue: no entry zipper
    /// has extended the lease for long, so the flow is [fenced](Self::fence).
    pub fn handle_timeout(&mut self, now: Instant) -> SequenceSet {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return SequenceSet::default();
        }
        self.wants_report = true;
        if self.held.is_empty() || self.may_process(now) {
            return SequenceSet::default();
        }
        match self
            .waits_since
            .is_some_and(|since| now >= since + self.lease)
        {
            true => self.fence(),
            false => SequenceSet::default(),
        }
    }

    /// Whether no message waits for its handler, or is being processed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held.is_empty() && self.begun.is_empty()
    }

    /// Whether the source has removed every message that was accepted from its log, so that none can be
    /// repeated if the flow is forgotten.
    #[must_use]
    pub fn is_forgettable(&self) -> bool {
        self.is_idle() && self.floor >= self.end
    }

    /// The entry zipper asks for a report, with or without news, on the present route.
    pub fn handle_ask(&mut self, epoch: RouteEpoch) {
        self.wants_report |= self.epoch == Some(epoch);
    }

    /// The next report to send, if there is one: a part of the answer to a bind, or news. `progress` is how many
    /// messages the process has processed, of all flows.
    pub fn poll_report(&mut self, now: Instant, progress: u64) -> Option<ReceivingReport> {
        let has_route = self.is_open || self.answer_from.is_some();
        let epoch = self.epoch.filter(|_| has_route)?;
        let (kind, processed, held) = match self.answer_from {
            Some(from) => self.answer(from),
            None if self.wants_report || !self.news.is_empty() => {
                (ReportKind::News, self.take_news(), SequenceSet::default())
            }
            None => return None,
        };
        self.wants_report = false;
        self.reported_at = Some(now);
        Some(ReceivingReport {
            epoch,
            kind,
            processed,
            held,
            end: self.end,
            stamp: now.since_origin().as_micros() as u64,
            progress,
        })
    }

    /// What is contiguous to news is repeated: a report that was lost does no harm then.
    fn take_news(&mut self) -> SequenceSet {
        let news = self.news.take_ranges(RANGES_MAX);
        let whole = news
            .ranges()
            .filter_map(|it| self.processed.range_of(it.start));
        whole.collect()
    }

    /// The part of the answer that starts at `from`.
    fn answer(&mut self, from: u64) -> (ReportKind, SequenceSet, SequenceSet) {
        let mut held = self.held.clone();
        held.insert_all(&self.begun);
        let behind = |set: &SequenceSet| {
            let mut ranges = set.ranges().filter(|it| it.end > from);
            ranges.nth(RANGES_MAX).map_or(u64::MAX, |it| it.start)
        };
        let end = behind(&self.processed).min(behind(&held));
        let is_last = end == u64::MAX;
        self.answer_from = (!is_last).then_some(end);
        let kind = match is_last {
            true => ReportKind::Answer,
            false => ReportKind::Part,
        };
        (
            kind,
            self.processed.within(from..end),
            held.within(from..end),
        )
    }
}

#[cfg(test)]
#[path = "receiving_tests.rs"]
mod tests;
