//! The actor of a client: finds the nearest zipper, introduces the client to it, and keeps it connected.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crossbeam_channel::Sender;
use selvedge_hub::{Actor, DialError, Driver, HubEvent, Instant, Next, NodeId};

use crate::client::hub_slot::HubSlot;
use crate::client::introduction::{ClientIntroduction, HubNumber, Introducer, NotAdmitted};
use crate::client::keeper::Keeper;
use crate::client::search::{Search, SearchFailure};
use crate::client::{Client, ConnectError};

/// How long a zipper may take to admit the client. Another zipper, or another attempt, may be faster.
pub(super) const INTRODUCTION_MAX: Duration = Duration::from_secs(10);

/// A command for the actor of a client.
#[derive(Debug)]
pub(super) enum ClientCommand {
    /// The dial of the address with that index has ended.
    Dialed(usize, Result<NodeId, DialError>),
    /// An event of the hub with that number.
    Hub(HubNumber, HubEvent),
    /// Messages may have arrived from the zipper, the send buffer may have room, or something is to be
    /// reported.
    Readable,
    /// The client ends once its messages are settled.
    EndSettled,
    Stop,
}

/// The actor of a client.
pub(super) struct Connector {
    phase: ConnectPhase,
    introducer: Introducer,
    /// Until when the client must be connected; `None` if it may take any time.
    deadline: Option<Instant>,
    random: fastrand::Rng,
    result: Sender<Result<Client, ConnectError>>,
    /// Why the last zipper that was found has not admitted the client.
    not_admitted: Option<ConnectError>,
    has_logged_failure: bool,
}

enum ConnectPhase {
    Begun(Arc<Driver>),
    Searching(Search, Arc<Driver>),
    Introducing(Box<Introducing>),
    Connected(Box<Keeper>),
    Over,
}

struct Introducing {
    introduction: ClientIntroduction,
    /// When the zipper is given up.
    until: Instant,
    /// Continued if the zipper does not admit the client.
    search: Search,
    driver: Arc<Driver>,
}

impl Actor for Connector {
    type Command = ClientCommand;

    fn handle(&mut self, now: Instant, command: Option<ClientCommand>) -> Next {
        let phase = std::mem::replace(&mut self.phase, ConnectPhase::Over);
        match self.step(now, phase, command) {
            Ok(phase) => self.phase = phase,
            // The hub has been dropped by now, and with it a driver of its own.
            Err(error) => self.finish(Err(error)),
        }
        match &self.phase {
            ConnectPhase::Begun(_) => Next::At(now),
            ConnectPhase::Searching(search, _) => {
                search.poll_timeout().map_or(Next::Command, Next::At)
            }
            ConnectPhase::Introducing(introducing) => Next::At(introducing.until),
            ConnectPhase::Connected(keeper) => {
                keeper.poll_timeout(now).map_or(Next::Command, Next::At)
            }
            ConnectPhase::Over => Next::End,
        }
    }
}

impl Connector {
    pub(super) const fn new(
        driver: Arc<Driver>,
        introducer: Introducer,
        deadline: Option<Instant>,
        random: fastrand::Rng,
        result: Sender<Result<Client, ConnectError>>,
    ) -> Self {
        Self {
            phase: ConnectPhase::Begun(driver),
            introducer,
            deadline,
            random,
            result,
            not_admitted: None,
            has_logged_failure: false,
        }
    }

    fn step(
        &mut self,
        now: Instant,
        phase: ConnectPhase,
        command: Option<ClientCommand>,
    ) -> Result<ConnectPhase, ConnectError> {
        match (phase, command) {
            (ConnectPhase::Connected(keeper), Some(ClientCommand::Stop)) => {
                keeper.end();
                Ok(ConnectPhase::Over)
            }
            (ConnectPhase::Over, _) | (_, Some(ClientCommand::Stop)) => Ok(ConnectPhase::Over),
            (ConnectPhase::Begun(driver), _) => {
                let options = &self.introducer.options;
                let (addresses, deadline) = (&options.zippers, self.deadline);
                let search = match options.node {
                    // The hub determines which of the addresses answer.
                    Some(node) => Search::pinned(now, node, addresses, deadline),
                    None => Search::new(now, addresses, deadline),
                };
                self.search(now, search, driver)
            }
            (ConnectPhase::Searching(mut search, driver), command) => {
                self.note_dialed(now, &mut search, command.as_ref());
                self.search(now, search, driver)
            }
            (ConnectPhase::Introducing(mut introducing), command) => {
                self.note_dialed(now, &mut introducing.search, command.as_ref());
                if let Some(ClientCommand::Hub(number, event)) = command
                    && number == introducing.introduction.number
                {
                    introducing.introduction.handle(&event);
                }
                self.await_introduction(now, introducing)
            }
            (ConnectPhase::Connected(mut keeper), command) => {
                keeper.step(now, command, &mut self.introducer);
                Ok(ConnectPhase::Connected(keeper))
            }
        }
    }

    fn note_dialed(&mut self, now: Instant, search: &mut Search, command: Option<&ClientCommand>) {
        if let Some(ClientCommand::Dialed(at, result)) = command {
            let result = result.as_ref().map_err(|error| SearchFailure {
                reason: error.to_string(),
                retry_helps: error.retry_helps(),
            });
            search.dialed(now, *at, result.copied(), self.random.f64());
        }
    }

    fn search(
        &mut self,
        now: Instant,
        mut search: Search,
        driver: Arc<Driver>,
    ) -> Result<ConnectPhase, ConnectError> {
        match search.result(now) {
            Some(Ok(found)) => {
                let until = now + INTRODUCTION_MAX;
                let until = self.deadline.map_or(until, |deadline| until.min(deadline));
                let introducing = Introducing {
                    introduction: self.introducer.begin(Arc::clone(&driver), &found)?,
                    until,
                    search,
                    driver,
                };
                self.await_introduction(now, Box::new(introducing))
            }
            Some(Err(failures)) => {
                let unreachable = || ConnectError::Unreachable(failures);
                Err(self.not_admitted.take().unwrap_or_else(unreachable))
            }
            None => {
                if search.has_failed_everywhere() {
                    self.log_failure(&search.failures());
                }
                let dialers = self.introducer.dialers();
                while let Some(at) = search.poll_dial(now) {
                    let mail = self.introducer.mail.clone();
                    let address = &self.introducer.options.zippers[at];
                    driver.dial(&dialers, address, None, move |result| {
                        mail.send(ClientCommand::Dialed(at, result.map(|it| it.peer())));
                    });
                }
                Ok(ConnectPhase::Searching(search, driver))
            }
        }
    }

    /// Logs once that the client waits: as a warning, if it waits without a limit.
    fn log_failure(&mut self, failures: &str) {
        if std::mem::replace(&mut self.has_logged_failure, true) {
            tracing::debug!(failures, "no zipper answers; dialing again");
        } else if self.deadline.is_none() {
            tracing::warn!(failures, "no zipper answers yet; waiting for one");
        } else {
            tracing::info!(failures, "no zipper answers yet; dialing again");
        }
    }

    fn await_introduction(
        &mut self,
        now: Instant,
        mut introducing: Box<Introducing>,
    ) -> Result<ConnectPhase, ConnectError> {
        let waker = self.introducer.waker();
        let mut cx = Context::from_waker(&waker);
        let introduction = &mut introducing.introduction;
        let not_admitted = match introduction.poll(&mut cx) {
            Poll::Ready(Ok(introduced)) => {
                let driver = Arc::downgrade(&introducing.driver);
                let slot = Arc::new(HubSlot::new(Arc::clone(&introduced.hub)));
                let number = introduced.number;
                let shared = self.introducer.share(introduced);
                let mail = self.introducer.mail.clone();
                let options = &self.introducer.options;
                let client = Client::new(Arc::clone(&shared), Arc::clone(&slot), mail, options);
                let mut keeper = Keeper::new(shared, &slot, number, driver, options.role);
                self.finish(Ok(client));
                keeper.step(now, None, &mut self.introducer);
                return Ok(ConnectPhase::Connected(Box::new(keeper)));
            }
            Poll::Ready(Err(not_admitted)) => not_admitted,
            Poll::Pending if now >= introducing.until => NotAdmitted {
                error: introduction.silence(),
                retry_helps: true,
            },
            Poll::Pending => return Ok(ConnectPhase::Introducing(introducing)),
        };
        let is_over = self.deadline.is_some_and(|deadline| now >= deadline);
        if !not_admitted.retry_helps {
            return Err(not_admitted.error);
        }
        if is_over {
            // An attempt that the end of the time has cut off explains less than an earlier answer.
            let is_answer = |error: &ConnectError| matches!(error, ConnectError::Rejected { .. });
            let earlier = self.not_admitted.take().filter(is_answer);
            let latest = not_admitted.error;
            return Err(match earlier {
                Some(earlier) if !is_answer(&latest) => earlier,
                _ => latest,
            });
        }
        let node = introduction.endpoint.peer();
        let reason = not_admitted.error.to_string();
        tracing::warn!(peer = %node, reason, "the zipper has not admitted this client; trying again");
        self.not_admitted = Some(not_admitted.error);
        let Introducing {
            introduction,
            mut search,
            driver,
            ..
        } = *introducing;
        introduction.abandon();
        search.not_admitted(now, node, &reason, self.random.f64());
        self.search(now, search, driver)
    }

    fn finish(&self, result: Result<Client, ConnectError>) {
        if self.result.send(result).is_err() {
            tracing::debug!("the caller has dropped the attempt to connect");
        }
    }
}
