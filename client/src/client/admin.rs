//! Requests of an operator to a zipper.

use std::time::Duration;

use bytes::Bytes;
use selvedge_hub::Instant;

use crate::client::Client;
use crate::client::reading::NextInbound;
use crate::client::shared::ClientClosed;
use crate::lanes::CONTROL;
use crate::wire::{
    AdminQuery, AdminReply, AdminRequest, AdminRow, FEATURE_ADMIN, WireError, WireMessage,
};

/// The longest list, in rows: a few times what the largest zipper has.
const LIST_LEN_MAX: usize = 256 * 1024;

/// Why a zipper has not answered an operator.
///
/// Each variant names the side that has to act, and whether a retry helps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The zipper is older than such requests. A retry helps once it is upgraded.
    #[error("the zipper is too old: it does not answer requests of operators")]
    Unsupported,
    /// The zipper has refused the request. A retry helps only with another token or key.
    #[error("the zipper refuses the request: {message} (code {code})")]
    Refused {
        /// The reason for programs: see [`AdminReply::Refused`].
        code: u16,
        /// The reason for people.
        message: String,
    },
    /// The zipper has not answered in time: it is overloaded, or has restarted meanwhile. A retry helps.
    #[error("the zipper has not answered in time")]
    TimedOut,
    /// The zipper has ended the connection. A retry needs a new client.
    #[error("the connection has ended: {0}")]
    Closed(String),
    /// The zipper has sent a malformed message. A retry does not help.
    #[error("the zipper has sent a malformed answer: {0}")]
    Wire(#[from] WireError),
}

/// A client that asks its zipper about clients, functions and routes. It needs the permission `admin`.
#[derive(Debug)]
pub struct AdminClient {
    client: Client,
    last_id: u32,
}

impl From<Client> for AdminClient {
    /// Uses a connected source; data that it receives is dropped.
    fn from(client: Client) -> Self {
        client.shared.note_read();
        Self { client, last_id: 0 }
    }
}

impl AdminClient {
    /// The client.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// All rows of a list, in the order of the zipper. Blocks for at most `timeout`. The list is read in
    /// pages; what changes meanwhile may be missing.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn list(
        &mut self,
        query: AdminQuery,
        timeout: Duration,
    ) -> Result<Vec<AdminRow>, AdminError> {
        let until = self.client.clock.now() + timeout;
        let (mut list, mut after) = (Vec::new(), Bytes::new());
        loop {
            let (rows, next) = self.page(query, after, until)?;
            list.extend(rows);
            let (len, max) = (list.len(), LIST_LEN_MAX);
            if len > max {
                return Err(WireError::TooLong { len, max }.into());
            }
            match next {
                Some(next) => after = next,
                None => return Ok(list),
            }
        }
    }

    fn page(
        &mut self,
        query: AdminQuery,
        after: Bytes,
        until: Instant,
    ) -> Result<(Vec<AdminRow>, Option<Bytes>), AdminError> {
        if self.client.protocol().features & FEATURE_ADMIN == 0 {
            return Err(AdminError::Unsupported);
        }
        self.last_id = self.last_id.wrapping_add(1);
        let request = WireMessage::AdminRequest(AdminRequest {
            id: self.last_id,
            query: query as u8,
            after,
        });
        let (_, endpoint) = self.client.shared.current();
        endpoint
            .send(CONTROL, request.encode()?)
            .map_err(|error| AdminError::Closed(error.to_string()))?;
        loop {
            match self.receive(until)? {
                // The answer to an earlier request that has timed out.
                reply if reply.id() != self.last_id => {}
                AdminReply::Page { rows, next, .. } => return Ok((rows, next)),
                AdminReply::Refused { code, message, .. } => {
                    return Err(AdminError::Refused { code, message });
                }
            }
        }
    }

    fn receive(&self, until: Instant) -> Result<AdminReply, AdminError> {
        let Client { shared, clock, .. } = &self.client;
        loop {
            match shared.try_read() {
                NextInbound::Early(_) | NextInbound::Routed(_) => {}
                NextInbound::Message(message) => match WireMessage::decode(message.payload)? {
                    WireMessage::AdminReply(reply) => return Ok(reply),
                    WireMessage::Data(_) => {}
                    other => shared.control(other).map_err(closed)?,
                },
                NextInbound::Nothing(endpoint) => {
                    let left = until.saturating_duration_since(clock.now());
                    if left.is_zero() {
                        return Err(AdminError::TimedOut);
                    }
                    let _is_readable = endpoint.wait_readable(Some(left));
                }
                NextInbound::Ended(_) => {
                    return Err(AdminError::Closed("the zipper has closed it".into()));
                }
            }
        }
    }
}

fn closed(ClientClosed(why): ClientClosed) -> AdminError {
    AdminError::Closed(why)
}
