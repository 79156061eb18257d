//! Answers the requests of operators: lists in pages.
//!
//! A page takes a bounded time on the worker, whatever the zipper knows; a page may therefore be empty
//! although others follow.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use crossbeam_channel::{Receiver, bounded, never};
use selvedge_client::tag::Tag;
use selvedge_client::wire::{
    AdminQuery, AdminReply, AdminRequest, AdminRow, AdminValue, DropPolicy, NodeKey, PAGE_ROWS_MAX,
    Role, TEXTS_MAX, VERSION,
};
use selvedge_hub::{Instant, SendBacklog};

use super::Broker;
use super::peers::KnownPeer;
use super::slow::SlowSummary;
use crate::permissions::TagSet;
use crate::reload::ReloadRequest;
use crate::router::{FunctionSpec, Presence, RoutePosition, RouteView};
use crate::stats::add;

/// A page ends with the row that exceeds this length. The longest row has 64 names of 1 KiB, so an answer
/// stays below the maximum of the protocol.
const PAGE_LEN: usize = 56 * 1024;

/// The peers of which one page of the backlog is selected.
const SCANNED_MAX: usize = 4 * PAGE_ROWS_MAX;

/// Why a request is refused, for programs.
const INVALID: u16 = 400;
const FORBIDDEN: u16 = 403;
const UNKNOWN: u16 = 404;
const BUSY: u16 = 429;
const UNSUPPORTED: u16 = 501;

/// The rows of a page, and the position of the next one.
type AdminPage = (Vec<AdminRow>, Option<Bytes>);

impl Broker {
    /// Answers a request of a peer that may list these tags.
    pub(super) fn answer(&self, request: &AdminRequest, admin: &TagSet) -> AdminReply {
        let id = request.id;
        let refused = |code, message: &str| AdminReply::Refused {
            id,
            code,
            message: message.into(),
        };
        let Some(query) = AdminQuery::from_byte(request.query) else {
            return refused(UNKNOWN, "this zipper does not know the query; upgrade it");
        };
        let is_by_tag = matches!(
            query,
            AdminQuery::Functions | AdminQuery::Tags | AdminQuery::Routes
        );
        if admin.is_empty() || !is_by_tag && !admin.is_all() {
            add(&self.counters.forbidden_requests, 1);
            return refused(
                FORBIDDEN,
                match is_by_tag {
                    true => "this needs the permission admin",
                    false => "this needs the permission admin for all tags",
                },
            );
        }
        let page = match is_by_tag {
            true => self.page_of_tags(query, &request.after, admin),
            false => self.page_of_peers(query, &request.after),
        };
        match page {
            Some((rows, next)) => AdminReply::Page { id, rows, next },
            None => refused(INVALID, "the position in the list is invalid"),
        }
    }

    /// The requests of operators to read the configuration again, from now on.
    pub(crate) fn reload_requests(&self) -> Receiver<ReloadRequest> {
        // One at a time; the receiver of an earlier call receives them.
        let (sender, requests) = bounded(1);
        match self.reloads.set(sender) {
            Ok(()) => requests,
            Err(_) => never(),
        }
    }

    /// Passes a request on, which is answered later; or returns why it is refused.
    pub(super) fn request_reload(&self, request: ReloadRequest) -> Option<AdminReply> {
        let id = request.id();
        let refused = |code, message: &str| AdminReply::Refused {
            id,
            code,
            message: message.into(),
        };
        let sent = match self.reloads.get() {
            Some(reloads) => reloads.try_send(request),
            None => {
                return Some(refused(
                    UNSUPPORTED,
                    "this zipper has no configuration to reload",
                ));
            }
        };
        sent.err()
            .map(|_| refused(BUSY, "another reload is in progress"))
    }

    /// A page of peers; none if the position is invalid.
    fn page_of_peers(&self, query: AdminQuery, after: &Bytes) -> Option<AdminPage> {
        let now = self.settings.clock.now();
        match query {
            AdminQuery::Zipper => return Some((vec![self.own_row(now)], None)),
            AdminQuery::Slow => return Some((self.slow_rows(now), None)),
            _ => {}
        }
        let max = match query {
            AdminQuery::Backlog => SCANNED_MAX,
            _ => PAGE_ROWS_MAX,
        };
        let views = self.views(node_position(after)?, max);
        let rows = views.iter().map(|it| {
            let is_zipper = it.role == Some(Role::Zipper);
            let row = match query {
                AdminQuery::Clients if !is_zipper => Some(peer_row(it, now)),
                AdminQuery::Neighbours if is_zipper => Some(self.neighbour_row(it, now)),
                AdminQuery::Backlog => backlog_row(it, now),
                _ => None,
            };
            (node_bytes(&it.node), row)
        });
        Some(paged(max, rows))
    }

    /// A page of functions, tags or routes with some tags; none if the position is invalid.
    fn page_of_tags(&self, query: AdminQuery, after: &Bytes, admin: &TagSet) -> Option<AdminPage> {
        let max = PAGE_ROWS_MAX;
        let shown = |tags: &[Tag]| -> Vec<Tag> {
            let tags = tags.iter().copied();
            tags.filter(|tag| admin.contains(*tag)).collect()
        };
        let state = self.lock();
        let router = &state.router;
        Some(match query {
            AdminQuery::Functions => {
                let functions = router.functions_after(node_position(after)?, max);
                let rows = functions.map(|(node, function, presence)| {
                    let tags = shown(&function.tags);
                    let row = (!tags.is_empty()).then(|| {
                        let known = state.known.get(&node);
                        let dropped = known.map_or(0, |it| it.dropped.load(Ordering::Relaxed));
                        let mut row = function_row(node, function, tags, presence);
                        row.push("dropped", AdminValue::Number(dropped));
                        row
                    });
                    (node_bytes(&node), row)
                });
                paged(max, rows)
            }
            AdminQuery::Tags => {
                let tags = router.tags_after(tag_position(after)?, max);
                let rows = tags.map(|(tag, names)| {
                    let row = admin.contains(tag).then(|| tag_row(tag, &names));
                    (tag_cursor(tag), row)
                });
                paged(max, rows)
            }
            _ => {
                let after = route_position(after)?;
                let after = after.as_ref().map(OwnedRoutePosition::as_position);
                let routes = router.routes_after(after, max);
                let rows = routes.map(|route| {
                    let tags = shown(&route.entry.tags);
                    let row = (!tags.is_empty()).then(|| route_row(&route, tags));
                    (route_cursor(route.position()), row)
                });
                paged(max, rows)
            }
        })
    }

    fn own_row(&self, now: Instant) -> AdminRow {
        let (mut clients, mut neighbours, mut away) = (0, 0, 0);
        let (functions, routes, tags) = {
            let state = self.lock();
            for known in state.known.values() {
                match known.role {
                    Some(Role::Zipper) => neighbours += 1,
                    _ => clients += 1,
                }
                away += u64::from(known.away_since.is_some());
            }
            state.router.counts()
        };
        let stats = self.counters.stats();
        let mut row = RowBuilder::default();
        row.text("name", &self.settings.name)
            .node("node", self.settings.node)
            .text("version", env!("CARGO_PKG_VERSION"))
            .number("protocol", u64::from(VERSION))
            .number("uptime_ms", millis(self.liveness.uptime(now)))
            .number("clients", clients)
            .number("neighbours", neighbours)
            .number("away", away)
            .number("functions", functions as u64)
            .number("routes", routes as u64)
            .number("tags", tags as u64);
        for (name, count) in stats.named() {
            row.number(name, count);
        }
        row.0
    }

    /// The functions that hold sources back, as many as one page has room for.
    fn slow_rows(&self, now: Instant) -> Vec<AdminRow> {
        let (mut rows, mut len) = (Vec::new(), 0);
        for slow in self.slow.by_consumer().into_iter().take(PAGE_ROWS_MAX) {
            let row = slow_row(&slow, now);
            len += row.encoded_len();
            if len > PAGE_LEN {
                break;
            }
            rows.push(row);
        }
        rows
    }

    fn neighbour_row(&self, peer: &KnownPeer, now: Instant) -> AdminRow {
        let mut row = RowBuilder(peer_row(peer, now));
        let reached = self.lock().router.reached_by(&peer.node);
        row.number("functions", reached as u64);
        row.0
    }
}

/// Takes rows while the page has room; each has the position behind it. Items without a row are skipped.
/// If there are as many items as were asked for, others may follow.
fn paged(asked: usize, items: impl Iterator<Item = (Bytes, Option<AdminRow>)>) -> AdminPage {
    let (mut rows, mut len, mut seen) = (Vec::new(), 0, 0);
    for (position, row) in items {
        seen += 1;
        if let Some(row) = row {
            len += row.encoded_len();
            rows.push(row);
        }
        if seen == asked || len > PAGE_LEN || rows.len() == PAGE_ROWS_MAX {
            return (rows, Some(position));
        }
    }
    (rows, None)
}

fn peer_row(peer: &KnownPeer, now: Instant) -> AdminRow {
    let transport = peer.endpoint.transport();
    let remote = transport.as_ref().and_then(|it| it.remote.as_ref());
    let mut row = RowBuilder::default();
    row.text("name", &peer.name)
        .text("role", role(peer.role))
        .node("node", peer.node)
        .flag("connected", peer.away_since.is_none())
        .text(
            "address",
            &remote.map_or_else(String::new, ToString::to_string),
        )
        .number(
            "since_ms",
            millis(now.saturating_duration_since(peer.since)),
        )
        .backlog(peer.endpoint.send_backlog())
        .number("dropped", peer.dropped);
    if let Some(since) = peer.away_since {
        row.number("away_ms", millis(now.saturating_duration_since(since)));
    }
    row.0
}

fn slow_row(slow: &SlowSummary, now: Instant) -> AdminRow {
    let consumer = &slow.consumer;
    let mut row = RowBuilder::default();
    row.text("name", &consumer.name)
        .tags("tag", vec![slow.tag])
        .text("state", consumer.state.name())
        .number(
            "since_ms",
            millis(now.saturating_duration_since(consumer.since)),
        )
        .number("messages", consumer.messages)
        .number("sources", slow.sources)
        .node("source", slow.source)
        .node("home", consumer.home);
    if let Some(client) = consumer.client {
        row.node("client", client);
    }
    row.0
}

fn backlog_row(peer: &KnownPeer, now: Instant) -> Option<AdminRow> {
    let backlog = peer.endpoint.send_backlog();
    if backlog == SendBacklog::default() {
        return None;
    }
    let away = peer
        .away_since
        .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
    let mut row = RowBuilder::default();
    row.text("name", &peer.name)
        .text("role", role(peer.role))
        .node("node", peer.node)
        .flag("connected", peer.away_since.is_none())
        .backlog(backlog)
        .number("away_ms", millis(away));
    Some(row.0)
}

fn function_row(
    node: NodeKey,
    function: &FunctionSpec,
    tags: Vec<Tag>,
    presence: Presence,
) -> AdminRow {
    let mut row = RowBuilder::default();
    row.text("name", &function.name)
        .node("node", node)
        .tags("tags", tags)
        .text("target", function.target.as_deref().unwrap_or_default())
        .text("policy", &function.policy.to_string())
        .text("when_slow", &when_slow(function.drops))
        .flag("connected", presence == Presence::Up);
    row.0
}

fn tag_row(tag: Tag, names: &std::collections::BTreeSet<&str>) -> AdminRow {
    let mut row = RowBuilder::default();
    row.tags("tag", vec![tag])
        .number("functions", names.len() as u64);
    let names = names.iter().take(TEXTS_MAX).map(|&name| name.to_owned());
    row.0.push("names", AdminValue::Texts(names.collect()));
    row.0
}

fn route_row(route: &RouteView<'_>, tags: Vec<Tag>) -> AdminRow {
    let (name, target, home) = route.position();
    let mut row = RowBuilder::default();
    row.text("name", name)
        .tags("tags", tags)
        .text("target", target.unwrap_or_default())
        .text("policy", &route.entry.policy.to_string())
        .text("when_slow", &when_slow(route.entry.drops))
        .node("home", home)
        .node("via", route.via)
        .number("hops", route.entry.path.len() as u64);
    row.0
}

fn when_slow(drops: Option<DropPolicy>) -> String {
    drops.map_or_else(|| "hold".into(), |policy| policy.to_string())
}

const fn role(role: Option<Role>) -> &'static str {
    match role {
        Some(Role::Source) => "source",
        Some(Role::StreamFunction) => "function",
        Some(Role::Zipper) => "zipper",
        None => "introducing",
    }
}

const fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// Appends fields to a row.
#[derive(Default)]
struct RowBuilder(AdminRow);

impl RowBuilder {
    fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.0.push(name, AdminValue::Number(value));
        self
    }

    fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.0.push(name, AdminValue::Text(value.to_owned()));
        self
    }

    fn flag(&mut self, name: &str, value: bool) -> &mut Self {
        self.0.push(name, AdminValue::Flag(value));
        self
    }

    fn node(&mut self, name: &str, value: NodeKey) -> &mut Self {
        self.0.push(name, AdminValue::Node(value));
        self
    }

    fn tags(&mut self, name: &str, value: Vec<Tag>) -> &mut Self {
        self.0.push(name, AdminValue::Tags(value));
        self
    }

    fn backlog(&mut self, backlog: SendBacklog) -> &mut Self {
        self.number("queued_bytes", backlog.queued)
            .number("unacknowledged_bytes", backlog.in_flight)
    }
}

/// A position in the list of routes, from a request.
struct OwnedRoutePosition {
    name: String,
    target: Option<String>,
    home: NodeKey,
}

impl OwnedRoutePosition {
    fn as_position(&self) -> RoutePosition<'_> {
        (&self.name, self.target.as_deref(), self.home)
    }
}

fn node_bytes(node: &NodeKey) -> Bytes {
    Bytes::copy_from_slice(node)
}

/// A key; none for the start of the list. Fails if the bytes are neither.
fn node_position(cursor: &Bytes) -> Option<Option<NodeKey>> {
    match cursor.is_empty() {
        true => Some(None),
        false => cursor[..].try_into().ok().map(Some),
    }
}

fn tag_cursor(tag: Tag) -> Bytes {
    Bytes::copy_from_slice(&tag.0.to_be_bytes())
}

fn tag_position(cursor: &Bytes) -> Option<Option<Tag>> {
    match cursor.is_empty() {
        true => Some(None),
        false => {
            let tag = cursor[..].try_into().ok()?;
            Some(Some(Tag(u32::from_be_bytes(tag))))
        }
    }
}

/// `home 32B | name: n 2B, n bytes | target?`
fn route_cursor((name, target, home): RoutePosition<'_>) -> Bytes {
    let mut out = Vec::with_capacity(64);
    out.put_slice(&home);
    out.put_u16(name.len() as u16);
    out.put_slice(name.as_bytes());
    out.put_u8(u8::from(target.is_some()));
    out.put_slice(target.unwrap_or_default().as_bytes());
    out.into()
}

fn route_position(cursor: &Bytes) -> Option<Option<OwnedRoutePosition>> {
    if cursor.is_empty() {
        return Some(None);
    }
    let mut rest = cursor.clone();
    let mut home = [0; 32];
    rest.try_copy_to_slice(&mut home).ok()?;
    let len = usize::from(rest.try_get_u16().ok()?);
    if rest.remaining() < len {
        return None;
    }
    let name = String::from_utf8(rest.split_to(len).into()).ok()?;
    let has_target = rest.try_get_u8().ok()? == 1;
    let target = String::from_utf8(rest.into()).ok()?;
    Some(Some(OwnedRoutePosition {
        name,
        target: has_target.then_some(target),
        home,
    }))
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
