//! The metrics of a zipper in the Prometheus text format. `zipper/METRICS.md` documents them.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, MetricEncoder, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use selvedge_client::wire::{Role, VERSION};
use selvedge_hub::{NodeId, SendBacklog};
use selvedge_zipper::{PeerSnapshot, ZipperStats};

use crate::monitoring::process::ProcessSample;

pub(super) use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

/// The most pairs of role and name that are shown, those with the largest backlog: clients choose their
/// names freely. The rest is one series with the label that OpenTelemetry defines for this.
const NAMES_MAX: usize = 1000;
const OVERFLOW: (&str, &str) = ("otel_metric_overflow", "true");

/// The state of a zipper at one time.
#[derive(Debug)]
pub(super) struct Exposition {
    pub(super) name: String,
    pub(super) node: NodeId,
    pub(super) clients_max: usize,
    pub(super) is_ready: bool,
    pub(super) stats: ZipperStats,
    pub(super) peers: Vec<PeerSnapshot>,
    pub(super) held_flows: usize,
    pub(super) process: ProcessSample,
}

/// The backlog of the peers with one role and name.
#[derive(Debug, Default, Clone, Copy)]
struct NamedBacklog {
    connected: u64,
    backlog: SendBacklog,
    dropped: u64,
}

impl NamedBacklog {
    const fn add(&mut self, more: &Self) {
        self.connected += more.connected;
        self.backlog.queued += more.backlog.queued;
        self.backlog.in_flight += more.backlog.in_flight;
        self.dropped += more.dropped;
    }

    const fn rank(&self) -> (u64, u64) {
        let SendBacklog { queued, in_flight } = self.backlog;
        (queued + in_flight, self.connected)
    }
}

impl Exposition {
    /// The metrics as text.
    pub(super) fn encode(self) -> Result<String, fmt::Error> {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register_collector(Box::new(self));
        prometheus_text::encode(&mut text, &registry)?;
        Ok(text)
    }

    fn encode_node(&self, to: &mut Families<'_>) -> fmt::Result {
        to.gauge(
            "selvedge_zipper_build_info",
            "The versions of the program and of its protocol; always 1",
            |mut family| {
                let protocol = VERSION.to_string();
                let version = ("version", env!("CARGO_PKG_VERSION"));
                family.put(&[version, ("protocol", &protocol)], 1)
            },
        )?;
        to.gauge(
            "selvedge_zipper_node_info",
            "The name and the key of the zipper; always 1",
            |mut family| {
                let node = self.node.to_string();
                family.put(&[("name", &self.name), ("node", &node)], 1)
            },
        )?;
        to.gauge(
            "selvedge_zipper_ready",
            "Whether the zipper admits clients: 1, or 0 while it drains",
            |mut family| family.put(&[], u64::from(self.is_ready)),
        )
    }

    fn encode_messages(&self, to: &mut Families<'_>) -> fmt::Result {
        let stats = &self.stats;
        to.counter(
            "selvedge_zipper_received_messages_total",
            "Messages received, by the role of the sender",
            "peer_role",
            &[("client", stats.received), ("zipper", stats.relayed)],
        )?;
        to.counter(
            "selvedge_zipper_sent_messages_total",
            "Copies of messages placed into send buffers, by the role of the recipient",
            "peer_role",
            &[("function", stats.delivered), ("zipper", stats.forwarded)],
        )?;
        to.counter(
            "selvedge_zipper_dropped_messages_total",
            "Messages or copies that were not delivered, by reason",
            "error_type",
            &[
                ("unobserved", stats.unobserved),
                ("unreachable", stats.unreachable),
                ("no_room", stats.no_room),
                ("hop_limit", stats.hop_limit),
                ("malformed", stats.malformed),
                ("forbidden", stats.forbidden),
                ("too_deep", stats.too_deep),
                ("undelivered", stats.undelivered),
            ],
        )?;
        to.counter(
            "selvedge_zipper_discarded_messages_total",
            "Messages of flows that the source sends again, by reason",
            "error_type",
            &[("no_route", stats.discarded)],
        )?;
        to.counter(
            "selvedge_zipper_permission_violations_total",
            "Messages, observed tags and requests that were refused for want of a permission",
            "permission",
            &[
                ("write", stats.forbidden),
                ("observe", stats.forbidden_tags),
                ("admin", stats.forbidden_requests),
            ],
        )
    }

    fn encode_slow(&self, to: &mut Families<'_>) -> fmt::Result {
        to.gauge(
            "selvedge_zipper_held_back_flows",
            "Flows of sources that wait for slow functions",
            |mut family| family.put(&[], self.held_flows as u64),
        )?;
        to.counter(
            "selvedge_zipper_disconnected_functions_total",
            "Functions that were disconnected, by reason",
            "error_type",
            &[("stalled", self.stats.stalled)],
        )
    }

    fn encode_connections(&self, to: &mut Families<'_>) -> fmt::Result {
        let mut counts = BTreeMap::<(&str, &str), u64>::new();
        for peer in &self.peers {
            let state = match peer.is_connected {
                true => "connected",
                false => "away",
            };
            *counts.entry((role(peer), state)).or_default() += 1;
        }
        to.gauge(
            "selvedge_zipper_peers",
            "Clients and zippers, by role and by whether they are connected or awaited",
            |mut family| {
                for ((role, state), count) in counts {
                    family.put(&[("role", role), ("state", state)], count)?;
                }
                Ok(())
            },
        )?;
        to.gauge(
            "selvedge_zipper_clients_limit",
            "The largest number of clients at once",
            |mut family| family.put(&[], self.clients_max as u64),
        )
    }

    /// By role and name, since functions of one name share their work.
    fn encode_backlog(&self, to: &mut Families<'_>) -> fmt::Result {
        let mut named = BTreeMap::<(&str, &str), NamedBacklog>::new();
        for peer in self.peers.iter().filter(|peer| peer.role.is_some()) {
            let entry = named.entry((role(peer), &peer.name)).or_default();
            entry.add(&NamedBacklog {
                connected: u64::from(peer.is_connected),
                backlog: peer.backlog,
                dropped: peer.dropped,
            });
        }
        let mut named: Vec<_> = named.into_iter().collect();
        // Stable: equal ranks stay in the order of their names.
        named.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.rank()));
        let (shown, rest) = named.split_at(named.len().min(NAMES_MAX));
        let mut overflow = NamedBacklog::default();
        for (_, entry) in rest {
            overflow.add(entry);
        }
        type Value = fn(&NamedBacklog) -> u64;
        let families: [(&str, &str, Value); 4] = [
            (
                "selvedge_zipper_peer_connections",
                "Connected peers, by role and name",
                |it| it.connected,
            ),
            (
                "selvedge_zipper_peer_queued_bytes",
                "Bytes accepted for peers and not sent yet, by role and name",
                |it| it.backlog.queued,
            ),
            (
                "selvedge_zipper_peer_unacknowledged_bytes",
                "Bytes sent to peers and not acknowledged, by role and name",
                |it| it.backlog.in_flight,
            ),
            (
                "selvedge_zipper_peer_dropped_messages",
                "Messages dropped since the peers connected, because they had no room, by role and name",
                |it| it.dropped,
            ),
        ];
        for (metric, help, value) in families {
            to.gauge(metric, help, |mut family| {
                for ((role, name), entry) in shown {
                    family.put(&[("role", role), ("name", name)], value(entry))?;
                }
                match rest.is_empty() {
                    true => Ok(()),
                    false => family.put(&[OVERFLOW], value(&overflow)),
                }
            })?;
        }
        Ok(())
    }

    fn encode_process(&self, to: &mut Families<'_>) -> fmt::Result {
        let process = &self.process;
        to.gauge(
            "process_uptime_seconds",
            "Time since the zipper began to serve",
            |family| family.put_float(process.uptime.as_secs_f64()),
        )?;
        to.gauge(
            "process_start_time_seconds",
            "When the zipper began to serve, in seconds since 1970",
            |family| family.put_float(process.began_at.as_secs_f64()),
        )?;
        if let Some(bytes) = process.resident_bytes {
            to.gauge(
                "process_resident_memory_bytes",
                "Resident memory of the process",
                |mut family| family.put(&[], bytes),
            )?;
        }
        if let Some(files) = process.open_files {
            to.gauge(
                "process_open_fds",
                "Open file descriptors of the process",
                |mut family| family.put(&[], files),
            )?;
        }
        Ok(())
    }
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut Families(encoder);
        self.encode_node(to)?;
        self.encode_messages(to)?;
        self.encode_slow(to)?;
        self.encode_connections(to)?;
        self.encode_backlog(to)?;
        self.encode_process(to)
    }
}

/// The role of a peer as a label.
const fn role(peer: &PeerSnapshot) -> &'static str {
    match peer.role {
        Some(Role::Source) => "source",
        Some(Role::StreamFunction) => "function",
        Some(Role::Zipper) => "zipper",
        None => "introducing",
    }
}

/// Encodes families of metrics.
struct Families<'a>(DescriptorEncoder<'a>);

/// Encodes the series of one gauge.
struct GaugeFamily<'a>(MetricEncoder<'a>);

impl Families<'_> {
    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        series: impl FnOnce(GaugeFamily<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        series(GaugeFamily(encoder))
    }

    /// A counter with one label. The encoder appends `_total`, which the name has already: a name is
    /// found as it is documented.
    fn counter(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        series: &[(&str, u64)],
    ) -> fmt::Result {
        let name = name.strip_suffix("_total").unwrap_or(name);
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in series {
            ConstCounter::new(*count).encode(family.encode_family(&[(label, *value)])?)?;
        }
        Ok(())
    }
}

impl GaugeFamily<'_> {
    fn put(&mut self, labels: &[(&str, &str)], value: u64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_family(&labels)?)
    }

    fn put_float(self, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    const PAGE: &str = include_str!("../../METRICS.md");

    fn peer(role: Option<Role>, name: &str, queued: u64) -> PeerSnapshot {
        let in_flight = 1;
        PeerSnapshot {
            node: NodeId::new([1; 32]),
            role,
            name: name.into(),
            is_connected: true,
            backlog: SendBacklog { queued, in_flight },
            dropped: 2,
        }
    }

    fn exposition(peers: Vec<PeerSnapshot>) -> String {
        let exposition = Exposition {
            name: "edge".into(),
            node: NodeId::new([0xab; 32]),
            clients_max: 1024,
            is_ready: true,
            stats: ZipperStats::default(),
            peers,
            held_flows: 2,
            process: ProcessSample {
                uptime: Duration::from_millis(1500),
                began_at: Duration::from_secs(1_767_225_600),
                resident_bytes: Some(4096),
                open_files: Some(9),
            },
        };
        exposition.encode().expect("a string takes everything")
    }

    /// The names of the families, and their types.
    fn families(text: &str) -> BTreeSet<(&str, &str)> {
        let types = text.lines().filter_map(|it| it.strip_prefix("# TYPE "));
        types.filter_map(|it| it.split_once(' ')).collect()
    }

    #[test]
    fn every_metric_is_documented_and_every_documented_one_exists() {
        let text = exposition(vec![peer(Some(Role::Source), "sensor", 5)]);
        // | name | type | ..
        let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| "));
        let rows = rows.filter_map(|row| row.split_once(" | "));
        let rows = rows.filter_map(|(name, rest)| Some((name, rest.split(' ').next()?)));
        let documented = rows.filter(|(_, kind)| ["gauge", "counter"].contains(kind));
        assert_eq!(families(&text), documented.collect());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, _) = line.rsplit_once(' ').expect("a value");
            let labels = series.split_once('{').map_or("", |(_, labels)| labels);
            for label in labels
                .trim_end_matches('}')
                .split(',')
                .filter(|it| !it.is_empty())
            {
                let (label, _) = label.split_once('=').expect("a value");
                assert!(PAGE.contains(&format!("`{label}`")), "{label} in {line}");
            }
        }
    }

    #[test]
    fn peers_with_one_role_and_name_are_one_series() {
        let function = |name, queued| peer(Some(Role::StreamFunction), name, queued);
        let stranger = peer(None, "", 7);
        let text = exposition(vec![
            function("a", 5),
            function("a", 3),
            function("b", 0),
            stranger,
        ]);
        for line in [
            "selvedge_zipper_peer_queued_bytes{role=\"function\",name=\"a\"} 8",
            "selvedge_zipper_peer_unacknowledged_bytes{role=\"function\",name=\"a\"} 2",
            "selvedge_zipper_peer_connections{role=\"function\",name=\"b\"} 1",
            "selvedge_zipper_peers{role=\"function\",state=\"connected\"} 3",
            "selvedge_zipper_peers{role=\"introducing\",state=\"connected\"} 1",
            "selvedge_zipper_dropped_messages_total{error_type=\"hop_limit\"} 0",
            "process_resident_memory_bytes 4096",
            "process_uptime_seconds 1.5",
        ] {
            assert!(
                text.lines().any(|it| it == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn names_that_clients_choose_cannot_forge_lines_or_exhaust_the_page() {
        let forged = "a\"} 1\nprocess_open_fds 7\n\\";
        let text = exposition(vec![peer(Some(Role::Source), forged, 1)]);
        assert!(
            !text.lines().any(|line| line == "process_open_fds 7"),
            "{text}"
        );
        let named = |at: usize| peer(Some(Role::Source), &at.to_string(), at as u64);
        let text = exposition((0..NAMES_MAX + 2).map(named).collect());
        let prefix = "selvedge_zipper_peer_queued_bytes{";
        let series = text.lines().filter(|line| line.starts_with(prefix));
        assert_eq!(series.count(), NAMES_MAX + 1);
        // The two with the smallest backlog are the rest.
        let rest = format!("{prefix}otel_metric_overflow=\"true\"}} 1");
        assert!(text.lines().any(|line| line == rest), "{text}");
    }
}
