//! Real sockets through proxies that kill, stall and drop: everything arrives once and in order.
//!
//! `CHAOS_SECONDS=60 cargo test -p selvedge-testkit --release --test sockets` runs longer; the
//! default is 5.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use selvedge_driver::{
    Address, Admission, Connected, Dialers, Driver, DriverConfig, Endpoint, Identity, LaneConfig,
    LaneId, Listening, SessionConfig, bind, dialers,
};
use selvedge_testkit::{Conditions, Proxy};

const SCHEMES: [&str; 5] = ["quic", "tcp", "udp", "tcp+plain", "udp+plain"];

/// Far longer than any test here takes; only a defect reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

const LANES: u8 = 3;

fn config() -> SessionConfig {
    let lane = |number| LaneConfig {
        priority: number,
        ..LaneConfig::default()
    };
    SessionConfig {
        lanes: (0..LANES).map(lane).collect(),
        ..SessionConfig::default()
    }
}

/// Two nodes, each with a driver of two workers, and a proxy in front of each listener of the second.
struct Two {
    near: Endpoint,
    far: Endpoint,
    drivers: [Driver; 2],
    dialers: Dialers,
    proxies: Vec<(Address, Proxy)>,
    _listening: Vec<Listening>,
}

impl Two {
    fn new(seed: u64) -> Self {
        let keys = [0, 1].map(|_| Identity::generate().expect("randomness"));
        let workers = NonZeroUsize::new(2).expect("two");
        let drivers = [0, 1].map(|_| {
            let config = DriverConfig {
                workers,
                ..DriverConfig::default()
            };
            Driver::new(config).expect("threads")
        });
        let [a, b] = [keys[0].node_id(), keys[1].node_id()];
        let near = drivers[0].endpoint(config(), a, b).expect("it runs");
        let far = drivers[1].endpoint(config(), b, a).expect("it runs");
        let (mut proxies, mut listening) = (Vec::new(), Vec::new());
        for scheme in SCHEMES {
            let address = format!("{scheme}://127.0.0.1:0")
                .parse()
                .expect("an address");
            let listener = bind(&address, &keys[1], &Admission::anyone()).expect("a port");
            let taking = far.clone();
            let accepted = move |connected: Connected| {
                // Refused only after the end of the test.
                let _ = taking.attach(connected);
            };
            let at = drivers[1].listen(listener, accepted).expect("it runs");
            let target = at.address().as_socket().expect("an address");
            let good = Conditions::default();
            let proxy = if scheme.starts_with("tcp") {
                Proxy::tcp(target, good)
            } else {
                Proxy::udp(target, good, seed)
            };
            let proxy = proxy.expect("sockets");
            proxies.push((address_of(scheme, proxy.address()), proxy));
            listening.push(at);
        }
        Self {
            near,
            far,
            drivers,
            dialers: dialers(&keys[0]),
            proxies,
            _listening: listening,
        }
    }

    /// Attaches another connection if the dial succeeds.
    fn swap(&self, scheme: usize) -> bool {
        let (address, _) = &self.proxies[scheme % SCHEMES.len()];
        let to = Some(self.near.peer());
        match self.drivers[0].dial_blocking(&self.dialers, address, to) {
            Ok(connected) => self.near.attach(connected).is_ok(),
            Err(_) => false,
        }
    }
}

fn address_of(scheme: &str, at: SocketAddr) -> Address {
    format!("{scheme}://{at}").parse().expect("an address")
}

fn payload(number: u64, len: usize) -> Bytes {
    let mut payload = vec![number as u8; len.max(8)];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload.into()
}

/// Threads that send numbered messages on each lane of both sides until they are stopped, and others that check
/// the received messages.
struct Traffic {
    stop: Arc<AtomicBool>,
    sending: Vec<std::thread::JoinHandle<u64>>,
    receiving: Vec<std::thread::JoinHandle<[u64; LANES as usize]>>,
    /// The messages that each side has received.
    arrived: Arc<[AtomicU64; 2]>,
    end: Arc<[AtomicU64; 2]>,
}

impl Traffic {
    fn start(two: &Two) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (arrived, end) = (
            Arc::default(),
            Arc::new([0, 1].map(|_| AtomicU64::new(u64::MAX))),
        );
        let mut traffic = Self {
            stop,
            sending: Vec::new(),
            receiving: Vec::new(),
            arrived,
            end,
        };
        for (side, endpoint) in [&two.near, &two.far].into_iter().enumerate() {
            for lane in 0..LANES {
                let (stop, from) = (Arc::clone(&traffic.stop), endpoint.clone());
                traffic
                    .sending
                    .push(std::thread::spawn(move || send(&from, lane, &stop)));
            }
            let (arrived, end) = (Arc::clone(&traffic.arrived), Arc::clone(&traffic.end));
            let at = endpoint.clone();
            traffic.receiving.push(std::thread::spawn(move || {
                receive(&at, &arrived[side], &end[side])
            }));
        }
        traffic
    }

    /// Stops sending. Returns the number of messages that arrived, all once and in order.
    fn finish(self, two: &Two) -> u64 {
        self.stop.store(true, Ordering::Release);
        let sent: Vec<u64> = self
            .sending
            .into_iter()
            .map(|it| it.join().expect("it sends"))
            .collect();
        let by_side: Vec<&[u64]> = sent.chunks(usize::from(LANES)).collect();
        // Each side waits for everything that the other has sent.
        for side in 0..2 {
            let total = by_side[1 - side].iter().sum();
            self.end[side].store(total, Ordering::Release);
        }
        for endpoint in [&two.near, &two.far] {
            endpoint.flush(PATIENCE).expect("all of it is acknowledged");
        }
        for (side, receiving) in self.receiving.into_iter().enumerate() {
            let received = receiving.join().expect("once and in order");
            assert_eq!(received[..], *by_side[1 - side]);
        }
        sent.iter().sum()
    }
}

fn send(from: &Endpoint, lane: u8, stop: &AtomicBool) -> u64 {
    let lane = LaneId::new(lane).expect("few lanes");
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        let len = match number % 1000 {
            999 => 100_000,
            n if n % 50 == 0 => 5_000,
            _ => 200,
        };
        from.send(lane, payload(number, len)).expect("it is open");
        number += 1;
    }
    number
}

fn receive(at: &Endpoint, arrived: &AtomicU64, end: &AtomicU64) -> [u64; LANES as usize] {
    let mut next = [0; LANES as usize];
    loop {
        match at.recv_timeout(Duration::from_millis(100)) {
            Ok(message) => {
                let head = message.payload.first_chunk().expect("a number");
                let expected = &mut next[usize::from(message.lane.number())];
                assert_eq!(u64::from_be_bytes(*head), *expected, "{}", message.lane);
                *expected += 1;
                arrived.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                let all: u64 = next.iter().sum();
                if all == end.load(Ordering::Acquire) {
                    return next;
                }
                assert!(
                    !matches!(error, selvedge_driver::TryRecvError::Closed(_)),
                    "{error}"
                );
            }
        }
    }
}

fn duration() -> Duration {
    let asked = std::env::var("CHAOS_SECONDS").ok();
    let seconds = asked.and_then(|text| text.parse().ok()).unwrap_or(5);
    Duration::from_secs(seconds)
}

#[test]
fn n8_transports_swapped_each_200_ms_under_full_load_lose_and_repeat_nothing() {
    let two = Two::new(1);
    assert!(two.swap(0));
    let traffic = Traffic::start(&two);
    let begin = Instant::now();
    let mut swaps = 0;
    let ticks = crossbeam_channel::tick(Duration::from_millis(200));
    while begin.elapsed() < duration() {
        ticks.recv().expect("a tick");
        swaps += usize::from(two.swap(swaps + 1));
    }
    assert!(swaps >= 3, "{swaps} swaps");
    let messages = traffic.finish(&two);
    println!("{messages} messages over {swaps} swaps");
}

#[test]
fn transports_killed_and_stalled_at_random_under_full_load_lose_and_repeat_nothing() {
    let seed = 7;
    println!("seed {seed}");
    let (two, mut rng) = (Two::new(seed), Rng::with_seed(seed));
    assert!(two.swap(0));
    let traffic = Traffic::start(&two);
    let begin = Instant::now();
    let mut faults = 0;
    let ticks = crossbeam_channel::tick(Duration::from_millis(100));
    while begin.elapsed() < duration() {
        ticks.recv().expect("a tick");
        let (_, proxy) = &two.proxies[rng.usize(..SCHEMES.len())];
        match rng.u8(0..8) {
            0..3 => proxy.kill(),
            3 => proxy.set(Conditions {
                loss: 0.05,
                latency: Duration::from_millis(5),
                ..Conditions::default()
            }),
            4 => proxy.set(Conditions {
                cut: true,
                ..Conditions::default()
            }),
            _ => proxy.set(Conditions::default()),
        }
        faults += 1;
        if two.near.transport().is_none() || rng.u8(0..4) == 0 {
            // The dial may fail: the proxy may be cut.
            let scheme = rng.usize(..SCHEMES.len());
            two.proxies[scheme].1.set(Conditions::default());
            two.swap(scheme);
        }
        for (endpoint, worker) in [(&two.near, rng.usize(0..2)), (&two.far, rng.usize(0..2))] {
            endpoint.migrate(worker);
        }
    }
    for (_, proxy) in &two.proxies {
        proxy.set(Conditions::default());
    }
    assert!(two.swap(1) || two.swap(3));
    let messages = traffic.finish(&two);
    println!("{messages} messages through {faults} faults");
}
