//! Flows that are settled, in a zipper. [`selvedge_client::settlement`] describes the protocol.
//!
//! | role of the zipper | file | state |
//! |---|---|---|
//! | entry: a source is connected to it | [`entry`], [`flow`], [`delivery`] | a [`SharedFlow`] for each flow |
//! | relay, home: a route passes through it | [`relay`] | a [`RelayTable`] for each neighbour |
//! | any: it sends on routes | [`labels`] | [`PeerRoutes`] for each peer: the owner of each route |
//!
//! The messages of a flow leave on the lane on which they have arrived: those of flows with long messages do not
//! hold back the others. Messages never wait here. What has no room is dropped: by the entry zipper, which requests it again when
//! there is room, or by a relay, which ends the route.

mod delivery;
mod entry;
mod flow;
mod labels;
mod recipients;
mod relay;
mod slow;
mod source_control;
mod unsettled;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use selvedge_client::wire::settlement::{RouteBinding, RouteLossReason, SettlementMessage};

use selvedge_hub::Endpoint;

use super::plans::ResolvedHop;
use super::shards::ShardSet;
use super::{Broker, lock};
use crate::router::NextHop;

pub(super) use entry::EntryFlows;
pub(super) use labels::PeerRoutes;
pub(super) use relay::RelayTable;

use labels::RouteOwner;

impl Broker {
    /// A label that no route has had lately.
    fn next_label(&self) -> u32 {
        self.next_label.fetch_add(1, Ordering::Relaxed)
    }

    /// Resumes the endpoint of a source once when a change concerns its flows, and at each tick. `version` was
    /// read before their recipients were looked up.
    pub(super) fn resume_flows(
        &self,
        version: u64,
        connection: u64,
        endpoint: &Endpoint,
        concerns: ShardSet,
    ) {
        let mut watching = lock(&self.watching);
        watching.insert(connection, endpoint, concerns);
        if self.version() != version {
            endpoint.resume();
        }
    }

    /// The source of a connection has no flows any more.
    pub(super) fn stop_watching(&self, connection: u64) {
        lock(&self.watching).remove(connection);
    }

    /// Where a route leads to from here.
    fn next_hop_of(&self, binding: &RouteBinding) -> Result<ResolvedHop, RouteLossReason> {
        let state = self.lock();
        let next_hop = if binding.home == self.settings.node {
            let client = state.router.local_instance(binding.instance);
            NextHop::Local(client.ok_or(RouteLossReason::NoInstance)?)
        } else {
            let towards = state.router.next_hop_towards(&binding.name, binding.home);
            towards.ok_or(RouteLossReason::NoPath)?
        };
        super::resolve(&state.known, next_hop).ok_or(RouteLossReason::NoPath)
    }

    /// Handles what comes back on a route of this zipper. `bytes` are those of the message.
    pub(super) fn handle_answer(
        &self,
        routes: &PeerRoutes,
        message: SettlementMessage,
        bytes: &Bytes,
    ) {
        let label = match &message {
            SettlementMessage::Report(report) => report.label,
            SettlementMessage::RouteLost { label, .. } => *label,
            _ => return,
        };
        let is_lost = matches!(message, SettlementMessage::RouteLost { .. });
        let owner = match is_lost {
            true => routes.remove(label),
            false => routes.owner(label),
        };
        match (owner, message) {
            (Some(owner), SettlementMessage::RouteLost { reason, .. }) => {
                owner.lost(self, label, reason);
            }
            (Some(RouteOwner::Flow(flow, member)), SettlementMessage::Report(report)) => {
                if let Some(flow) = flow.upgrade() {
                    flow.handle_report(self, member, &report);
                }
            }
            (Some(RouteOwner::Relay { upstream, label }), _) => {
                if let Some(bytes) = labels::relabelled(bytes, label) {
                    labels::send_bytes(&upstream, bytes);
                }
            }
            // A route that has ended meanwhile.
            _ => {}
        }
    }
}
