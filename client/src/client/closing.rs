//! The end of a client: in order, in the background, or by being dropped.

use std::time::Duration;

use selvedge_hub::Instant;

use crate::client::Client;
use crate::client::connector::ClientCommand;
use crate::client::flows::OutcomeSummary;
use crate::client::settling::CloseProgress;
use crate::client::shared::STOPPED;

impl Client {
    /// Requests the end of data from the zipper. Reading ends behind the last message that the zipper has
    /// sent; writing remains possible, so that a function can answer and then [`close`](Self::close). Messages
    /// that are settled and were not read go to another instance; with
    /// [`AcknowledgeMode::ByCall`](crate::AcknowledgeMode), reading ends once those that were read are acknowledged.
    /// If the zipper is not connected, the client is [stopped](Self::stop) instead. Of several readers, one
    /// receives the end. Never blocks.
    pub fn finish(&self) {
        self.shared.note_stopped();
        // The zipper ends the routes when it receives the request, so the process leaves before.
        if self.shared.inbound().is_none_or(|it| it.finish()) {
            self.request_end();
        }
    }

    /// Requests the end of data, behind the last report.
    pub(super) fn request_end(&self) {
        if !self.shared.send_goaway() {
            self.stop();
        }
    }

    /// What has become of the messages that are to be settled, by tag and target. Empty without a
    /// [level](crate::ClientOptions::level).
    #[must_use]
    pub fn outcomes(&self) -> OutcomeSummary {
        self.shared.outcomes()
    }

    /// Blocks until every message that was accepted so far has an [outcome](Self::outcomes); without
    /// settlement, until the zipper has acknowledged it or it is [`uncertain`](Self::uncertain). Blocks at
    /// most for `timeout`. Returns whether that is so.
    ///
    /// An instance reports what it has processed after 1,024 messages or 1 MiB, when it has no more, or after 5 ms. A caller
    /// that writes one message and flushes, again and again, therefore waits 5 ms for all but the first.
    #[must_use]
    pub fn flush(&self, timeout: Duration) -> bool {
        self.shared.flush(timeout)
    }

    /// Ends reading and writing: blocked and later calls fail. Never blocks; unsent messages are delivered
    /// in the background.
    pub fn stop(&self) {
        self.shared.note_stopped();
        self.shared.leave();
        match self.shared.begin_close() {
            CloseProgress::Settled => self.end(),
            CloseProgress::Begun => self.mail.send(ClientCommand::EndSettled),
            CloseProgress::Settling => {}
        }
    }

    fn end(&self) {
        // The hub first: it would create a successor of the endpoint that ends.
        self.hub.get().wind_down();
        self.shared.stop(STOPPED);
    }

    /// Whether this side has called [`stop`](Self::stop), [`finish`](Self::finish) or
    /// [`close`](Self::close).
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shared.is_stopped()
    }

    /// Closes the client in order. Blocks until every written message has an [outcome](Self::outcomes), or
    /// without settlement until it is delivered to the zipper, at most for `timeout`. Returns whether every
    /// message is settled or was observed by no function. The others are unsettled or abandoned according to
    /// the outcomes, and without settlement [`uncertain`](Self::uncertain).
    #[must_use]
    pub fn close(&self, timeout: Duration) -> bool {
        let began = Instant::now();
        self.shared.note_stopped();
        self.shared.leave();
        if self.shared.begin_close() != CloseProgress::Settled {
            self.shared.await_settled(timeout);
        }
        self.end();
        let closed = self
            .hub
            .get()
            .close(timeout.saturating_sub(began.elapsed()));
        self.shared.note_end();
        closed && self.is_delivered()
    }

    fn is_delivered(&self) -> bool {
        self.uncertain() == 0 && self.outcomes().is_settled()
    }

    /// Closes the client in order without blocking: returns the result of [`close`](Self::close) once it is
    /// known, and is to be called again until then.
    #[must_use]
    pub fn try_close(&self) -> Option<bool> {
        self.stop();
        let closed = self.hub.get().closed()?;
        self.shared.note_end();
        Some(closed && self.is_delivered())
    }
}

/// How long dropping a client with a driver of its own waits for the settlement of its messages, and until its zipper
/// has the last report.
const DROP_LINGER: Duration = Duration::from_secs(1);

impl Drop for Client {
    fn drop(&mut self) {
        let began = Instant::now();
        self.shared.note_stopped();
        self.shared.leave();
        if self.has_own_driver && self.shared.begin_close() != CloseProgress::Settled {
            self.shared.await_settled(DROP_LINGER);
        }
        self.end();
        if self.has_own_driver {
            // Not left to the drop of the driver: while the client moves to another zipper, its actor holds the hub, so
            // a process that ends now would end before the last report has left.
            let left = DROP_LINGER.saturating_sub(began.elapsed());
            let _is_delivered = self.hub.get().close(left);
        }
        self.mail.send(ClientCommand::Stop);
    }
}
