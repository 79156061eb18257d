//! The compared programs: groups that do the same work, each program made of processes.

use std::time::Duration;

use Part::{Nats, Own};

use crate::job::Job;
use crate::nats_server::NatsRole;
use crate::nats_server::NatsRole::{Alone, Hub, Leaf};
use crate::ours::{self, Link};
use crate::raw::SPIN;
use crate::zipper::{self, Wait};
#[cfg(feature = "peers")]
use crate::{nats_async, zenoh_peer};
use crate::{nats_lean, quic, raw};

/// The work of one process.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    Own(fn(&'static Job)),
    /// A NATS server.
    Nats(NatsRole),
}

/// One program of a group.
pub(crate) struct Program {
    /// Its name in the tables.
    pub(crate) name: &'static str,
    /// In the order in which they start: each receives the addresses of those before it.
    pub(crate) parts: &'static [Part],
}

/// The counted unit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    RoundTrip,
    Message,
    Gigabyte,
}

/// Programs that do the same work and take turns.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: Unit,
    /// The lengths of messages, in bytes.
    pub(crate) sizes: &'static [usize],
    pub(crate) programs: &'static [Program],
}

impl Group {
    /// Finds by name.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        GROUPS.iter().find(|group| group.name == name)
    }

    /// Finds by name.
    pub(crate) fn program(&self, name: &str) -> Option<&'static Program> {
        self.programs.iter().find(|program| program.name == name)
    }
}

/// Subscribers of a fan-out.
const SUBSCRIBERS: usize = 64;

const PLAIN: Link = Link::new("tcp+plain");
const TLS: Link = Link::new("tcp");
const QUIC: Link = Link::new("quic");
const QUIC_1452: Link = QUIC.mtu_max(1452);
const PLAIN_BLOCKING: Link = PLAIN.blocking();
const QUIC_BLOCKING: Link = QUIC.blocking();

const fn program(name: &'static str, parts: &'static [Part]) -> Program {
    Program { name, parts }
}

/// All groups. Rows refer to programs by name.
pub(crate) const GROUPS: &[Group] = &[
    Group {
        name: "rtt",
        title: "round trip, one outstanding",
        unit: Unit::RoundTrip,
        sizes: &[64],
        programs: ROUND_TRIP,
    },
    Group {
        name: "bulk",
        title: "bulk, one way",
        unit: Unit::Gigabyte,
        sizes: &[64 << 10, 1 << 20],
        programs: BULK,
    },
    Group {
        name: "messages",
        title: "messages, one way",
        unit: Unit::Message,
        sizes: &[64, 1 << 10, 8 << 10, 64 << 10],
        programs: MESSAGES,
    },
    Group {
        name: "hop",
        title: "messages through one zipper, router or server",
        unit: Unit::Message,
        sizes: &[64, 1 << 10, 8 << 10],
        programs: HOP,
    },
    Group {
        name: "hop-rtt",
        title: "round trip through one zipper, router or server",
        unit: Unit::RoundTrip,
        sizes: &[64],
        programs: HOP_ROUND_TRIP,
    },
    Group {
        name: "two-hops",
        title: "messages through two zippers, routers or servers",
        unit: Unit::Message,
        sizes: &[64, 1 << 10, 8 << 10],
        programs: TWO_HOPS,
    },
    Group {
        name: "fan-out",
        title: "1 to 64 subscribers through one zipper or server, deliveries",
        unit: Unit::Message,
        sizes: &[1 << 10],
        programs: FAN_OUT,
    },
];

const ROUND_TRIP: &[Program] = &[
    program(
        "raw tcp",
        &[
            Own(|job| raw::echo(job, Duration::ZERO)),
            Own(|job| raw::ask(job, Duration::ZERO)),
        ],
    ),
    program(
        "raw tcp, spin",
        &[
            Own(|job| raw::echo(job, SPIN)),
            Own(|job| raw::ask(job, SPIN)),
        ],
    ),
    program("quinn, spawned", &[Own(quic::echo), Own(quic::ask)]),
    program("quinn, outside", &[Own(quic::echo), Own(quic::ask_outside)]),
    #[cfg(feature = "peers")]
    program(
        "zenoh tcp",
        &[
            Own(|job| zenoh_peer::echo(job, "tcp")),
            Own(|job| zenoh_peer::ask(job, "peer")),
        ],
    ),
    program(
        "ours tcp+plain, inbox",
        &[
            Own(|job| ours::echo_inbox(job, PLAIN_BLOCKING)),
            Own(|job| ours::ask_inbox(job, PLAIN_BLOCKING)),
        ],
    ),
    program(
        "ours tcp+plain, threads",
        &[
            Own(|job| ours::echo_thread(job, PLAIN_BLOCKING)),
            Own(|job| ours::ask_thread(job, PLAIN_BLOCKING)),
        ],
    ),
    program(
        "ours tcp+plain, spin",
        &[
            Own(|job| ours::echo_inbox(job, PLAIN)),
            Own(|job| ours::ask_inbox(job, PLAIN)),
        ],
    ),
    program(
        "ours quic, inbox",
        &[
            Own(|job| ours::echo_inbox(job, QUIC_BLOCKING)),
            Own(|job| ours::ask_inbox(job, QUIC_BLOCKING)),
        ],
    ),
    program(
        "ours quic, threads",
        &[
            Own(|job| ours::echo_thread(job, QUIC_BLOCKING)),
            Own(|job| ours::ask_thread(job, QUIC_BLOCKING)),
        ],
    ),
    program(
        "ours quic, spin",
        &[
            Own(|job| ours::echo_inbox(job, QUIC)),
            Own(|job| ours::ask_inbox(job, QUIC)),
        ],
    ),
];

const BULK: &[Program] = &[
    program("raw tcp", &[Own(raw::drain), Own(raw::pour)]),
    program("quinn", &[Own(quic::drain), Own(quic::pour)]),
    program(
        "ours quic, mtu 1452",
        &[
            Own(|job| ours::count(job, QUIC_1452)),
            Own(|job| ours::flood(job, QUIC_1452)),
        ],
    ),
    program(
        "ours quic",
        &[
            Own(|job| ours::count(job, QUIC)),
            Own(|job| ours::flood(job, QUIC)),
        ],
    ),
    program(
        "ours tcp+plain",
        &[
            Own(|job| ours::count(job, PLAIN)),
            Own(|job| ours::flood(job, PLAIN)),
        ],
    ),
    program(
        "ours tcp",
        &[
            Own(|job| ours::count(job, TLS)),
            Own(|job| ours::flood(job, TLS)),
        ],
    ),
];

const MESSAGES: &[Program] = &[
    program("raw tcp, framed", &[Own(raw::count), Own(raw::flood)]),
    #[cfg(feature = "peers")]
    program(
        "zenoh tcp",
        &[
            Own(|job| zenoh_peer::count(job, "tcp")),
            Own(|job| zenoh_peer::flood(job, "peer")),
        ],
    ),
    #[cfg(feature = "peers")]
    program(
        "zenoh quic",
        &[
            Own(|job| zenoh_peer::count(job, "quic")),
            Own(|job| zenoh_peer::flood(job, "peer")),
        ],
    ),
    program(
        "ours tcp+plain",
        &[
            Own(|job| ours::count(job, PLAIN)),
            Own(|job| ours::flood(job, PLAIN)),
        ],
    ),
    program(
        "ours quic",
        &[
            Own(|job| ours::count(job, QUIC)),
            Own(|job| ours::flood(job, QUIC)),
        ],
    ),
];

const HOP: &[Program] = &[
    #[cfg(feature = "peers")]
    program(
        "zenoh router",
        &[
            Own(|job| zenoh_peer::route(job, "tcp")),
            Own(zenoh_peer::count_routed),
            Own(|job| zenoh_peer::flood(job, "client")),
        ],
    ),
    #[cfg(feature = "peers")]
    program(
        "nats, async-nats",
        &[
            Nats(Alone),
            Own(|job| nats_async::count(job, 1)),
            Own(|job| nats_async::flood(job, 1)),
        ],
    ),
    program(
        "nats, lean client",
        &[
            Nats(Alone),
            Own(|job| nats_lean::count(job, 1)),
            Own(|job| nats_lean::flood(job, 1)),
        ],
    ),
    program(
        "ours tcp+plain",
        &[
            Own(|job| zipper::route(job, "tcp+plain", Wait::Default)),
            Own(zipper::count),
            Own(zipper::flood),
        ],
    ),
    program(
        "ours tcp+plain, settled",
        &[
            Own(|job| zipper::route(job, "tcp+plain", Wait::Default)),
            Own(zipper::count),
            Own(zipper::flood_settled),
        ],
    ),
    program(
        "ours quic",
        &[
            Own(|job| zipper::route(job, "quic", Wait::Default)),
            Own(zipper::count),
            Own(zipper::flood),
        ],
    ),
];

const HOP_ROUND_TRIP: &[Program] = &[
    #[cfg(feature = "peers")]
    program(
        "zenoh router",
        &[
            Own(|job| zenoh_peer::route(job, "tcp")),
            Own(zenoh_peer::echo_routed),
            Own(|job| zenoh_peer::ask(job, "client")),
        ],
    ),
    #[cfg(feature = "peers")]
    program(
        "nats, async-nats",
        &[Nats(Alone), Own(nats_async::echo), Own(nats_async::ask)],
    ),
    program(
        "nats, lean client",
        &[Nats(Alone), Own(nats_lean::echo), Own(nats_lean::ask)],
    ),
    program(
        "ours tcp+plain",
        &[
            Own(|job| zipper::route(job, "tcp+plain", Wait::Blocking)),
            Own(|job| zipper::echo(job, Wait::Blocking)),
            Own(|job| zipper::ask(job, Wait::Blocking)),
        ],
    ),
    program(
        "ours quic",
        &[
            Own(|job| zipper::route(job, "quic", Wait::Blocking)),
            Own(|job| zipper::echo(job, Wait::Blocking)),
            Own(|job| zipper::ask(job, Wait::Blocking)),
        ],
    ),
    program(
        "ours tcp+plain, spin",
        &[
            Own(|job| zipper::route(job, "tcp+plain", Wait::Default)),
            Own(|job| zipper::echo(job, Wait::Default)),
            Own(|job| zipper::ask(job, Wait::Default)),
        ],
    ),
    program(
        "ours tcp+plain, spin, settled",
        &[
            Own(|job| zipper::route(job, "tcp+plain", Wait::Default)),
            Own(zipper::echo_settled),
            Own(zipper::ask_settled),
        ],
    ),
];

const TWO_HOPS: &[Program] = &[
    #[cfg(feature = "peers")]
    program(
        "zenoh routers",
        &[
            Own(|job| zenoh_peer::route(job, "tcp")),
            Own(|job| zenoh_peer::route(job, "tcp")),
            Own(zenoh_peer::count_routed),
            Own(|job| zenoh_peer::flood(job, "client")),
        ],
    ),
    #[cfg(feature = "peers")]
    program(
        "nats, async-nats",
        &[
            Nats(Hub),
            Nats(Leaf),
            Own(|job| nats_async::count(job, 1)),
            Own(|job| nats_async::flood(job, 1)),
        ],
    ),
    program(
        "nats, lean client",
        &[
            Nats(Hub),
            Nats(Leaf),
            Own(|job| nats_lean::count(job, 1)),
            Own(|job| nats_lean::flood(job, 1)),
        ],
    ),
    program(
        "ours tcp+plain",
        &[
            Own(|job| zipper::route_chained(job, "tcp+plain", Wait::Default)),
            Own(|job| zipper::route_chained(job, "tcp+plain", Wait::Default)),
            Own(zipper::count),
            Own(zipper::flood),
        ],
    ),
    program(
        "ours tcp+plain, settled",
        &[
            Own(|job| zipper::route_chained(job, "tcp+plain", Wait::Default)),
            Own(|job| zipper::route_chained(job, "tcp+plain", Wait::Default)),
            Own(zipper::count),
            Own(zipper::flood_settled),
        ],
    ),
    program(
        "ours quic",
        &[
            Own(|job| zipper::route_chained(job, "quic", Wait::Default)),
            Own(|job| zipper::route_chained(job, "quic", Wait::Default)),
            Own(zipper::count),
            Own(zipper::flood),
        ],
    ),
];

const FAN_OUT: &[Program] = &[
    #[cfg(feature = "peers")]
    program(
        "nats, async-nats",
        &[
            Nats(Alone),
            Own(|job| nats_async::count(job, SUBSCRIBERS as u64)),
            Own(|job| nats_async::flood(job, SUBSCRIBERS as u64)),
        ],
    ),
    program(
        "nats, lean client",
        &[
            Nats(Alone),
            Own(|job| nats_lean::count(job, SUBSCRIBERS as u64)),
            Own(|job| nats_lean::flood(job, SUBSCRIBERS as u64)),
        ],
    ),
    program(
        "ours tcp+plain",
        &[
            Own(|job| zipper::route(job, "tcp+plain", Wait::Default)),
            Own(|job| zipper::count_each(job, SUBSCRIBERS)),
            Own(zipper::flood),
        ],
    ),
    program(
        "ours tcp+plain, settled",
        &[
            Own(|job| zipper::route(job, "tcp+plain", Wait::Default)),
            Own(|job| zipper::count_each(job, SUBSCRIBERS)),
            Own(zipper::flood_settled),
        ],
    ),
];
