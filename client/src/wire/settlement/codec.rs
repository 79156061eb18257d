//! Encodes and decodes the messages of settlement.

use bytes::{BufMut, Bytes};

use super::messages::{
    AbandonedRange, Announcement, FlowId, FlowOpening, FlowProgress, InstanceNotice, ReportMessage,
    ResendMessage, RouteBinding, RouteLossReason, SettlementLevel, SettlementMessage,
    StalledMessage,
};
use super::{FLOW_GROUPS_MAX, GROUP_MEMBERS_MAX, SET_RANGES_MAX};
use crate::settlement::{
    AbandonReason, DeclinedRange, FlowOffer, GroupId, GroupOffer, InstanceId, ReceivingReport,
    RecipientGroup, ReportKind, ResendRequest, RouteEpoch, SequenceSet,
};
use crate::tag::Tag;
use crate::wire::{
    DropPolicy, WireError, get_bool, get_list, get_node, get_option, get_text, get_u8, get_u32,
    get_u64, put_len, put_option, put_text,
};

type Put = Result<(), WireError>;
type Get<T> = Result<T, WireError>;

pub(super) fn put(message: &SettlementMessage, out: &mut Vec<u8>) -> Put {
    match message {
        SettlementMessage::FlowOpen(it) => put_opening(it, out),
        SettlementMessage::ResendEnd {
            label,
            group,
            token,
            base,
            complete_below,
        } => {
            begin(0x23, *label, out);
            out.put_u32(group.0);
            out.put_u32(*token);
            out.put_u64(*base);
            out.put_u64(*complete_below);
            Ok(())
        }
        SettlementMessage::Confirm {
            label,
            attachment,
            version,
        } => {
            begin(0x24, *label, out);
            out.put_u32(*attachment);
            out.put_u64(*version);
            Ok(())
        }
        SettlementMessage::Base { label, base } => put_number(0x25, *label, *base, out),
        SettlementMessage::Alive {
            label,
            attachment,
            probe,
        } => put_probe(0x26, *label, *attachment, *probe, out),
        SettlementMessage::FlowClose { label } => begin_ok(0x27, *label, out),
        SettlementMessage::Waiting { label, attachment } => {
            begin(0x2c, *label, out);
            out.put_u32(*attachment);
            Ok(())
        }
        SettlementMessage::Announce(it) => put_announcement(it, out),
        SettlementMessage::Progress(it) => put_progress(it, out),
        SettlementMessage::Resend(it) => put_resend(it, out),
        SettlementMessage::Probe {
            label,
            attachment,
            probe,
        } => put_probe(0x2b, *label, *attachment, *probe, out),
        SettlementMessage::Bind(it) => put_binding(it, out),
        SettlementMessage::Unbind { label } => begin_ok(0x31, *label, out),
        SettlementMessage::RaiseFloor { label, floor } => put_number(0x32, *label, *floor, out),
        SettlementMessage::Renew { label, stamp } => put_number(0x33, *label, *stamp, out),
        SettlementMessage::Stalled(it) => put_stalled(it, out),
        SettlementMessage::Ask { label } => begin_ok(0x35, *label, out),
        SettlementMessage::Report(it) => put_report(it, out),
        SettlementMessage::RouteLost { label, reason } => {
            begin(0x39, *label, out);
            out.put_u8(*reason as u8);
            Ok(())
        }
        SettlementMessage::Instance(it) => {
            out.put_u8(0x3a);
            out.put_u64(it.instance.0);
            out.put_u8(u8::from(it.redelivers));
            Ok(())
        }
        SettlementMessage::Observer(policy) => {
            out.put_slice(&[0x3b, *policy as u8]);
            Ok(())
        }
    }
}

pub(super) fn get(b: &mut Bytes) -> Get<SettlementMessage> {
    Ok(match get_u8(b)? {
        0x20 => SettlementMessage::FlowOpen(get_opening(b)?),
        0x23 => SettlementMessage::ResendEnd {
            label: get_u32(b)?,
            group: get_group_id(b)?,
            token: get_u32(b)?,
            base: get_u64(b)?,
            complete_below: get_u64(b)?,
        },
        0x24 => SettlementMessage::Confirm {
            label: get_u32(b)?,
            attachment: get_u32(b)?,
            version: get_u64(b)?,
        },
        0x25 => SettlementMessage::Base {
            label: get_u32(b)?,
            base: get_u64(b)?,
        },
        0x26 => SettlementMessage::Alive {
            label: get_u32(b)?,
            attachment: get_u32(b)?,
            probe: get_u32(b)?,
        },
        0x27 => SettlementMessage::FlowClose { label: get_u32(b)? },
        0x28 => SettlementMessage::Announce(get_announcement(b)?),
        0x29 => SettlementMessage::Progress(get_progress(b)?),
        0x2a => SettlementMessage::Resend(get_resend(b)?),
        0x2b => SettlementMessage::Probe {
            label: get_u32(b)?,
            attachment: get_u32(b)?,
            probe: get_u32(b)?,
        },
        0x2c => SettlementMessage::Waiting {
            label: get_u32(b)?,
            attachment: get_u32(b)?,
        },
        0x30 => SettlementMessage::Bind(get_binding(b)?),
        0x31 => SettlementMessage::Unbind { label: get_u32(b)? },
        0x32 => SettlementMessage::RaiseFloor {
            label: get_u32(b)?,
            floor: get_u64(b)?,
        },
        0x33 => SettlementMessage::Renew {
            label: get_u32(b)?,
            stamp: get_u64(b)?,
        },
        0x34 => SettlementMessage::Stalled(get_stalled(b)?),
        0x35 => SettlementMessage::Ask { label: get_u32(b)? },
        0x38 => SettlementMessage::Report(get_report(b)?),
        0x39 => SettlementMessage::RouteLost {
            label: get_u32(b)?,
            reason: get_loss_reason(b)?,
        },
        0x3a => SettlementMessage::Instance(InstanceNotice {
            instance: InstanceId(get_u64(b)?),
            redelivers: get_bool(b)?,
        }),
        0x3b => SettlementMessage::Observer(DropPolicy::from_byte(get_u8(b)?)?),
        other => return Err(WireError::Unknown(other)),
    })
}

fn begin(kind: u8, label: u32, out: &mut Vec<u8>) {
    out.put_u8(kind);
    out.put_u32(label);
}

fn begin_ok(kind: u8, label: u32, out: &mut Vec<u8>) -> Put {
    begin(kind, label, out);
    Ok(())
}

fn put_number(kind: u8, label: u32, number: u64, out: &mut Vec<u8>) -> Put {
    begin(kind, label, out);
    out.put_u64(number);
    Ok(())
}

fn put_probe(kind: u8, label: u32, attachment: u32, probe: u32, out: &mut Vec<u8>) -> Put {
    begin(kind, label, out);
    out.put_u32(attachment);
    out.put_u32(probe);
    Ok(())
}

fn put_opening(it: &FlowOpening, out: &mut Vec<u8>) -> Put {
    begin(0x20, it.label, out);
    out.put_u64(it.process);
    out.put_u32(it.tag.0);
    put_option(it.target.as_deref(), out)?;
    out.put_u8(it.level as u8);
    put_offer(&it.offer, out)
}

fn get_opening(b: &mut Bytes) -> Get<FlowOpening> {
    Ok(FlowOpening {
        label: get_u32(b)?,
        process: get_u64(b)?,
        tag: Tag(get_u32(b)?),
        target: get_option(b)?,
        level: get_level(b)?,
        offer: get_offer(b)?,
    })
}

fn put_offer(it: &FlowOffer, out: &mut Vec<u8>) -> Put {
    out.put_u32(it.attachment);
    out.put_u64(it.live_from);
    out.put_u64(it.sent_max);
    out.put_u32(it.groups_end);
    put_len(it.groups.len(), FLOW_GROUPS_MAX, out)?;
    for group in &it.groups {
        put_group(&group.recipients, out)?;
        out.put_u64(group.floor);
        put_set(&group.settled, out)?;
    }
    Ok(())
}

fn get_offer(b: &mut Bytes) -> Get<FlowOffer> {
    Ok(FlowOffer {
        attachment: get_u32(b)?,
        live_from: get_u64(b)?,
        sent_max: get_u64(b)?,
        groups_end: get_u32(b)?,
        groups: get_list(b, FLOW_GROUPS_MAX, |b| {
            Ok(GroupOffer {
                recipients: get_group(b)?,
                floor: get_u64(b)?,
                settled: get_set(b)?,
            })
        })?,
    })
}

fn put_group(it: &RecipientGroup, out: &mut Vec<u8>) -> Put {
    out.put_u32(it.group.0);
    put_text(&it.name, out)?;
    put_optional(it.only.map(|only| only.0), out);
    out.put_u64(it.from);
    put_optional(it.until, out);
    out.put_u64(it.uncertain_below);
    put_len(it.members.len(), GROUP_MEMBERS_MAX, out)?;
    it.members.iter().for_each(|member| out.put_u64(member.0));
    Ok(())
}

fn get_group(b: &mut Bytes) -> Get<RecipientGroup> {
    Ok(RecipientGroup {
        group: get_group_id(b)?,
        name: get_text(b)?,
        only: get_optional(b)?.map(InstanceId),
        from: get_u64(b)?,
        until: get_optional(b)?,
        uncertain_below: get_u64(b)?,
        members: get_list(b, GROUP_MEMBERS_MAX, |b| Ok(InstanceId(get_u64(b)?)))?,
    })
}

fn put_announcement(it: &Announcement, out: &mut Vec<u8>) -> Put {
    begin(0x28, it.label, out);
    out.put_u32(it.attachment);
    out.put_u64(it.version);
    put_len(it.groups.len(), FLOW_GROUPS_MAX, out)?;
    it.groups.iter().try_for_each(|group| put_group(group, out))
}

fn get_announcement(b: &mut Bytes) -> Get<Announcement> {
    Ok(Announcement {
        label: get_u32(b)?,
        attachment: get_u32(b)?,
        version: get_u64(b)?,
        groups: get_list(b, FLOW_GROUPS_MAX, get_group)?,
    })
}

fn put_progress(it: &FlowProgress, out: &mut Vec<u8>) -> Put {
    begin(0x29, it.label, out);
    out.put_u32(it.attachment);
    out.put_u64(it.routed);
    put_len(it.declined.len(), FLOW_GROUPS_MAX, out)?;
    for declined in &it.declined {
        out.put_u8(reason_byte(declined.reason));
        put_set(&declined.messages, out)?;
    }
    put_len(it.settled.len(), FLOW_GROUPS_MAX, out)?;
    for (group, messages) in &it.settled {
        out.put_u32(group.0);
        put_set(messages, out)?;
    }
    put_len(it.abandoned.len(), FLOW_GROUPS_MAX, out)?;
    for abandoned in &it.abandoned {
        out.put_u32(abandoned.group.0);
        out.put_u8(reason_byte(abandoned.reason));
        put_set(&abandoned.messages, out)?;
    }
    Ok(())
}

fn get_progress(b: &mut Bytes) -> Get<FlowProgress> {
    Ok(FlowProgress {
        label: get_u32(b)?,
        attachment: get_u32(b)?,
        routed: get_u64(b)?,
        declined: get_list(b, FLOW_GROUPS_MAX, |b| {
            Ok(DeclinedRange {
                reason: get_reason(b)?,
                messages: get_set(b)?,
            })
        })?,
        settled: get_list(b, FLOW_GROUPS_MAX, |b| Ok((get_group_id(b)?, get_set(b)?)))?,
        abandoned: get_list(b, FLOW_GROUPS_MAX, |b| {
            Ok(AbandonedRange {
                group: get_group_id(b)?,
                reason: get_reason(b)?,
                messages: get_set(b)?,
            })
        })?,
    })
}

const fn reason_byte(reason: AbandonReason) -> u8 {
    match reason {
        AbandonReason::NoSubscriber => 1,
        AbandonReason::InstanceLost => 2,
        AbandonReason::InstanceStalled => 3,
        AbandonReason::Forbidden => 4,
        AbandonReason::TooDeep => 5,
    }
}

fn get_reason(b: &mut Bytes) -> Get<AbandonReason> {
    match get_u8(b)? {
        1 => Ok(AbandonReason::NoSubscriber),
        2 => Ok(AbandonReason::InstanceLost),
        3 => Ok(AbandonReason::InstanceStalled),
        4 => Ok(AbandonReason::Forbidden),
        5 => Ok(AbandonReason::TooDeep),
        other => Err(WireError::Unknown(other)),
    }
}

fn put_resend(it: &ResendMessage, out: &mut Vec<u8>) -> Put {
    begin(0x2a, it.label, out);
    let request = &it.request;
    out.put_u32(it.attachment);
    out.put_u32(request.group.0);
    out.put_u32(request.token);
    put_optional(request.from, out);
    out.put_u64(request.bytes);
    put_set(&request.ranges, out)
}

fn get_resend(b: &mut Bytes) -> Get<ResendMessage> {
    Ok(ResendMessage {
        label: get_u32(b)?,
        attachment: get_u32(b)?,
        request: ResendRequest {
            group: get_group_id(b)?,
            token: get_u32(b)?,
            from: get_optional(b)?,
            bytes: get_u64(b)?,
            ranges: get_set(b)?,
        },
    })
}

fn put_binding(it: &RouteBinding, out: &mut Vec<u8>) -> Put {
    begin(0x30, it.label, out);
    put_epoch(it.epoch, out);
    out.put_slice(&it.flow.source);
    out.put_u64(it.flow.process);
    out.put_u32(it.flow.tag.0);
    put_option(it.flow.target.as_deref(), out)?;
    out.put_u32(it.group.0);
    out.put_u8(it.level as u8);
    out.put_u64(it.instance.0);
    out.put_slice(&it.home);
    put_text(&it.name, out)?;
    out.put_u8(it.hops_left);
    Ok(())
}

fn get_binding(b: &mut Bytes) -> Get<RouteBinding> {
    Ok(RouteBinding {
        label: get_u32(b)?,
        epoch: get_epoch(b)?,
        flow: FlowId {
            source: get_node(b)?,
            process: get_u64(b)?,
            tag: Tag(get_u32(b)?),
            target: get_option(b)?,
        },
        group: get_group_id(b)?,
        level: get_level(b)?,
        instance: InstanceId(get_u64(b)?),
        home: get_node(b)?,
        name: get_text(b)?,
        hops_left: get_u8(b)?,
    })
}

fn put_stalled(it: &StalledMessage, out: &mut Vec<u8>) -> Put {
    begin(0x34, it.label, out);
    out.put_u32(it.tag.0);
    out.put_slice(&it.source);
    out.put_u64(it.messages);
    out.put_u64(it.millis);
    Ok(())
}

fn get_stalled(b: &mut Bytes) -> Get<StalledMessage> {
    Ok(StalledMessage {
        label: get_u32(b)?,
        tag: Tag(get_u32(b)?),
        source: get_node(b)?,
        messages: get_u64(b)?,
        millis: get_u64(b)?,
    })
}

fn put_report(it: &ReportMessage, out: &mut Vec<u8>) -> Put {
    begin(0x38, it.label, out);
    let report = &it.report;
    out.put_u8(match report.kind {
        ReportKind::News => 0,
        ReportKind::Part => 1,
        ReportKind::Answer => 2,
    });
    out.put_u8(u8::from(it.is_leaving));
    put_epoch(report.epoch, out);
    out.put_u64(report.stamp);
    out.put_u64(report.progress);
    out.put_u64(report.end);
    put_set(&report.processed, out)?;
    put_set(&report.held, out)
}

fn get_report(b: &mut Bytes) -> Get<ReportMessage> {
    let label = get_u32(b)?;
    let kind = match get_u8(b)? {
        0 => ReportKind::News,
        1 => ReportKind::Part,
        2 => ReportKind::Answer,
        other => return Err(WireError::Unknown(other)),
    };
    Ok(ReportMessage {
        label,
        is_leaving: get_bool(b)?,
        report: ReceivingReport {
            kind,
            epoch: get_epoch(b)?,
            stamp: get_u64(b)?,
            progress: get_u64(b)?,
            end: get_u64(b)?,
            processed: get_set(b)?,
            held: get_set(b)?,
        },
    })
}

fn put_epoch(epoch: RouteEpoch, out: &mut Vec<u8>) {
    out.put_u32(epoch.attachment);
    out.put_u32(epoch.route);
}

fn get_epoch(b: &mut Bytes) -> Get<RouteEpoch> {
    Ok(RouteEpoch {
        attachment: get_u32(b)?,
        route: get_u32(b)?,
    })
}

fn get_group_id(b: &mut Bytes) -> Get<GroupId> {
    get_u32(b).map(GroupId)
}

fn get_level(b: &mut Bytes) -> Get<SettlementLevel> {
    match get_u8(b)? {
        1 => Ok(SettlementLevel::Accepted),
        2 => Ok(SettlementLevel::Received),
        3 => Ok(SettlementLevel::Processed),
        other => Err(WireError::Unknown(other)),
    }
}

fn get_loss_reason(b: &mut Bytes) -> Get<RouteLossReason> {
    match get_u8(b)? {
        1 => Ok(RouteLossReason::NoInstance),
        2 => Ok(RouteLossReason::NoPath),
        3 => Ok(RouteLossReason::NoRoom),
        4 => Ok(RouteLossReason::Refused),
        other => Err(WireError::Unknown(other)),
    }
}

fn put_optional(number: Option<u64>, out: &mut Vec<u8>) {
    out.put_u8(u8::from(number.is_some()));
    if let Some(number) = number {
        out.put_u64(number);
    }
}

fn get_optional(b: &mut Bytes) -> Get<Option<u64>> {
    match get_bool(b)? {
        true => get_u64(b).map(Some),
        false => Ok(None),
    }
}

fn put_set(set: &SequenceSet, out: &mut Vec<u8>) -> Put {
    put_len(set.ranges().count(), SET_RANGES_MAX, out)?;
    for range in set.ranges() {
        out.put_u64(range.start);
        out.put_u64(range.end - range.start);
    }
    Ok(())
}

/// Reads a set in its only encoding: ascending ranges, of which no two touch.
fn get_set(b: &mut Bytes) -> Get<SequenceSet> {
    let mut set = SequenceSet::default();
    let mut end = None;
    let ranges = get_list(b, SET_RANGES_MAX, |b| {
        let (start, len) = (get_u64(b)?, get_u64(b)?);
        let is_ascending = end.is_none_or(|end| start > end);
        let range_end = start.checked_add(len).filter(|_| len > 0 && is_ascending);
        end = Some(range_end.ok_or(WireError::Redundant)?);
        Ok(start..end.unwrap_or(start))
    })?;
    ranges.into_iter().for_each(|range| set.insert(range));
    Ok(set)
}
