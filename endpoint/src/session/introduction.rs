//! The introduction: what this side states in its `Hello`, and recognition of the peer by what the
//! peer states in its own.

use std::collections::VecDeque;

use crate::config::SessionConfig;
use crate::lane::{Delivery, LaneConfig};
use crate::version::{Incompatibility, MESSAGE_MAX, SessionAgreement, SessionOffer};
use crate::wire::{Hello, LanePosition};

/// How many former incarnations of the peer are remembered, so that a late `Hello` of a process
/// that has ended is not mistaken for a restart.
const FORMER_MAX: usize = 4;

/// How many transports a peer may want to be used at a time.
pub(super) const PATHS_MAX: usize = 2;

/// The identity of this side's session, and what is known of the peer's.
#[derive(Debug)]
pub(super) struct Introduction {
    /// Never 0. Random, chosen by the creator of the session.
    incarnation: u64,
    /// How often this side restarted its streams for a peer that had lost its state.
    view: u64,
    pub(super) offer: SessionOffer,
    pub(super) peer: Option<PeerView>,
    former: VecDeque<u64>,
}

/// What is known of the peer's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PeerView {
    pub(super) incarnation: u64,
    pub(super) view: u64,
    pub(super) agreement: SessionAgreement,
}

/// How the session of a peer relates to the known one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recognition {
    /// It still has its state, or none was known before.
    Known,
    /// The peer restarted its streams.
    RestartedStreams,
    /// The session belongs to another process.
    Restarted,
}

/// How many transports a side wants to use at a time.
pub(super) fn paths_wanted(config: &SessionConfig) -> usize {
    let redundant = |lane: &LaneConfig| lane.redundant && lane.delivery == Delivery::Reliable;
    1 + usize::from(config.lanes.iter().any(redundant))
}

/// What a `Hello` states as the longest message.
fn message_max(config: &SessionConfig) -> u64 {
    (config.message_max as u64).min(MESSAGE_MAX)
}

impl Introduction {
    pub(super) fn new(incarnation: u64) -> Self {
        Self {
            incarnation: incarnation.max(1),
            view: 0,
            offer: SessionOffer::SUPPORTED,
            peer: None,
            former: VecDeque::new(),
        }
    }

    /// The `Hello` to send now, with the positions of all lanes.
    pub(super) fn hello(
        &self,
        config: &SessionConfig,
        epoch: u64,
        lanes: Vec<LanePosition>,
    ) -> Hello {
        Hello {
            incarnation: self.incarnation,
            view: self.view,
            peer_incarnation: self.peer.map_or(0, |peer| peer.incarnation),
            epoch,
            message_max: message_max(config),
            offer: self.offer,
            paths_wanted: paths_wanted(config) as u8,
            lanes,
        }
    }

    pub(super) const fn view(&self) -> u64 {
        self.view
    }

    /// This side restarts its streams.
    pub(super) const fn begin_view(&mut self) {
        self.view += 1;
    }

    /// The version of the protocol that both sides use.
    pub(super) fn version(&self) -> Option<u8> {
        self.peer.map(|peer| peer.agreement.version)
    }

    /// What both sides use from now on.
    pub(super) fn negotiate(
        &self,
        config: &SessionConfig,
        hello: &Hello,
    ) -> Result<SessionAgreement, Incompatibility> {
        let agreement = self.offer.agree(hello.offer)?;
        let (own, peer) = (message_max(config), hello.message_max);
        match own == peer {
            true => Ok(agreement),
            false => Err(Incompatibility::MessageMax { own, peer }),
        }
    }

    /// Whether a `Hello` comes from a process of the peer that was replaced by another one.
    pub(super) fn is_former(&self, hello: &Hello) -> bool {
        self.former.contains(&hello.incarnation)
    }

    /// Decides whether the peer still has its state.
    ///
    /// A peer has its state as long as its incarnation is the same, unless it restarted its own
    /// streams: then its `view` is higher than the known one. A lower view belongs to a `Hello`
    /// that was sent before and arrived late.
    pub(super) fn recognize(&mut self, hello: &Hello, agreement: SessionAgreement) -> Recognition {
        let met = PeerView {
            agreement,
            incarnation: hello.incarnation,
            view: hello.view,
        };
        let Some(known) = self.peer else {
            self.peer = Some(met);
            return Recognition::Known;
        };
        if known.incarnation != met.incarnation {
            self.former.push_back(known.incarnation);
            if self.former.len() > FORMER_MAX {
                self.former.pop_front();
            }
            self.peer = Some(met);
            return Recognition::Restarted;
        }
        if met.view > known.view {
            self.peer = Some(met);
            return Recognition::RestartedStreams;
        }
        Recognition::Known
    }

    /// The peer states its view in a `Ready`.
    pub(super) fn record_view(&mut self, view: u64) {
        if let Some(peer) = &mut self.peer {
            peer.view = peer.view.max(view);
        }
    }

    /// Whether the positions in a `Hello` refer to this session. If not, the peer has no data of
    /// this one yet, and its credit comes with its first acknowledgement.
    pub(super) const fn is_addressed_by(&self, hello: &Hello) -> bool {
        hello.peer_incarnation == self.incarnation || hello.peer_incarnation == 0
    }
}
