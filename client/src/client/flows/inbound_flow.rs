//! One flow of the receiving side, and the route back to its entry zipper.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use selvedge_hub::{Endpoint, Instant};

use super::delivery::{DeliveryOrigin, ParkedMessage};
use super::sessions::SessionKey;
use crate::lanes::CONTROL;
use crate::settlement::{
    GroupId, RANGES_MAX, ReceivingFlow, ReceivingReport, ReportKind, SequenceSet,
};
use crate::wire::WireError;
use crate::wire::settlement::{
    FlowId, ReportMessage, RouteBinding, SettlementLevel, SettlementMessage,
};

/// More than any report takes: two sets, with 16 bytes for each range.
const REPORT_LEN_MAX: usize = 2 * 16 * RANGES_MAX + 64;

/// A message counts for the next report once, and once more for each of so many bytes: a source whose window is full
/// waits for the report.
const WEIGHT_LEN: u64 = 1024;

/// One flow of this process.
#[derive(Debug)]
pub(super) struct InboundFlow {
    pub(super) id: FlowId,
    pub(super) origin: DeliveryOrigin,
    /// The group of the flow that this process belongs to.
    pub(super) group: GroupId,
    pub(super) level: SettlementLevel,
    pub(super) receiving: ReceivingFlow,
    pub(super) route: Option<RouteBack>,
    /// Messages that wait for the lease.
    pub(super) parked: VecDeque<ParkedMessage>,
    /// What one of its messages counts for the next report, by the length of the last one that was looked at.
    pub(super) weight: u64,
    /// Whether it waits to be reported.
    pub(super) is_dirty: bool,
    /// Whether its time limits are looked at.
    pub(super) is_holding: bool,
}

/// Where reports go.
#[derive(Debug)]
pub(super) struct RouteBack {
    pub(super) endpoint: Endpoint,
    pub(super) session: SessionKey,
    pub(super) label: u32,
}

impl InboundFlow {
    pub(super) fn new(number: u64, binding: &RouteBinding) -> Self {
        Self {
            origin: DeliveryOrigin {
                tag: binding.flow.tag,
                source: binding.flow.source,
                target: binding.flow.target.as_deref().map(Arc::from),
                number,
            },
            id: binding.flow.clone(),
            group: binding.group,
            level: binding.level,
            receiving: ReceivingFlow::default(),
            route: None,
            parked: VecDeque::new(),
            weight: 1,
            is_dirty: false,
            is_holding: false,
        }
    }

    /// Sends the reports that are due. `progress` is how many messages the user has processed, of all flows.
    /// Returns false if there is no room for all of them.
    pub(super) fn report(&mut self, now: Instant, progress: u64) -> bool {
        let Some(route) = &self.route else {
            // The answer to the next bind contains everything.
            return true;
        };
        let mut sending = route.endpoint.sending();
        loop {
            if sending.is_full(CONTROL, REPORT_LEN_MAX) {
                return false;
            }
            let Some(report) = self.receiving.poll_report(now, progress) else {
                return true;
            };
            if let Ok(bytes) = encode(route.label, report, false)
                && sending.try_send_parts(CONTROL, &[&bytes]).is_err()
            {
                // The session has ended; the next one binds the flow again.
                return true;
            }
        }
    }

    /// Reports everything that was processed, and that nothing more will be. Messages are refused from now on.
    pub(super) fn leave(&mut self, now: Instant, progress: u64) {
        self.receiving.leave();
        self.parked.clear();
        let Some(route) = &self.route else { return };
        while let Some(report) = self.receiving.poll_report(now, progress) {
            let is_last = report.kind == ReportKind::Answer;
            if let Ok(bytes) = encode(route.label, report, is_last) {
                // Without room the entry zipper notices by the lease that the instance has left.
                let _is_sent = route.endpoint.try_send(CONTROL, bytes);
            }
        }
    }

    /// Notes how long its messages are.
    #[inline]
    pub(super) const fn note_len(&mut self, len: usize) {
        self.weight = 1 + len as u64 / WEIGHT_LEN;
    }

    /// Drops messages that must not reach the handler. Returns their bytes.
    pub(super) fn drop_parked(&mut self, dropped: &SequenceSet) -> usize {
        let mut bytes = 0;
        if !dropped.is_empty() {
            self.parked.retain(|parked| {
                let is_dropped = dropped.contains(parked.header.sequence);
                bytes += if is_dropped { parked.bytes.len() } else { 0 };
                !is_dropped
            });
        }
        bytes
    }
}

fn encode(label: u32, report: ReceivingReport, is_leaving: bool) -> Result<Bytes, WireError> {
    let message = SettlementMessage::Report(ReportMessage {
        label,
        is_leaving,
        report,
    });
    let encoded = message.encode();
    debug_assert!(encoded.is_ok(), "reports have few ranges");
    encoded
}
