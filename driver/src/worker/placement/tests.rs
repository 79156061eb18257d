//! The policy over simulated workers, in virtual time.

use super::*;

/// Never idle: it uses all the time that it gets.
const GREEDY: f64 = f64::INFINITY;

#[derive(Clone)]
struct SimulatedEndpoint {
    home: usize,
    /// The share of a worker that it would use.
    demand: f64,
    /// The ratio of its weight to the time that it used.
    weight_factor: f64,
    pinned: bool,
    cooldown: Cooldown,
    moves: u32,
}

fn endpoint(home: usize, demand: f64) -> SimulatedEndpoint {
    SimulatedEndpoint {
        home,
        demand,
        weight_factor: 1.0,
        pinned: false,
        cooldown: Cooldown::default(),
        moves: 0,
    }
}

const INTERVAL: Duration = Duration::from_millis(250);

struct Sim {
    now: Instant,
    workers: usize,
    endpoints: Vec<SimulatedEndpoint>,
    choosers: Vec<Chooser>,
    random: u64,
    /// The error of each measured weight: 0.1 is 10 %.
    noise: f64,
}

impl Sim {
    fn new(workers: usize, endpoints: Vec<SimulatedEndpoint>) -> Self {
        let now = Instant::now();
        Self {
            now,
            workers,
            endpoints,
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

    /// The share of its worker's time that each endpoint gets: equal shares, up to its demand.
    fn shares(&self) -> Vec<f64> {
        let mut got = vec![0.0; self.endpoints.len()];
        for worker in 0..self.workers {
            let mut left = 1.0;
            let mut here: Vec<_> = (0..self.endpoints.len())
                .filter(|&at| self.endpoints[at].home == worker)
                .collect();
            here.sort_by(|&a, &b| {
                self.endpoints[a]
                    .demand
                    .total_cmp(&self.endpoints[b].demand)
            });
            for (served, &at) in here.iter().enumerate() {
                let fair = left / (here.len() - served) as f64;
                got[at] = self.endpoints[at].demand.min(fair);
                left -= got[at];
            }
        }
        got
    }

    fn loads(&self) -> Vec<f64> {
        let shares = self.shares();
        let on = |worker| {
            let endpoints = self.endpoints.iter().zip(&shares);
            endpoints.filter(move |(it, _)| it.home == worker)
        };
        (0..self.workers)
            .map(|worker| on(worker).map(|(_, share)| share).sum())
            .collect()
    }

    fn homes(&self) -> Vec<usize> {
        let at = |worker| self.endpoints.iter().filter(|it| it.home == worker).count();
        (0..self.workers).map(at).collect()
    }

    /// One interval: each worker weight_factor in turn, until one moves something.
    fn step(&mut self) -> Option<Move> {
        self.now += INTERVAL;
        let noise = self.noise;
        let mut choosers = std::mem::take(&mut self.choosers);
        let shares: Vec<_> = self.shares();
        let weights: Vec<_> = (0..shares.len())
            .map(|at| {
                shares[at] * self.endpoints[at].weight_factor * (1.0 + noise * (self.draw() - 0.5))
            })
            .collect();
        let candidates = |worker| -> Vec<_> {
            let endpoints = self.endpoints.iter().zip(&weights).enumerate();
            endpoints
                .filter(|(_, (it, _))| it.home == worker)
                .map(|(key, (it, &weight))| Candidate {
                    key,
                    weight,
                    may_move: !it.pinned && it.cooldown.is_over(self.now),
                })
                .collect()
        };
        let loads: Vec<_> = (0..)
            .zip(self.loads())
            .map(|(worker, share)| WorkerLoad {
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
        let moved = &mut self.endpoints[chosen.key];
        assert_ne!(moved.home, chosen.to);
        moved.home = chosen.to;
        moved.moves += 1;
        moved.cooldown.begin(self.now, INTERVAL);
        Some(chosen)
    }

    /// Runs so many intervals. Returns the number of moves.
    fn run(&mut self, intervals: usize) -> usize {
        (0..intervals).filter_map(|_| self.step()).count()
    }
}

#[test]
fn busy_workers_even_out_and_then_stay() {
    for workers in 2..=4 {
        let mut sim = Sim::new(workers, vec![endpoint(0, 0.1); 8 * workers]);
        assert!(sim.run(100) > 0);
        let loads = sim.loads();
        let most = loads.iter().copied().fold(0.0, f64::max);
        let least = loads.iter().copied().fold(1.0, f64::min);
        assert!(most - least < MARGIN, "{loads:?}");
        assert_eq!(sim.run(1000), 0, "{loads:?}");
    }
}

#[test]
fn endpoints_that_use_all_the_time_they_get_are_spread_by_number() {
    for workers in 2..=4 {
        let mut sim = Sim::new(workers, vec![endpoint(0, GREEDY); 3 * workers]);
        sim.run(100);
        let homes = sim.homes();
        assert!(homes.iter().all(|&at| (2..=4).contains(&at)), "{homes:?}");
        assert_eq!(sim.run(1000), 0, "{homes:?}");
    }
}

#[test]
fn the_third_interval_moves_one_endpoint_and_each_later_one_at_most_one() {
    let mut sim = Sim::new(2, vec![endpoint(0, GREEDY); 8]);
    assert_eq!([sim.step(), sim.step()], [None, None]);
    for moves in 1..=4 {
        assert!(sim.step().is_some());
        assert_eq!(sim.homes()[1], moves);
    }
}

#[test]
fn quiet_workers_are_left_alone() {
    let mut sim = Sim::new(2, vec![endpoint(0, 0.1); 5]);
    assert_eq!(sim.run(1000), 0);
}

#[test]
fn quiet_endpoints_stay_where_the_busy_ones_leave() {
    let mut endpoints = vec![endpoint(0, GREEDY); 4];
    endpoints.extend(vec![endpoint(0, 0.0); 50]);
    let mut sim = Sim::new(2, endpoints);
    sim.run(1000);
    assert_eq!(sim.homes(), [52, 2]);
    assert!(sim.endpoints[4..].iter().all(|it| it.home == 0));
}

#[test]
fn workers_that_differ_little_are_left_alone() {
    let endpoints = vec![
        endpoint(0, 0.3),
        endpoint(0, 0.3),
        endpoint(0, 0.2),
        endpoint(1, 0.7),
    ];
    assert_eq!(Sim::new(2, endpoints).run(1000), 0);
}

#[test]
fn one_giant_is_not_moved_back_and_forth() {
    let mut alone = Sim::new(4, vec![endpoint(0, GREEDY)]);
    assert_eq!(alone.run(1000), 0);
    let mut endpoints = vec![endpoint(0, 0.02); 5];
    endpoints.push(endpoint(0, GREEDY));
    let mut among_small = Sim::new(2, endpoints);
    assert!(among_small.run(1000) <= 6);
    let moves = among_small.endpoints[5].moves;
    assert!(moves <= 1, "{moves}");
}

#[test]
fn a_giant_on_another_worker_does_not_keep_two_together() {
    let endpoints = vec![endpoint(0, 1.0), endpoint(1, 0.45), endpoint(1, 0.45)];
    let mut sim = Sim::new(3, endpoints);
    assert_eq!(sim.run(1000), 1);
    assert_eq!(sim.homes(), [1, 1, 1]);
}

#[test]
fn a_pinned_endpoint_is_not_moved() {
    let mut endpoints = vec![endpoint(0, GREEDY); 4];
    endpoints.iter_mut().for_each(|it| it.pinned = true);
    endpoints[2].pinned = false;
    let mut sim = Sim::new(2, endpoints);
    assert_eq!(sim.run(1000), 1);
    assert_eq!(sim.endpoints[2].home, 1);
}

#[test]
fn the_cooldown_grows_with_each_move_until_an_endpoint_has_stayed_long() {
    let mut now = Instant::now();
    let mut cooldown = Cooldown::default();
    assert!(cooldown.is_over(now));
    for intervals in [4, 16, 64, 256, 1024, 4096, 4096] {
        cooldown.begin(now, INTERVAL);
        assert!(!cooldown.is_over(now + INTERVAL * (intervals - 1)));
        now += INTERVAL * intervals;
        assert!(cooldown.is_over(now));
    }
    now += INTERVAL * 2 * 4096;
    cooldown.begin(now, INTERVAL);
    assert!(cooldown.is_over(now + INTERVAL * 4));
}

/// Found by random search: on worker 0 the rules disagree about the last 2 % of its time.
#[test]
fn a_worker_that_is_only_just_saturated_causes_no_oscillation() {
    let mut endpoints: Vec<_> = [0.28, 0.026, 0.033, 0.105, 0.263, 0.277]
        .map(|demand| endpoint(0, demand))
        .into();
    endpoints.extend([endpoint(1, GREEDY), endpoint(1, GREEDY)]);
    let mut sim = Sim::new(2, endpoints);
    sim.run(1000);
    assert!(sim.run(5000) <= 6);
}

#[test]
fn wrong_and_noisy_weights_cause_no_oscillation() {
    for seed in 1..=40_u64 {
        let mut sim = Sim::new(2 + seed as usize % 3, Vec::new());
        sim.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sim.noise = 0.4;
        for _ in 0..4 + seed % 20 {
            let demand = if sim.draw() < 0.3 {
                GREEDY
            } else {
                sim.draw() * 0.3
            };
            let mut it = endpoint(0, demand);
            it.weight_factor = 0.25 + 4.0 * sim.draw();
            sim.endpoints.push(it);
        }
        let endpoints = sim.endpoints.len();
        let first = sim.run(500);
        let late = sim.run(1000);
        assert!(
            first <= 3 * endpoints,
            "seed {seed}: {first} moves of {endpoints}"
        );
        assert!(
            late <= endpoints,
            "seed {seed}: {late} later of {endpoints}"
        );
    }
}
