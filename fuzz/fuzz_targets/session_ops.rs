//! Two honest sessions under operations that the fuzzer chooses, compared with a model of the messages.
//!
//! An operation has three bytes: its kind, its place and its amount. Under any order of sends, cuts,
//! losses and pauses, neither side may report a violation by the other. Once the faults end, every
//! message must have arrived, once and in the order of its lane, and every send buffer must be empty.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "session_ops/path.rs"]
mod path;
#[path = "session_ops/side.rs"]
mod side;
#[path = "session_ops/world.rs"]
mod world;

use world::World;

/// How long an operation may pause, in milliseconds: around the delays of acknowledgements (20), of
/// repeated introductions (200), of heartbeats (1,000) and of silence (3,000).
const PAUSES: [u64; 8] = [0, 1, 7, 20, 60, 210, 1100, 3100];

fuzz_target!(|bytes: &[u8]| {
    let Some((&flags, operations)) = bytes.split_first() else {
        return;
    };
    let mut world = World::new(flags);
    for operation in operations.chunks_exact(3) {
        apply(&mut world, [operation[0], operation[1], operation[2]]);
        world.drain();
    }
    world.finish(flags);
});

/// `place` names a side by its lowest bit, and a path or a lane by the others.
fn apply(world: &mut World, [what, place, amount]: [u8; 3]) {
    let (side, which) = (usize::from(place & 1), usize::from(place >> 1));
    let count = usize::from(amount % 16) + 1;
    let (at, to) = (usize::from(amount & 15), usize::from(amount >> 4));
    match what % 14 {
        0 => world.sides[side].send(place >> 1, amount),
        1 => world.connect(side, which % 2 == 0),
        2 => world.with_path(which, |path, sides, _| path.cut(sides, side)),
        3 => world.with_path(which, |path, sides, _| path.notice(sides)),
        4 => world.with_path(which, |path, sides, _| path.close(sides, side)),
        // Another transport replaces one that still works, as in a migration.
        5 => {
            world.connect(side, amount % 2 == 0);
            world.with_path(which, |path, sides, _| path.close(sides, side));
        }
        6 => world.with_path(which, |path, sides, now| {
            path.pull(sides, now, side, 1 + count / 4, amount);
        }),
        7 => world.with_path(which, |path, sides, now| {
            for _ in 0..count {
                path.deliver(sides, now, side, amount & 0x80 != 0);
            }
        }),
        8 => world.with_path(which, |path, _, _| path.lose(side, at)),
        9 => world.with_path(which, |path, _, _| path.duplicate(side, at)),
        10 => world.with_path(which, |path, _, _| path.swap(side, at, to)),
        11 => world.pause(PAUSES[usize::from(amount % 8)]),
        12 => world.sides[side].take(count),
        // Many steps at once, so that a short input reaches far.
        _ => (0..count).for_each(|_| {
            world.turn(64 << (place % 5));
        }),
    }
}
