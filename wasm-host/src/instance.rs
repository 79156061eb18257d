//! A running guest that handles messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::call::{CallError, StartError};
use crate::component::ComponentGuest;
use crate::core_abi::CoreGuest;
use crate::function::{LinkedCode, WasmFunction};
use crate::outputs::Outputs;
use crate::state::{GuestState, GuestTemplate};
use crate::stats::FunctionStats;

/// A running guest, whose memory is kept from message to message.
///
/// ```text
///             handle -> Ok, GuestError, InputTooLarge
///              +---+
///              v   |
///  start ---> ready --------------------> empty
///              ^    handle -> any other     |
///              |    CallError: recycled     |
///              +----------------------------+
///               next handle: a fresh guest
///               (if it cannot start: Restart, and empty again)
/// ```
///
/// Calls run on the caller's thread, one at a time. Instances are independent of each other.
#[derive(Debug)]
pub struct Instance {
    function: WasmFunction,
    template: GuestTemplate,
    guest: Option<GuestInstance>,
    stats: FunctionStats,
}

enum GuestInstance {
    Component(ComponentGuest),
    Core(CoreGuest),
}

impl std::fmt::Debug for GuestInstance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Guest").field(self.state()).finish()
    }
}

impl GuestInstance {
    fn start(function: &WasmFunction, template: &GuestTemplate) -> Result<Self, StartError> {
        Ok(match function.code() {
            LinkedCode::Component(pre) => Self::Component(ComponentGuest::start(pre, template)?),
            LinkedCode::Core(pre) => Self::Core(CoreGuest::start(pre, template)?),
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
        let template = function.template();
        let guest = GuestInstance::start(&function, &template)?;
        Ok(Self {
            function,
            template,
            guest: Some(guest),
            stats: FunctionStats::default(),
        })
    }

    /// Calls the guest with one message and returns its outputs.
    ///
    /// The payload is copied once, into the guest's memory. Blocks until the guest returns, at most for
    /// [`GuestLimits::deadline`](crate::GuestLimits::deadline) and two ticks; after a recycling, the
    /// start of the fresh guest takes up to the same time in addition.
    ///
    /// # Errors
    /// [`CallError`], and [`CallError::recycled`] returns whether the guest's memory was lost. The
    /// outputs for this message are discarded.
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

    /// Runs the guest in place: it has some hundred bytes, and moving it out and back took a third of
    /// a call.
    fn run(&mut self, tag: u32, payload: &[u8]) -> Result<(), CallError> {
        let limit = self.template.limits.memory_bytes;
        if payload.len() > limit {
            return Err(CallError::InputTooLarge {
                bytes: payload.len(),
                limit,
            });
        }
        if self.template.stop.load(Ordering::Relaxed) {
            return Err(CallError::Stopped);
        }
        let guest = match &mut self.guest {
            Some(guest) => guest,
            empty => {
                let started = GuestInstance::start(&self.function, &self.template);
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

    /// The function of this instance.
    #[must_use]
    pub fn function(&self) -> &WasmFunction {
        &self.function
    }

    /// The counters of this instance.
    #[must_use]
    pub fn stats(&self) -> FunctionStats {
        FunctionStats {
            log_lines_dropped: self.template.log.dropped(),
            memory_bytes: self
                .guest
                .as_ref()
                .map_or(0, |guest| guest.state().memory_bytes()),
            ..self.stats
        }
    }

    /// The number of [ticks](crate::HostConfig::tick) since the host started: a clock whose reading
    /// costs one load.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.template.shared.ticker.ticks().now()
    }

    /// A handle with which another thread can stop this instance.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.template.stop))
    }
}

/// Stops an [`Instance`] or a [`NumericFunction`](crate::NumericFunction) from another thread, to shut
/// down or to replace a function.
#[derive(Debug, Clone)]
pub struct StopHandle(pub(crate) Arc<AtomicBool>);

impl StopHandle {
    /// Ends the current call within a tick, and refuses every later call, with
    /// [`CallError::Stopped`]. Cannot be undone.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
