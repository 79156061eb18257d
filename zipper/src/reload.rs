//! A request of an operator to read the configuration again.

use selvedge_client::lanes::CONTROL;
use selvedge_client::wire::{
    AdminReply, AdminRow, AdminValue, PAGE_ROWS_MAX, TEXT_LEN_MAX, WireMessage,
};
use selvedge_hub::Endpoint;

/// Why a reload is refused, for programs: the configuration is wrong.
const UNPROCESSABLE: u16 = 422;

/// A request of an operator, to be answered once. Unanswered, it times out at the operator.
#[derive(Debug)]
pub struct ReloadRequest {
    endpoint: Endpoint,
    id: u32,
}

/// A setting whose value has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettingChange {
    /// The key in the configuration, such as `limits.clients`.
    pub key: &'static str,
    /// Whether the new value is in use; otherwise it will be after a restart.
    pub is_applied: bool,
}

impl ReloadRequest {
    pub(crate) const fn new(endpoint: Endpoint, id: u32) -> Self {
        Self { endpoint, id }
    }

    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    /// Answers with the settings that have changed.
    pub fn answer(self, changes: &[SettingChange]) {
        let rows = changes.iter().take(PAGE_ROWS_MAX).map(|change| {
            let mut row = AdminRow::default();
            row.push("setting", AdminValue::Text(change.key.into()));
            row.push("applied", AdminValue::Flag(change.is_applied));
            row
        });
        self.send(AdminReply::Page {
            id: self.id,
            rows: rows.collect(),
            next: None,
        });
    }

    /// Answers that the configuration is wrong, and that nothing has changed.
    pub fn refuse(self, why: &str) {
        let mut end = why.len().min(TEXT_LEN_MAX);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        self.send(AdminReply::Refused {
            id: self.id,
            code: UNPROCESSABLE,
            message: why[..end].to_owned(),
        });
    }

    fn send(&self, reply: AdminReply) {
        let sent = WireMessage::AdminReply(reply)
            .encode()
            .map(|bytes| self.endpoint.try_send(CONTROL, bytes));
        if !matches!(sent, Ok(Ok(()))) {
            let peer = self.endpoint.peer();
            tracing::debug!(%peer, "an operator has left before the answer to a reload");
        }
    }
}
