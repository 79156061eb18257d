//! What an entry zipper sends to the source of a flow on the lane CONTROL.

use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use selvedge_client::lanes::CONTROL;
use selvedge_client::settlement::Recipients;
use selvedge_client::wire::settlement::{
    AbandonedRange, Announcement, FlowProgress, ResendMessage, SettlementMessage,
};

use super::flow::{FlowState, SharedFlow};
use crate::settlement::SourceOutput;

/// Messages are made when there is room for the longest one that is usual.
const ROOM: usize = 64 * 1024;

/// When the progress has so many parts, it is sent.
const PARTS_MAX: usize = 128;

/// Sends what the machine has for the source, as far as there is room. Pending if there is not: `cx` is woken
/// when there may be, or without it the connection of the source is called again.
pub(super) fn send(flow: &SharedFlow, state: &mut FlowState, cx: Option<&Context<'_>>) -> Poll<()> {
    loop {
        let sending = flow.source.sending();
        let has_room = match cx {
            Some(cx) => sending.poll_room(cx, CONTROL, ROOM).is_ready(),
            None => !sending.is_full(CONTROL, ROOM),
        };
        drop(sending);
        if !has_room {
            if cx.is_none() {
                flow.wants_turn.store(true, Ordering::Release);
                flow.source.resume();
            }
            return Poll::Pending;
        }
        let Some(message) = next_message(flow, state) else {
            return Poll::Ready(());
        };
        super::labels::send(&flow.source, &message);
    }
}

fn next_message(flow: &SharedFlow, state: &mut FlowState) -> Option<SettlementMessage> {
    if let Some(held) = state.held_output.take() {
        return Some(held);
    }
    let (label, attachment) = (flow.label, flow.attachment);
    let mut progress = FlowProgress {
        label,
        attachment,
        routed: state.routed,
        declined: Vec::new(),
        settled: Vec::new(),
        abandoned: Vec::new(),
    };
    let (mut parts, mut alone) = (0, None);
    while parts < PARTS_MAX
        && let Some(output) = state.machine.poll_source_output()
    {
        match output {
            SourceOutput::Routed { routed, declined } => {
                state.routed = routed;
                progress.routed = routed;
                progress.declined.extend(declined);
            }
            SourceOutput::Settled { group, messages } => progress.settled.push((group, messages)),
            SourceOutput::Abandoned {
                group,
                messages,
                reason,
            } => progress.abandoned.push(AbandonedRange {
                group,
                reason,
                messages,
            }),
            SourceOutput::Announce(Recipients { version, groups }) => {
                alone = Some(SettlementMessage::Announce(Announcement {
                    label,
                    attachment,
                    version,
                    groups,
                }));
            }
            SourceOutput::Resend(request) => {
                alone = Some(SettlementMessage::Resend(ResendMessage {
                    label,
                    attachment,
                    request,
                }));
            }
            SourceOutput::Probe(probe) => {
                alone = Some(SettlementMessage::Probe {
                    label,
                    attachment,
                    probe,
                });
            }
        }
        if alone.is_some() {
            break;
        }
        parts += 1;
    }
    if parts == 0 {
        return alone;
    }
    // In order: behind the progress.
    state.held_output = alone;
    Some(SettlementMessage::Progress(progress))
}
