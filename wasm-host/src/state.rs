//! The state of a guest on the side of the host.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use wasmtime::{Memory, ResourceLimiter, Store, Trap, UpdateDeadline};

use crate::budget::{AbortReason, Budget, CallKind};
use crate::call::CallError;
use crate::host::HostShared;
use crate::limits::GuestLimits;
use crate::log::{GuestLog, Level};
use crate::outputs::OutputBuffer;

/// The data of a guest's store: everything that a host function may access.
#[derive(Debug)]
pub(crate) struct GuestState {
    config: Arc<BTreeMap<String, String>>,
    pub(crate) budget: Budget,
    pub(crate) outputs: OutputBuffer,
    log: Arc<GuestLog>,
    memory_limiter: MemoryLimiter,
    /// The memory of a core guest, after its instantiation.
    pub(crate) memory: Option<Memory>,
}

impl GuestState {
    /// Adds a message that the budget has admitted.
    pub(crate) fn push_output(&mut self, tag: u32, target: Option<String>, payload: &[u8]) {
        let bytes_left = self.budget.output_bytes_left();
        self.outputs.push(tag, target, payload, bytes_left);
    }

    pub(crate) fn config(&self, key: &str) -> Option<&String> {
        self.config.get(key)
    }

    pub(crate) fn write_log(&self, level: Level, message: &str) {
        let now = self.budget.ticks().now();
        self.log.write(now, level, message);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_limiter.used
    }
}

/// The part of an instance that is kept when its guest is recycled. Each fresh guest is made from it.
#[derive(Debug)]
pub(crate) struct GuestTemplate {
    pub(crate) shared: Arc<HostShared>,
    pub(crate) config: Arc<BTreeMap<String, String>>,
    pub(crate) limits: GuestLimits,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) log: Arc<GuestLog>,
}

impl GuestTemplate {
    pub(crate) fn new(
        shared: Arc<HostShared>,
        name: Arc<str>,
        config: Arc<BTreeMap<String, String>>,
        limits: GuestLimits,
    ) -> Self {
        let log = GuestLog::new(name, limits.log_bytes_per_second, shared.ticker.tick());
        Self {
            shared,
            config,
            limits,
            stop: Arc::default(),
            log: Arc::new(log),
        }
    }

    /// Makes a store with the limits, for instantiation.
    pub(crate) fn store(&self) -> Store<GuestState> {
        let ticker = &self.shared.ticker;
        let budget = Budget::new(
            Arc::clone(ticker.ticks()),
            ticker.ticks_in(self.limits.deadline),
            self.limits.clone(),
            Arc::clone(&self.stop),
        );
        let state = GuestState {
            config: Arc::clone(&self.config),
            budget,
            outputs: OutputBuffer::default(),
            log: Arc::clone(&self.log),
            memory_limiter: MemoryLimiter {
                limit: self.limits.memory_bytes,
                used: 0,
                refused: false,
            },
            memory: None,
        };
        let mut store = Store::new(&self.shared.engine, state);
        store.limiter(|state| &mut state.memory_limiter);
        store.epoch_deadline_callback(|context| {
            context.data().budget.check_time()?;
            Ok(UpdateDeadline::Continue(1))
        });
        store
    }
}

/// Resets the budget for a call. Must precede every call into the guest.
pub(crate) fn begin(store: &mut Store<GuestState>, kind: CallKind) {
    // The callback compares the clock with the real deadline on every tick.
    store.set_epoch_deadline(1);
    let state = store.data_mut();
    state.budget.begin(kind);
    state.memory_limiter.refused = false;
    state.outputs.clear();
}

/// Why a call into the guest failed.
pub(crate) fn describe(error: &wasmtime::Error, state: &GuestState) -> CallError {
    if let Some(reason) = error.downcast_ref::<AbortReason>() {
        return state.budget.describe(*reason);
    }
    // Refused memory is the better explanation, since it usually causes the trap.
    if state.memory_limiter.refused {
        return CallError::MemoryLimit {
            limit: state.memory_limiter.limit,
        };
    }
    let reason = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    CallError::Trapped { reason }
}

/// Limits the linear memories and tables of one instance together.
#[derive(Debug)]
struct MemoryLimiter {
    limit: usize,
    used: usize,
    refused: bool,
}

impl MemoryLimiter {
    /// The size of a table element: a pointer, which holds the mark of lazy function references, too.
    const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

    fn grow(&mut self, bytes: usize, declared_max: bool) -> bool {
        match self.used.checked_add(bytes) {
            Some(used) if used <= self.limit && declared_max => {
                self.used = used;
                true
            }
            _ => {
                self.refused = true;
                false
            }
        }
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let within = maximum.is_none_or(|maximum| desired <= maximum);
        Ok(self.grow(desired.saturating_sub(current), within))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let within = maximum.is_none_or(|maximum| desired <= maximum);
        let added = desired.saturating_sub(current);
        Ok(self.grow(added.saturating_mul(Self::TABLE_ELEMENT_BYTES), within))
    }
}
