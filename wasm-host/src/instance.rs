//! A running guest that is handed messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::call::{CallError, StartError};
use crate::component::ComponentGuest;
use crate::core_abi::CoreGuest;
use crate::function::{Code, WasmFunction};
use crate::outputs::Outputs;
use crate::state::{Blueprint, GuestState};
use crate::stats::FunctionStats;

/// A running guest: warm, with memory that lasts from message to message.
///
/// ```text
///             handle -> Ok, GuestError, InputTooLarge
///              +---+
///              v   |
///  start ---> warm ---------------------> empty
///              ^    handle -> any other     |
///              |    CallError: recycled     |
///              +----------------------------+
///               next handle: a fresh guest
///               (if it cannot start: Restart, still empty)
/// ```
///
/// One call at a time, on the thread of the caller; instances are independent of each other.
#[derive(Debug)]
pub struct Instance {
    function: WasmFunction,
    blueprint: Blueprint,
    guest: Option<Guest>,
    stats: FunctionStats,
}

enum Guest {
    Component(ComponentGuest),
    Core(CoreGuest),
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Guest").field(self.state()).finish()
    }
}

impl Guest {
    fn start(function: &WasmFunction, blueprint: &Blueprint) -> Result<Self, StartError> {
        Ok(match function.code() {
            Code::Component(pre) => Self::Component(ComponentGuest::start(pre, blueprint)?),
            Code::Core(pre) => Self::Core(CoreGuest::start(pre, blueprint)?),
        })
    }

    fn state(&self) -> &GuestState {
        match self {
            Self::Component(guest) => guest.store.data(),
            Self::Core(guest) => guest.store.data(),
        }
    }

    fn handle(&mut self, tag: u32, payload: &[u8]) -> Result<(), CallError> {
        match self {
            Self::Component(guest) => guest.handle(tag, payload),
            Self::Core(guest) => guest.handle(tag, payload),
        }
    }
}

impl Instance {
    pub(crate) fn start(function: WasmFunction) -> Result<Self, StartError> {
        let blueprint = function.blueprint();
        let guest = Guest::start(&function, &blueprint)?;
        Ok(Self {
            function,
            blueprint,
            guest: Some(guest),
            stats: FunctionStats::default(),
        })
    }

    /// Hands the guest one message and gives what it wrote for it.
    ///
    /// The payload is copied once, into the guest's memory. Blocks until the guest is done, at most
    /// [`GuestLimits::deadline`](crate::Limits::deadline) and two ticks; after a recycling, a restart takes
    /// up to as much again.
    ///
    /// # Errors
    /// [`CallError`] says why, and [`CallError::recycled`] whether the guest's memory was lost. What
    /// the guest emitted for this message is then discarded.
    pub fn handle(&mut self, tag: u32, payload: &[u8]) -> Result<Outputs<'_>, CallError> {
        self.stats.calls += 1;
        if let Err(error) = self.run(tag, payload) {
            self.stats.count_failure(&error);
            if error.recycled() {
                self.recycle();
            }
            return Err(error);
        }
        let guest = self.guest.as_ref().expect("it has just handled a message");
        let state = guest.state();
        self.stats.handled += 1;
        self.stats.output_messages += state.outputs.len() as u64;
        self.stats.output_bytes += state.budget.output_bytes_used() as u64;
        self.stats.host_calls += u64::from(state.budget.host_calls_used());
        Ok(state.outputs.outputs())
    }

    /// Runs the guest where it lies: it is some hundred bytes, and moving it out and back took a
    /// third of a call.
    fn run(&mut self, tag: u32, payload: &[u8]) -> Result<(), CallError> {
        let limit = self.blueprint.limits.memory_bytes;
        if payload.len() > limit {
            return Err(CallError::InputTooLarge {
                bytes: payload.len(),
                limit,
            });
        }
        if self.blueprint.stop.load(Ordering::Relaxed) {
            return Err(CallError::Stopped);
        }
        let guest = match &mut self.guest {
            Some(guest) => guest,
            empty => {
                let started = Guest::start(&self.function, &self.blueprint);
                empty.insert(started.map_err(CallError::Restart)?)
            }
        };
        guest.handle(tag, payload)
    }

    fn recycle(&mut self) {
        if self.guest.take().is_some() {
            self.stats.recycled += 1;
        }
    }

    /// The function that this is an instance of.
    #[must_use]
    pub fn function(&self) -> &WasmFunction {
        &self.function
    }

    /// What this instance has done so far.
    #[must_use]
    pub fn stats(&self) -> FunctionStats {
        FunctionStats {
            log_lines_dropped: self.blueprint.log.dropped(),
            memory_bytes: self
                .guest
                .as_ref()
                .map_or(0, |guest| guest.state().memory_bytes()),
            ..self.stats
        }
    }

    /// How many [ticks](crate::HostConfig::tick) have passed since the host started: a clock that costs
    /// one load to read.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.blueprint.shared.ticker.ticks().now()
    }

    /// A handle by which another thread can stop this instance.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.blueprint.stop))
    }
}

/// Stops an [`Instance`] or a [`NumericFunction`](crate::NumericFunction) from another thread, for
/// shutting down and for replacing a function.
#[derive(Debug, Clone)]
pub struct StopHandle(pub(crate) Arc<AtomicBool>);

impl StopHandle {
    /// Ends the call under way within a tick, and refuses every later one, by
    /// [`CallError::Stopped`]. Cannot be undone.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
