//! Instances that hold a source back, or others, or do not.

use std::time::Duration;

use selvedge_client::settlement::{FlowLimits, InstanceId, SourceFlow};
use selvedge_hub::Instant;

use crate::judge::Judge;
use crate::world::{ObservingGroup, World};

/// How long a source may be held back beyond the limit.
const SLACK: Duration = Duration::from_secs(5);

/// The usual limit.
const STALLED_MAX: Duration = Duration::from_secs(10);

/// How fast the source of a story writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// As fast as its log permits.
    Full,
    /// Slower than the instances, so that it never waits.
    Slow,
}

/// A world without faults: a group whose instances share the messages, some of which are blocked for ever.
fn world(seed: u64, window: u64, stalled_max: Duration) -> (World, Vec<InstanceId>) {
    let mut world = World::new(seed);
    let limits = FlowLimits {
        log_max: 4 * window,
        window,
    };
    world.source = SourceFlow::new(limits);
    world.settings.stalled_max = stalled_max;
    world.judge = Judge::default();
    world.processes.clear();
    world.groups = vec![ObservingGroup {
        name: "shared".into(),
        is_each: false,
        redelivers: world.rng.bool(),
        is_always_there: true,
        preferred: None,
    }];
    world.room = world.rng.usize(10..40);
    for _ in 0..world.rng.usize(2..12) {
        world.join(0);
    }
    world
        .processes
        .iter_mut()
        .for_each(|it| it.reached_by.fill(true));
    world.attach(0);
    for _ in 0..2000 {
        world.write();
        world.step();
    }
    let blocked = world
        .processes
        .len()
        .div_ceil(4)
        .min(world.processes.len() - 1);
    let blocked: Vec<_> = world
        .processes
        .iter()
        .take(blocked)
        .map(|it| it.id)
        .collect();
    for &id in &blocked {
        world.block(id, Instant::FAR_FUTURE);
    }
    (world, blocked)
}

impl World {
    /// Writes for that long. Returns the longest time without progress.
    fn write_for(&mut self, time: Duration, pace: Pace) -> Duration {
        let end = self.now + time;
        let (mut last, mut since, mut longest) = (0, self.now, Duration::ZERO);
        while self.now < end {
            match pace {
                Pace::Full => self.write(),
                Pace::Slow if self.source.log_bytes() < 2000 => self.write(),
                Pace::Slow => {}
            }
            self.step();
            let settled = self.judge.settled_len();
            if settled > last {
                (last, since) = (settled, self.now);
            }
            longest = longest.max(self.now - since);
        }
        longest
    }
}

#[test]
fn a_blocked_instance_of_a_group_holds_back_only_what_it_was_assigned() {
    for seed in 0..40 {
        let (mut world, _) = world(seed, 600_000, Duration::from_secs(100_000));
        let longest = world.write_for(Duration::from_secs(120), Pace::Full);
        assert!(world.judge.stalled.is_empty());
        assert!(
            longest < 2 * SLACK,
            "seed {seed}: no progress for {longest:?}"
        );
    }
}

#[test]
fn a_source_that_waits_is_held_back_by_a_blocked_instance_for_a_limited_time() {
    let mut found = 0;
    for seed in 0..40 {
        // Two windows of the blocked instances: nothing proceeds.
        let (mut world, blocked) = world(seed, 3000, STALLED_MAX);
        let longest = world.write_for(Duration::from_secs(60), Pace::Full);
        // The messages of one that has stalled may go to another one that is blocked.
        let max = STALLED_MAX * blocked.len() as u32 + SLACK;
        assert!(longest <= max, "seed {seed}: no progress for {longest:?}");
        let stalled: Vec<_> = world.judge.stalled.keys().copied().collect();
        let is_blocked = |it: &InstanceId| blocked.contains(it);
        found += stalled.len();
        assert!(stalled.iter().all(is_blocked), "seed {seed}: {stalled:?}");
    }
    assert!(found > 0, "no instance has stalled");
}

#[test]
fn an_instance_on_which_no_source_waits_is_never_removed() {
    for seed in 0..40 {
        let (mut world, _) = world(seed, 600_000, STALLED_MAX);
        world.write_for(Duration::from_secs(100), Pace::Slow);
        assert!(world.judge.stalled.is_empty(), "seed {seed}");
    }
}
