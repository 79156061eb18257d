//! A thread for a pure machine that decides slowly: a mesh, a registry.

use std::thread::JoinHandle;

use crossbeam_channel::{RecvTimeoutError, Sender, TrySendError, bounded};
use selvedge_transport::Instant;

use crate::error::DriverError;
use crate::simulation::Machines;

/// How much mail may wait: what sends it are connections and users, of whom there are thousands.
const MAIL_MAX: usize = 65_536;

/// Something that decides, given time and mail.
pub trait Actor: Send + 'static {
    /// What it is told.
    type Command: Send + 'static;

    /// Mail has come, or (`None`) the time that the last call returned. Says what it waits for.
    fn handle(&mut self, now: Instant, mail: Option<Self::Command>) -> Next;
}

/// What a [`Actor`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Mail, or that time.
    At(Instant),
    /// Mail.
    Command,
    /// Nothing: it is over, and its thread ends.
    End,
}

/// Where a machine's mail goes. Cheap to clone.
#[derive(Debug)]
pub struct MailboxSender<T>(Sender<T>);

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> MailboxSender<T> {
    /// Sends without waiting. Mail to a machine that has ended, or has tens of thousands unread,
    /// is dropped and logged.
    pub fn send(&self, mail: T) {
        match self.0.try_send(mail) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => tracing::error!("a machine does not read its mail"),
            Err(TrySendError::Disconnected(_)) => tracing::trace!("mail came after the end"),
        }
    }
}

/// A machine on its thread. It ends when it says [`Next::End`].
#[derive(Debug)]
pub struct ActorHandle<T> {
    mail: MailboxSender<T>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> ActorHandle<T> {
    /// Starts a thread of that name for the machine that `make` makes; it is called at once.
    ///
    /// # Errors
    /// [`DriverError::System`] when there is no thread to be had.
    pub fn spawn<M: Actor<Command = T>>(
        name: &str,
        make: impl FnOnce(MailboxSender<T>) -> M,
    ) -> Result<Self, DriverError> {
        let (sender, mails) = bounded(MAIL_MAX);
        let mail = MailboxSender(sender);
        let mut machine = make(mail.clone());
        let run = move || {
            let mut next = machine.handle(Instant::now(), None);
            loop {
                let received = match next {
                    Next::End => return,
                    Next::At(at) => mails.recv_deadline(at.into()),
                    Next::Command => mails.recv().map_err(|_| RecvTimeoutError::Disconnected),
                };
                next = match received {
                    Ok(mail) => machine.handle(Instant::now(), Some(mail)),
                    Err(RecvTimeoutError::Timeout) => machine.handle(Instant::now(), None),
                    Err(RecvTimeoutError::Disconnected) => return,
                };
            }
        };
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread = spawned.map_err(|error| DriverError::System {
            what: "start a thread",
            error,
        })?;
        Ok(Self {
            mail,
            thread: Some(thread),
        })
    }

    /// A machine without a thread.
    pub(crate) fn simulated<M: Actor<Command = T>>(
        machines: &Machines,
        make: impl FnOnce(MailboxSender<T>) -> M,
    ) -> Self {
        let (sender, mails) = bounded(MAIL_MAX);
        let mail = MailboxSender(sender);
        machines.add(make(mail.clone()), mails);
        Self { mail, thread: None }
    }

    /// Where its mail goes.
    #[must_use]
    pub const fn mail(&self) -> &MailboxSender<T> {
        &self.mail
    }

    /// Waits until the machine has ended.
    pub fn join(&mut self) {
        let own = std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(|it| it.thread().id() != own)
            && thread.join().is_err()
        {
            tracing::error!("a machine panicked: this is a bug");
        }
    }
}
