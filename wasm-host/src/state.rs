//! What the host keeps beside a guest's memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use wasmtime::{Memory, ResourceLimiter, Store, Trap, UpdateDeadline};

use crate::budget::{Breach, Budget, Purpose};
use crate::call::CallError;
use crate::host::Shared;
use crate::limits::GuestLimits;
use crate::log::{GuestLog, Level};
use crate::outputs::Written;

/// The data of a guest's store: all that a host function may touch.
#[derive(Debug)]
pub(crate) struct GuestState {
    config: Arc<BTreeMap<String, String>>,
    pub(crate) budget: Budget,
    pub(crate) outputs: Written,
    log: Arc<GuestLog>,
    space: SpaceLimit,
    /// The memory of a core guest, known once it is instantiated.
    pub(crate) memory: Option<Memory>,
}

impl GuestState {
    /// Adds a message for which the budget was taken.
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
        self.space.used
    }
}

/// What an instance keeps while guests come and go: each fresh guest is made from it.
#[derive(Debug)]
pub(crate) struct Blueprint {
    pub(crate) shared: Arc<Shared>,
    pub(crate) config: Arc<BTreeMap<String, String>>,
    pub(crate) limits: GuestLimits,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) log: Arc<GuestLog>,
}

impl Blueprint {
    pub(crate) fn new(
        shared: Arc<Shared>,
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

    /// A store that is held to the limits, ready for instantiation.
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
            outputs: Written::default(),
            log: Arc::clone(&self.log),
            space: SpaceLimit {
                limit: self.limits.memory_bytes,
                used: 0,
                refused: false,
            },
            memory: None,
        };
        let mut store = Store::new(&self.shared.engine, state);
        store.limiter(|state| &mut state.space);
        store.epoch_deadline_callback(|context| {
            context.data().budget.check_time()?;
            Ok(UpdateDeadline::Continue(1))
        });
        store
    }
}

/// Gives a call its budget. Must precede every entry into the guest.
pub(crate) fn begin(store: &mut Store<GuestState>, purpose: Purpose) {
    // The callback looks at the real deadline on every tick.
    store.set_epoch_deadline(1);
    let state = store.data_mut();
    state.budget.begin(purpose);
    state.space.refused = false;
    state.outputs.clear();
}

/// Why a call into the guest failed.
pub(crate) fn describe(error: &wasmtime::Error, state: &GuestState) -> CallError {
    if let Some(breach) = error.downcast_ref::<Breach>() {
        return state.budget.describe(*breach);
    }
    // A guest that is refused memory rarely survives it: the refusal is the better explanation.
    if state.space.refused {
        return CallError::MemoryLimit {
            limit: state.space.limit,
        };
    }
    let reason = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    CallError::Trapped { reason }
}

/// Linear memories and tables of one instance, counted together.
#[derive(Debug)]
struct SpaceLimit {
    limit: usize,
    used: usize,
    refused: bool,
}

impl SpaceLimit {
    /// What a table keeps per element: a pointer and, for function references, its lazy mark.
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

impl ResourceLimiter for SpaceLimit {
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
