//! Both sides, the paths between them, and virtual time.

use std::time::Duration;

use selvedge_transport::Instant;

use crate::path::Path;
use crate::side::Side;

/// The maximum number of paths: a session holds four at once, and operations must find them.
const PATHS_MAX: usize = 6;

/// The maximum time of a recovery once the faults are over: a silence of 3 s on a few paths, and the
/// transfer of earlier messages.
const RECOVERY_MAX: Duration = Duration::from_secs(60);

/// How often the sides may have to dial again once the faults are over.
const DIALS_MAX: usize = 8;

/// How many things may be due at once: a loss, then a probe for what is not sent again, a ping.
const DUE_AT_ONCE: usize = 4;

/// How many rounds of frames may pass at one time: all buffers, in the smallest pieces.
const TURNS_MAX: usize = 10_000;

pub struct World {
    pub sides: [Side; 2],
    paths: Vec<Path>,
    now: Instant,
}

impl World {
    pub fn new(flags: u8) -> Self {
        Self {
            sides: [0, 1].map(|number| Side::new(number, flags)),
            paths: Vec::new(),
            now: Instant::now(),
        }
    }

    pub fn connect(&mut self, dialer: usize, reliable: bool) {
        if self.paths.len() < PATHS_MAX {
            let path = Path::dial(&mut self.sides, self.now, dialer, reliable);
            self.paths.push(path);
        }
    }

    pub fn with_path(
        &mut self,
        which: usize,
        act: impl FnOnce(&mut Path, &mut [Side; 2], Instant),
    ) {
        let count = self.paths.len().max(1);
        if let Some(path) = self.paths.get_mut(which % count) {
            act(path, &mut self.sides, self.now);
        }
    }

    pub fn pause(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        for side in &mut self.sides {
            if side.session.poll_timeout().is_some_and(|at| at <= self.now) {
                side.session.handle_timeout(self.now);
            }
        }
    }

    /// Processes the effects of an input.
    pub fn drain(&mut self) {
        for number in 0..2 {
            self.sides[number].drain();
            for id in std::mem::take(&mut self.sides[number].released) {
                let mut paths = self.paths.iter_mut();
                if let Some(path) = paths.find(|path| path.id(number) == Some(id)) {
                    path.released(number);
                }
            }
        }
        for path in &mut self.paths {
            path.see_end(&mut self.sides);
        }
        self.paths.retain(|path| !path.is_over());
        for number in 0..2 {
            for message in std::mem::take(&mut self.sides[1 - number].taken) {
                self.sides[number].check(&message);
            }
        }
    }

    /// Moves frames on every path. Returns whether anything moved.
    pub fn turn(&mut self, size: u8) -> bool {
        let mut moved = false;
        for path in &mut self.paths {
            for from in 0..2 {
                moved |= path.pull(&mut self.sides, self.now, from, 4, size);
                for _ in 0..4 {
                    moved |= path.deliver(&mut self.sides, self.now, from, false);
                }
            }
        }
        self.drain();
        moved
    }

    /// Ends the faults: broken paths stay broken, but a path that is dialed now works.
    pub fn finish(&mut self, flags: u8) {
        if flags & 2 != 0 {
            for path in &mut self.paths {
                path.notice(&mut self.sides);
            }
            self.drain();
        }
        let (begin, dialer) = (self.now, usize::from(flags >> 2 & 1));
        self.paths.truncate(PATHS_MAX);
        self.paths
            .push(Path::dial(&mut self.sides, self.now, dialer, true));
        let (mut dials, mut due_at_once) = (1, 0);
        loop {
            self.settle();
            if self.sides.iter().all(Side::is_complete) {
                return;
            }
            if !self.paths.iter().any(Path::is_live) {
                dials += 1;
                assert!(
                    dials <= DIALS_MAX,
                    "dialed {dials} times: {}",
                    self.report()
                );
                let path = Path::dial(&mut self.sides, self.now, dialer, true);
                self.paths.push(path);
                continue;
            }
            let timeouts = self.sides.iter().filter_map(|it| it.session.poll_timeout());
            let Some(next) = timeouts.min() else {
                panic!("no timer is armed: {}", self.report());
            };
            due_at_once = if next > self.now { 0 } else { due_at_once + 1 };
            assert!(due_at_once <= DUE_AT_ONCE, "always due: {}", self.report());
            self.now = next.max(self.now);
            self.pause(0);
            let taken = self.now - begin;
            assert!(taken < RECOVERY_MAX, "after {taken:?}: {}", self.report());
        }
    }

    /// Exchanges frames until nothing changes without time passing.
    fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            let mut moved = self.turn(0x7e);
            for side in &mut self.sides {
                moved |= side.take_all();
                moved |= side.session.sync_send_buffer(&mut side.outbox);
            }
            self.drain();
            if !moved {
                return;
            }
        }
        panic!("it never becomes idle: {}", self.report());
    }

    fn report(&self) -> String {
        let [first, second] = self.sides.each_ref().map(Side::missing);
        format!(
            "side 0: {first}; side 1: {second}; {} paths",
            self.paths.len()
        )
    }
}
