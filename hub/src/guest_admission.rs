//! What a guest may cost before the user has admitted it.

use std::time::Duration;

/// Limits for guests that connect and are still to prove that they may send, for example by a token. They
/// hold until [`Endpoint::admit`](crate::Endpoint::admit). See [`HubBuilder::guest_admission`](crate::HubBuilder::guest_admission).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestAdmission {
    /// Bytes buffered for such a guest: see
    /// [`SessionConfig::admission_buffer`](crate::SessionConfig::admission_buffer). Default 16 KiB.
    pub buffer: usize,
    /// How long a guest may take. Afterwards its endpoint is aborted. Default 5 s.
    pub timeout: Duration,
    /// How many such guests there may be, in addition to the admitted ones. A further one replaces the oldest
    /// of the network that has most ([`FairSlots`](crate::FairSlots)); guests that were admitted before
    /// have slots of their own. Default 256.
    pub waiting_max: usize,
}

impl Default for GuestAdmission {
    fn default() -> Self {
        Self {
            buffer: 16 << 10,
            timeout: Duration::from_secs(5),
            waiting_max: 256,
        }
    }
}
