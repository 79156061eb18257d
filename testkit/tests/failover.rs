//! Clients that know several zippers or addresses, in virtual time: zippers that are gone, return, restart
//! with another key, or move. A seed determines the run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use selvedge_client::wire::Rejection;
use selvedge_client::{Client, ClientOptions, ConnectError, Connecting, SettlementLevel, Tag};
use selvedge_driver::{Instant, Simulation};
use selvedge_hub::{Address, Driver, Identity, NodeId};
use selvedge_testkit::MemNet;
use selvedge_zipper::zipper::{Closing, Zipper, ZipperOptions};

const TAG: Tag = Tag(0x10);

/// Plain data, and messages that are settled, which is the default.
const LEVELS: [Option<SettlementLevel>; 2] = [None, Some(SettlementLevel::Processed)];

/// Longer than anything here takes: the detection of a silent peer (3 s), the longest pause between dials
/// (10 s) and a dial that is lost (5 s).
const PATIENCE: Duration = Duration::from_secs(30);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn key(number: u8) -> Identity {
    Identity::from_seed(&[number; 32]).expect("a key")
}

fn address(name: &str) -> Address {
    format!("mem:///{name}").parse().expect("an address")
}

/// Processes that share the time and the network.
struct World {
    net: MemNet,
    rng: Rng,
    simulations: Vec<Simulation>,
    /// By the place of its simulation.
    ids: Vec<u64>,
    next: u64,
    /// The largest number of clients of a zipper.
    clients_max: usize,
}

/// A zipper process.
struct ZipperProcess {
    id: u64,
    name: String,
    zipper: Option<Zipper>,
    closing: Option<Closing>,
}

/// A sink process: it remembers what it has read.
struct Sink {
    client: Client,
    read: Vec<u32>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            net: MemNet::new(ms(2)),
            rng: Rng::with_seed(seed),
            simulations: vec![Simulation::new(seed).expect("it begins")],
            ids: vec![0],
            next: 1,
            clients_max: 1024,
        }
    }

    fn now(&self) -> Instant {
        self.simulations[0].now()
    }

    fn process(&mut self) -> (u64, Arc<Driver>) {
        let simulation = self.simulations[0].beside(self.rng.u64(..));
        let simulation = simulation.expect("it begins");
        let driver = simulation.driver();
        let id = self.next;
        self.simulations.push(simulation);
        self.ids.push(id);
        self.next += 1;
        (id, driver)
    }

    fn kill(&mut self, id: u64) {
        if let Some(at) = self.ids.iter().position(|it| *it == id) {
            self.ids.remove(at);
            drop(self.simulations.remove(at));
        }
    }

    fn zipper(&mut self, name: &str, key: &Identity) -> ZipperProcess {
        let (id, driver) = self.process();
        self.net.plug_in(name);
        let mut options = ZipperOptions::new(name, key.clone());
        let (net, node, at) = (self.net.clone(), key.node_id(), name.to_owned());
        options.listeners.push(Arc::new(move |admission: &_| {
            net.listener(&at, node, Clone::clone(admission))
        }));
        options.driver = Some(driver);
        options.clients_max = self.clients_max;
        ZipperProcess {
            id,
            name: name.to_owned(),
            zipper: Some(Zipper::start(options).expect("it starts")),
            closing: None,
        }
    }

    /// Ends a zipper without any farewell.
    fn crash(&mut self, mut zipper: ZipperProcess, is_silent: bool) {
        if is_silent {
            self.net.unplug(&zipper.name);
        }
        self.kill(zipper.id);
        zipper.zipper = None;
        zipper.closing = None;
    }

    /// Ends a zipper in order.
    fn close(&mut self, mut process: ZipperProcess) {
        let zipper = process.zipper.take().expect("it runs");
        let mut closing = zipper.begin_close(Duration::from_secs(8));
        assert!(self.run_until(PATIENCE, || closing.poll().is_some()));
        self.kill(process.id);
    }

    fn connect(&mut self, options: ClientOptions, name: &str, own: u8) -> Connecting {
        let (_, driver) = self.process();
        let key = key(own);
        let mut options = options;
        options.dialers.push(self.net.dialer(name, key.node_id()));
        options.identity = Some(key);
        options.driver = Some(driver);
        Client::start(options).expect("it begins")
    }

    fn connected(&mut self, mut connecting: Connecting) -> Client {
        let mut result = None;
        assert!(self.run_until(PATIENCE, || {
            result = result.take().or_else(|| connecting.poll());
            result.is_some()
        }));
        result.expect("it has ended").expect("it connects")
    }

    fn source(&mut self, zippers: &[&str], level: Option<SettlementLevel>) -> Client {
        let options = ClientOptions {
            level,
            ..source(zippers)
        };
        let connecting = self.connect(options, "source", 100);
        self.connected(connecting)
    }

    /// A sink at one zipper, which may restart.
    fn sink(&mut self, zipper: &str, own: u8) -> Sink {
        let options =
            ClientOptions::function(format!("sink-{own}"), vec![TAG], vec![address(zipper)]);
        let connecting = self.connect(options, &format!("sink-{own}"), own);
        Sink {
            client: self.connected(connecting),
            read: Vec::new(),
        }
    }

    fn run(&mut self, time: Duration) {
        self.run_until(time, || false);
    }

    fn run_until(&mut self, limit: Duration, done: impl FnMut() -> bool) -> bool {
        Simulation::run_together(&mut self.simulations, limit, done)
    }
}

impl Sink {
    fn read(&mut self) {
        while let Ok(data) = self.client.try_read() {
            let number = data.payload.as_ref().try_into().expect("4 bytes");
            self.read.push(u32::from_be_bytes(number));
        }
    }
}

fn source(zippers: &[&str]) -> ClientOptions {
    let zippers = zippers.iter().map(|name| address(name)).collect();
    ClientOptions::source("source", zippers)
}

fn write(source: &Client, number: u32) {
    source
        .try_write(TAG, number.to_be_bytes())
        .expect("there is room");
}

fn is_connected_to(client: &Client, node: NodeId) -> bool {
    client.zipper_node() == node && client.scheme().is_some()
}

#[test]
fn a_client_moves_to_another_zipper_when_its_own_is_gone() {
    for (level, is_silent) in LEVELS.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let mut world = World::new(1);
        let own = world.zipper("a", &key(1));
        let _other = world.zipper("b", &key(2));
        let source = world.source(&["a", "b"], level);
        assert!(is_connected_to(&source, key(1).node_id()));
        let mut sink = world.sink("b", 50);
        world.crash(own, is_silent);
        write(&source, 1);
        let moved = || is_connected_to(&source, key(2).node_id());
        assert!(world.run_until(PATIENCE, moved), "silent: {is_silent}");
        assert_eq!(source.zipper(), "b");
        write(&source, 2);
        let has_read = || {
            sink.read();
            sink.read.last() == Some(&2)
        };
        assert!(world.run_until(PATIENCE, has_read));
        // The first message was written while the own zipper might have returned.
        let expected = match level {
            None => (vec![2], 1),
            Some(_) => (vec![1, 2], 0),
        };
        assert_eq!((sink.read, source.uncertain()), expected);
    }
}

#[test]
fn a_client_stays_at_a_zipper_that_returns_in_time() {
    // Whenever it is cut off, between two signs of life.
    for phase in 0..20 {
        for level in LEVELS {
            stays(level, ms(50 * phase));
        }
    }
}

fn stays(level: Option<SettlementLevel>, phase: Duration) {
    let mut world = World::new(2);
    let (_own, _other) = (world.zipper("a", &key(1)), world.zipper("b", &key(2)));
    let source = world.source(&["a", "b"], level);
    let mut sink = world.sink("a", 50);
    for (number, away) in [100, 1900, 0].into_iter().enumerate() {
        world.run(phase);
        world.net.cut("source", "a", true);
        world.net.cut("a", "source", true);
        write(&source, number as u32);
        world.run(ms(away));
        world.net.cut("source", "a", false);
        world.net.cut("a", "source", false);
        if away == 0 {
            world.net.kill("source", "a");
        }
        world.run(Duration::from_secs(20));
        assert!(
            is_connected_to(&source, key(1).node_id()),
            "{away} ms, {phase:?}"
        );
    }
    sink.read();
    assert_eq!((sink.read, source.uncertain()), (vec![0, 1, 2], 0));
}

#[test]
fn a_client_of_a_zipper_that_closes_moves_at_once_and_loses_nothing_that_it_writes_then() {
    LEVELS.into_iter().for_each(moves_from_one_that_closes);
}

fn moves_from_one_that_closes(level: Option<SettlementLevel>) {
    let mut world = World::new(3);
    let own = world.zipper("a", &key(1));
    let _other = world.zipper("b", &key(2));
    let source = world.source(&["a", "b"], level);
    let (mut at_own, mut at_other) = (world.sink("a", 50), world.sink("b", 51));
    world.run(ms(1000));
    write(&source, 0);
    world.run(ms(100));
    at_own.read();
    let began = world.now();
    let mut closing = own
        .zipper
        .expect("it runs")
        .begin_close(Duration::from_secs(8));
    let mut number = 0;
    let moved = || {
        let _closed = closing.poll();
        at_own.read();
        is_connected_to(&source, key(2).node_id())
    };
    // Messages are written while the client has no zipper, too.
    let mut written = |world: &mut World| {
        number += 1;
        write(&source, number);
        world.run(ms(10));
    };
    written(&mut world);
    assert!(world.run_until(PATIENCE, moved));
    assert!(
        world.now() - began < Duration::from_secs(2),
        "it moves late"
    );
    for _ in 0..10 {
        written(&mut world);
    }
    world.run(ms(1000));
    at_own.read();
    at_other.read();
    let read = (at_own.read, at_other.read);
    // The first one was on its way to the zipper when that closed.
    let (expected, uncertain) = match level {
        None => ((vec![0], (2..=11).collect()), 1),
        // It was read, and its source does not know that yet: the other zipper has it for its own sink, too.
        Some(_) => ((vec![0], (0..=11).collect()), 0),
    };
    assert_eq!((read, source.uncertain()), (expected, uncertain));
}

#[test]
fn a_client_follows_a_zipper_that_returns_with_another_key_unless_it_was_given_the_key() {
    let mut world = World::new(4);
    let before = world.zipper("a", &key(1));
    let source = world.source(&["a"], None);
    let pinned = ClientOptions {
        node: Some(key(1).node_id()),
        ..self::source(&["a"])
    };
    let connecting = world.connect(pinned, "pinned", 101);
    let pinned = world.connected(connecting);
    world.crash(before, false);
    world.run(ms(1000));
    let _after = world.zipper("a", &key(2));
    let moved = || is_connected_to(&source, key(2).node_id());
    assert!(world.run_until(PATIENCE, moved));
    world.run(PATIENCE);
    assert_eq!(pinned.zipper_node(), key(1).node_id());
    assert_eq!(pinned.scheme(), None);
    assert_eq!(source.uncertain(), 0);
}

#[test]
fn case_18_an_address_that_did_not_answer_at_first_is_used_when_the_others_are_gone() {
    for knows_key in [false, true] {
        let mut world = World::new(5);
        let before = world.zipper("first", &key(1));
        let mut options = source(&["later", "first"]);
        options.node = knows_key.then(|| key(1).node_id());
        let connecting = world.connect(options, "source", 100);
        let source = world.connected(connecting);
        // For longer than a better address is awaited.
        world.run(ms(1000));
        world.crash(before, false);
        world.run(ms(1000));
        let _after = world.zipper("later", &key(1));
        let returned = || source.scheme().is_some();
        assert!(world.run_until(PATIENCE, returned), "key: {knows_key}");
        assert_eq!(source.uncertain(), 0);
    }
}

#[test]
fn a_client_waits_for_a_zipper_that_starts_later() {
    for (timeout, is_connected) in [(ms(500), false), (PATIENCE, true), (Duration::MAX, true)] {
        let mut world = World::new(6);
        let options = ClientOptions {
            timeout,
            ..source(&["a"])
        };
        let mut connecting = world.connect(options, "source", 100);
        let mut result = None;
        assert!(!world.run_until(ms(400), || {
            result = connecting.poll();
            result.is_some()
        }));
        world.run(ms(600));
        let _zipper = world.zipper("a", &key(1));
        assert!(world.run_until(PATIENCE, || {
            result = result.take().or_else(|| connecting.poll());
            result.is_some()
        }));
        let result = result.expect("it has ended");
        assert_eq!(result.is_ok(), is_connected, "{timeout:?}: {result:?}");
    }
}

#[test]
fn case_21_the_place_of_a_dead_client_is_free_soon_and_that_of_a_live_one_is_not() {
    let mut world = World::new(7);
    world.clients_max = 1;
    let _zipper = world.zipper("a", &key(1));
    let first = world.source(&["a"], None);
    let options = || ClientOptions {
        timeout: Duration::from_secs(5),
        ..source(&["a"])
    };
    let mut result = None;
    let mut connecting = world.connect(options(), "second", 101);
    assert!(world.run_until(PATIENCE, || {
        result = connecting.poll();
        result.is_some()
    }));
    match result.expect("it has ended") {
        Err(ConnectError::Rejected { code, message }) => {
            assert_eq!(code, Rejection::Full as u16, "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert!(first.scheme().is_some());
    world.net.unplug("source");
    // The detection of a silent peer, and the time for it to return.
    world.run(Duration::from_secs(3 + 3));
    let connecting = world.connect(options(), "second", 101);
    let second = world.connected(connecting);
    assert!(second.scheme().is_some());
}

/// One source and three zippers that crash, close and restart, some with another key. Returns why a run is
/// wrong.
fn run(seed: u64) -> Result<(), String> {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let mut world = World::new(seed);
    let mut rng = Rng::with_seed(seed);
    let mut keys: Vec<u8> = vec![1, 2, 3];
    let start =
        |world: &mut World, at: usize, keys: &[u8]| Some(world.zipper(NAMES[at], &key(keys[at])));
    let mut zippers: Vec<_> = (0..3).map(|at| start(&mut world, at, &keys)).collect();
    let level = LEVELS[(seed % 2) as usize];
    let source = world.source(&NAMES, level);
    let mut sinks: Vec<Sink> = (0..3)
        .map(|at| world.sink(NAMES[at], 50 + at as u8))
        .collect();
    let mut written = 0_u32;
    for _ in 0..rng.usize(3..12) {
        let at = rng.usize(..3);
        match zippers[at].take() {
            Some(zipper) if rng.bool() => world.close(zipper),
            Some(zipper) => world.crash(zipper, rng.bool()),
            None => {
                if rng.u8(..3) == 0 {
                    keys[at] += 3;
                }
                zippers[at] = start(&mut world, at, &keys);
            }
        }
        for _ in 0..rng.usize(..50) {
            written += u32::from(source.try_write(TAG, written.to_be_bytes()).is_ok());
            world.run(ms(rng.u64(..200)));
            sinks.iter_mut().for_each(Sink::read);
        }
    }
    for (at, zipper) in zippers.iter_mut().enumerate() {
        if zipper.is_none() {
            *zipper = start(&mut world, at, &keys);
        }
    }
    let is_whole = || {
        let node = source.zipper_node();
        source.scheme().is_some() && keys.iter().any(|it| key(*it).node_id() == node)
    };
    if !world.run_until(PATIENCE, is_whole) {
        return Err("the source does not find a zipper again".into());
    }
    world.run(PATIENCE);
    // A message waits for the lease of a sink that no other zipper reaches.
    let is_counted = || {
        sinks.iter_mut().for_each(Sink::read);
        source.outcomes().unsettled() == 0
    };
    let is_counted = world.run_until(2 * PATIENCE, is_counted);
    sinks.iter_mut().for_each(Sink::read);
    let outcomes = source.outcomes();
    let total = outcomes.total();
    let sum = total.settled + total.unobserved + total.abandoned();
    let has_uncertain = source.uncertain() > 0;
    if level.is_some() && (!is_counted || has_uncertain || sum != u64::from(written)) {
        return Err(format!("of {written} messages: {outcomes:?}"));
    }
    let mut seen = BTreeSet::new();
    for sink in &sinks {
        // Each zipper has a sink with a name of its own. The next zipper may have a settled message for its own
        // sink that was read at the former one.
        if level.is_some() {
            seen.clear();
        }
        if !sink.read.is_sorted() {
            return Err(format!("out of order: {:?}", sink.read));
        }
        if let Some(number) = sink.read.iter().find(|number| !seen.insert(**number)) {
            return Err(format!("{number} was read twice"));
        }
    }
    Ok(())
}

#[test]
fn whatever_befalls_its_zippers_a_source_finds_one_and_repeats_nothing() {
    for seed in 0..100 {
        if let Err(why) = run(seed) {
            panic!("seed {seed}: {why}");
        }
    }
}
