//! The policy over simulated workers, in virtual time.

use super::*;

/// Never idle: it takes whatever time it is given.
const GREEDY: f64 = f64::INFINITY;

#[derive(Clone)]
struct Flow {
    home: usize,
    /// The share of a worker that it would take.
    wants: f64,
    /// What its weight is, as a multiple of the time that it took.
    looks: f64,
    pinned: bool,
    rest: Rest,
    moves: u32,
}

fn flow(home: usize, wants: f64) -> Flow {
    Flow {
        home,
        wants,
        looks: 1.0,
        pinned: false,
        rest: Rest::default(),
        moves: 0,
    }
}

const INTERVAL: Duration = Duration::from_millis(250);

struct Sim {
    now: Instant,
    workers: usize,
    flows: Vec<Flow>,
    choosers: Vec<Chooser>,
    random: u64,
    /// By how much each measured weight may be off: 0.1 is 10 %.
    noise: f64,
}

impl Sim {
    fn new(workers: usize, flows: Vec<Flow>) -> Self {
        let now = Instant::now();
        Self {
            now,
            workers,
            flows,
            choosers: (0..workers).map(|_| Chooser::default()).collect(),
            random: 1,
            noise: 0.0,
        }
    }

    /// Uniform from 0 to 1.
    fn draw(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The share of its worker's time that each flow gets, each as much as any other that wants it.
    fn shares(&self) -> Vec<f64> {
        let mut got = vec![0.0; self.flows.len()];
        for worker in 0..self.workers {
            let mut left = 1.0;
            let mut here: Vec<_> = (0..self.flows.len())
                .filter(|&at| self.flows[at].home == worker)
                .collect();
            here.sort_by(|&a, &b| self.flows[a].wants.total_cmp(&self.flows[b].wants));
            for (served, &at) in here.iter().enumerate() {
                let fair = left / (here.len() - served) as f64;
                got[at] = self.flows[at].wants.min(fair);
                left -= got[at];
            }
        }
        got
    }

    fn loads(&self) -> Vec<f64> {
        let shares = self.shares();
        let on = |worker| {
            let flows = self.flows.iter().zip(&shares);
            flows.filter(move |(it, _)| it.home == worker)
        };
        (0..self.workers)
            .map(|worker| on(worker).map(|(_, share)| share).sum())
            .collect()
    }

    fn homes(&self) -> Vec<usize> {
        let at = |worker| self.flows.iter().filter(|it| it.home == worker).count();
        (0..self.workers).map(at).collect()
    }

    /// One interval: each worker looks in turn, until one moves something.
    fn step(&mut self) -> Option<Move> {
        self.now += INTERVAL;
        let noise = self.noise;
        let mut choosers = std::mem::take(&mut self.choosers);
        let shares: Vec<_> = self.shares();
        let weights: Vec<_> = (0..shares.len())
            .map(|at| shares[at] * self.flows[at].looks * (1.0 + noise * (self.draw() - 0.5)))
            .collect();
        let candidates = |worker| -> Vec<_> {
            let flows = self.flows.iter().zip(&weights).enumerate();
            flows
                .filter(|(_, (it, _))| it.home == worker)
                .map(|(key, (it, &weight))| Candidate {
                    key,
                    weight,
                    may_move: !it.pinned && it.rest.is_over(self.now),
                })
                .collect()
        };
        let loads: Vec<_> = (0..)
            .zip(self.loads())
            .map(|(worker, share)| Load {
                share,
                crowd: crowd(&candidates(worker)),
            })
            .collect();
        let mut chosen = None;
        for (here, chooser) in choosers.iter_mut().enumerate() {
            match chosen {
                None => chosen = chooser.choose(here, &loads, &candidates(here)),
                Some(_) => chooser.skip(),
            }
        }
        self.choosers = choosers;
        let chosen = chosen?;
        let moved = &mut self.flows[chosen.key];
        assert_ne!(moved.home, chosen.to);
        moved.home = chosen.to;
        moved.moves += 1;
        moved.rest.begin(self.now, INTERVAL);
        Some(chosen)
    }

    /// Runs so many intervals; how many moves there were.
    fn run(&mut self, intervals: usize) -> usize {
        (0..intervals).filter_map(|_| self.step()).count()
    }
}

#[test]
fn busy_workers_even_out_and_then_stay() {
    for workers in 2..=4 {
        let mut sim = Sim::new(workers, vec![flow(0, 0.1); 8 * workers]);
        assert!(sim.run(100) > 0);
        let loads = sim.loads();
        let most = loads.iter().copied().fold(0.0, f64::max);
        let least = loads.iter().copied().fold(1.0, f64::min);
        assert!(most - least < MARGIN, "{loads:?}");
        assert_eq!(sim.run(1000), 0, "{loads:?}");
    }
}

#[test]
fn endpoints_that_take_all_they_get_are_spread_by_number() {
    for workers in 2..=4 {
        let mut sim = Sim::new(workers, vec![flow(0, GREEDY); 3 * workers]);
        sim.run(100);
        let homes = sim.homes();
        assert!(homes.iter().all(|&at| (2..=4).contains(&at)), "{homes:?}");
        assert_eq!(sim.run(1000), 0, "{homes:?}");
    }
}

#[test]
fn the_third_interval_moves_one_and_each_more_at_most_one() {
    let mut sim = Sim::new(2, vec![flow(0, GREEDY); 8]);
    assert_eq!([sim.step(), sim.step()], [None, None]);
    for moves in 1..=4 {
        assert!(sim.step().is_some());
        assert_eq!(sim.homes()[1], moves);
    }
}

#[test]
fn quiet_workers_are_left_alone() {
    let mut sim = Sim::new(2, vec![flow(0, 0.1); 5]);
    assert_eq!(sim.run(1000), 0);
}

#[test]
fn quiet_endpoints_stay_where_the_busy_ones_leave() {
    let mut flows = vec![flow(0, GREEDY); 4];
    flows.extend(vec![flow(0, 0.0); 50]);
    let mut sim = Sim::new(2, flows);
    sim.run(1000);
    assert_eq!(sim.homes(), [52, 2]);
    assert!(sim.flows[4..].iter().all(|it| it.home == 0));
}

#[test]
fn workers_that_differ_little_are_left_alone() {
    let flows = vec![flow(0, 0.3), flow(0, 0.3), flow(0, 0.2), flow(1, 0.7)];
    assert_eq!(Sim::new(2, flows).run(1000), 0);
}

#[test]
fn one_giant_is_not_moved_back_and_forth() {
    let mut alone = Sim::new(4, vec![flow(0, GREEDY)]);
    assert_eq!(alone.run(1000), 0);
    let mut flows = vec![flow(0, 0.02); 5];
    flows.push(flow(0, GREEDY));
    let mut among_small = Sim::new(2, flows);
    assert!(among_small.run(1000) <= 6);
    let moves = among_small.flows[5].moves;
    assert!(moves <= 1, "{moves}");
}

#[test]
fn a_giant_on_another_worker_does_not_keep_two_together() {
    let flows = vec![flow(0, 1.0), flow(1, 0.45), flow(1, 0.45)];
    let mut sim = Sim::new(3, flows);
    assert_eq!(sim.run(1000), 1);
    assert_eq!(sim.homes(), [1, 1, 1]);
}

#[test]
fn what_may_not_move_does_not() {
    let mut flows = vec![flow(0, GREEDY); 4];
    flows.iter_mut().for_each(|it| it.pinned = true);
    flows[2].pinned = false;
    let mut sim = Sim::new(2, flows);
    assert_eq!(sim.run(1000), 1);
    assert_eq!(sim.flows[2].home, 1);
}

#[test]
fn an_endpoint_rests_longer_after_each_move_until_it_has_stayed_long() {
    let mut now = Instant::now();
    let mut rest = Rest::default();
    assert!(rest.is_over(now));
    for intervals in [4, 16, 64, 256, 1024, 4096, 4096] {
        rest.begin(now, INTERVAL);
        assert!(!rest.is_over(now + INTERVAL * (intervals - 1)));
        now += INTERVAL * intervals;
        assert!(rest.is_over(now));
    }
    now += INTERVAL * 2 * 4096;
    rest.begin(now, INTERVAL);
    assert!(rest.is_over(now + INTERVAL * 4));
}

/// Found among random ones: on worker 0 the rules disagree about the last 2 % of its time.
#[test]
fn a_worker_that_is_only_just_full_does_not_make_it_oscillate() {
    let mut flows: Vec<_> = [0.28, 0.026, 0.033, 0.105, 0.263, 0.277]
        .map(|wants| flow(0, wants))
        .into();
    flows.extend([flow(1, GREEDY), flow(1, GREEDY)]);
    let mut sim = Sim::new(2, flows);
    sim.run(1000);
    assert!(sim.run(5000) <= 6);
}

#[test]
fn wrong_and_noisy_weights_do_not_make_it_oscillate() {
    for seed in 1..=40_u64 {
        let mut sim = Sim::new(2 + seed as usize % 3, Vec::new());
        sim.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sim.noise = 0.4;
        for _ in 0..4 + seed % 20 {
            let wants = if sim.draw() < 0.3 {
                GREEDY
            } else {
                sim.draw() * 0.3
            };
            let mut it = flow(0, wants);
            it.looks = 0.25 + 4.0 * sim.draw();
            sim.flows.push(it);
        }
        let flows = sim.flows.len();
        let first = sim.run(500);
        let late = sim.run(1000);
        assert!(first <= 3 * flows, "seed {seed}: {first} moves of {flows}");
        assert!(late <= flows, "seed {seed}: {late} later of {flows}");
    }
}
