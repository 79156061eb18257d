//! What sources report of their messages, against the ledger.

use std::time::Duration;

use selvedge_client::OutcomeSummary;

use crate::fabric::Fabric;

/// How long messages may take to be settled once all faults are over: an instance that has died may hold them
/// until its lease of 30 s has expired.
pub(crate) const OUTCOME_MAX: Duration = Duration::from_secs(120);

/// What the sources of a fabric have reported.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ReportedOutcomes {
    pub(crate) settled: u64,
    pub(crate) unobserved: u64,
    pub(crate) abandoned: u64,
}

impl Fabric {
    /// The clients that are not gone and have written settled messages, with what they report.
    fn outcomes(&self) -> Vec<(usize, OutcomeSummary)> {
        let members = self.members().iter().enumerate();
        let clients = members.filter_map(|(number, it)| Some((number, it.client()?.outcomes())));
        clients.collect()
    }

    /// Nothing is reported as settled that a group has not read.
    pub(crate) fn check_early_outcomes(&self) {
        if !self.ledger.is_settling() {
            return;
        }
        for (number, outcomes) in self.outcomes() {
            let (settled, complete) = (outcomes.total().settled, self.ledger.complete(number));
            if settled > complete {
                self.fail(format!(
                    "c{number} reports {settled} settled messages, {complete} are read"
                ));
            }
        }
    }

    /// How many messages sources have reported as not delivered to a group.
    pub(crate) fn not_settled(&self) -> u64 {
        let totals = self.outcomes().into_iter().map(|(_, it)| it.total());
        totals.map(|it| it.unobserved + it.abandoned()).sum()
    }

    /// What sources report that have messages which are missing.
    pub(crate) fn outcomes_of_missing(&self) -> Vec<(usize, OutcomeSummary)> {
        let mut outcomes = self.outcomes();
        outcomes
            .retain(|(number, _)| self.ledger.complete(*number) < self.ledger.written_by(*number));
        outcomes
    }

    /// Whether every message that is missing is reported by its source.
    pub(crate) fn is_accounted(&self) -> bool {
        self.outcomes().iter().all(|(number, outcomes)| {
            let total = outcomes.total();
            let missing = self.ledger.written_by(*number) - self.ledger.complete(*number);
            missing <= total.unobserved + total.abandoned()
        })
    }

    /// Waits until every message has an outcome, and compares the outcomes with the ledger.
    pub(crate) fn check_outcomes(&mut self) -> ReportedOutcomes {
        let is_flushed = |fabric: &Self| {
            let outcomes = fabric.outcomes();
            outcomes
                .iter()
                .all(|(_, outcomes)| outcomes.unsettled() == 0)
        };
        if !self.run_until(OUTCOME_MAX, is_flushed) {
            let unsettled = self.outcomes();
            self.fail(format!("messages remain unsettled: {unsettled:?}"));
        }
        let mut reported = ReportedOutcomes::default();
        if !self.ledger.is_settling() {
            return reported;
        }
        for (number, outcomes) in self.outcomes() {
            let (total, ledger) = (outcomes.total(), &self.ledger);
            let (written, required) = (ledger.written_by(number), ledger.required(number));
            let missing = written - ledger.complete(number);
            let fail = |why: &str| -> ! {
                self.fail(format!(
                    "c{number}: {why}: {total:?}; {written} written, {required} required, {missing} missing"
                ))
            };
            if total.settled + total.unobserved + total.abandoned() != written {
                fail("the outcomes do not add up to what was written");
            }
            if self.members()[number].uncertain() > 0 {
                fail("messages are uncertain");
            }
            if missing > total.unobserved + total.abandoned() {
                fail("messages are missing and not reported");
            }
            if total.abandoned() > 0 && !ledger.may_abandon() {
                fail("messages are abandoned although each group has an instance");
            }
            if total.unobserved > written - required && !ledger.may_abandon() {
                fail("messages are unobserved although a group is known");
            }
            reported.settled += total.settled;
            reported.unobserved += total.unobserved;
            reported.abandoned += total.abandoned();
        }
        reported
    }

    /// Ends every source in order: it reports whether all was delivered.
    pub(crate) fn close_sources(&mut self) {
        let sources: Vec<usize> = self.sources().collect();
        for number in sources {
            let Some(client) = self.member(number).client() else {
                continue;
            };
            let (outcomes, uncertain) = (client.outcomes(), client.uncertain());
            let is_delivered = outcomes.is_settled() && uncertain == 0;
            let mut closed = None;
            let end = self.processes.now() + OUTCOME_MAX;
            while closed.is_none() && self.processes.now() < end {
                let client = self.member(number).client();
                closed = client.and_then(|client| client.try_close());
                self.run(Duration::from_millis(20));
            }
            if closed != Some(is_delivered) {
                self.fail(format!(
                    "c{number} has closed: {closed:?}, {uncertain} uncertain, {outcomes:?}"
                ));
            }
        }
    }

    /// The clients that observe nothing.
    pub(crate) fn sources(&self) -> impl Iterator<Item = usize> + use<'_> {
        let all = self.members().iter().enumerate();
        let sources = all.filter(|(_, it)| it.config.observes.is_empty() && it.is_present());
        sources.map(|(number, _)| number)
    }
}
