//! What a peer may send before the user has admitted it.

use selvedge_transport::LaneSet;

use crate::config::SessionConfig;
use crate::lane::LaneId;

/// The lanes on which the peer has its full limits.
#[derive(Debug)]
pub(super) struct LaneAdmission(LaneSet);

/// The limits of one lane, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneLimits {
    pub(super) window: u64,
    pub(super) message_max: usize,
    pub(super) best_effort_buffer: usize,
}

impl LaneAdmission {
    pub(super) const fn new(config: &SessionConfig) -> Self {
        Self(match config.admission_buffer {
            None => LaneSet::ALL,
            Some(_) => LaneSet::EMPTY,
        })
    }

    /// Whether no lane has its full limits.
    pub(super) fn is_pending(&self) -> bool {
        self.0 == LaneSet::EMPTY
    }

    /// Admits the peer on a lane. Returns whether it was not admitted there.
    pub(super) fn admit(&mut self, lane: LaneId) -> bool {
        let is_new = !self.0.contains(lane.number());
        self.0.insert(lane.number());
        is_new
    }

    /// Of the admission buffer, half is the credit of the first lane, and half its longest message, whose
    /// bytes do not count against the credit while it is incomplete.
    #[inline]
    pub(super) fn limits(&self, config: &SessionConfig, lane: LaneId) -> LaneLimits {
        let full = LaneLimits {
            window: config.receive_window,
            message_max: config.message_max,
            best_effort_buffer: config.best_effort_buffer,
        };
        match config.admission_buffer {
            Some(buffer) if !self.0.contains(lane.number()) => {
                let half = if lane == LaneId::FIRST { buffer / 2 } else { 0 };
                LaneLimits {
                    window: full.window.min(half as u64),
                    message_max: full.message_max.min(half),
                    best_effort_buffer: full.best_effort_buffer.min(half),
                }
            }
            _ => full,
        }
    }
}
