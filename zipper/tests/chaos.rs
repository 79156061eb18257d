//! Five zippers, each on a host of its own, are killed, cut off and frozen under load: every line of every source
//! reaches each group of functions once and in order. The same holds while all of them are restarted in turn.
//!
//! Ignored by default, because it needs root (network namespaces) and a minute: `.ci/hosts` runs it in CI.
//! `CHAOS_SECONDS` sets how long the faults last, and `CHAOS_SEED` repeats their sequence.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use selvedge_hub::Identity;

const ZIPPERS: usize = 5;

/// The host of the clients.
const CLIENTS: usize = ZIPPERS;

/// How often a zipper is killed.
const KILL_INTERVAL: Duration = Duration::from_secs(2);

/// Far longer than everything takes to arrive once the faults are over; only a defect reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

const TAG: &str = "0x10";

/// Sinks, by group. Those of one group share the lines.
const SINKS: [&str; 4] = ["shared", "shared", "alone", "slow"];

const SOURCES: usize = 3;

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).status();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(done.success(), "{program} {args:?}");
}

/// Hosts on one switch, each a network namespace.
struct Hosts {
    folder: PathBuf,
    tag: u32,
    keys: Vec<Identity>,
}

impl Hosts {
    fn new() -> Self {
        static HOSTS: AtomicU32 = AtomicU32::new(0);
        let number = HOSTS.fetch_add(1, Ordering::Relaxed);
        let tag = std::process::id() % 10_000 * 10 + number;
        let folder = std::env::temp_dir().join(format!("zipper-chaos-{tag}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let key = |_| Identity::generate().expect("randomness");
        let hosts = Self {
            folder,
            tag,
            keys: (0..ZIPPERS).map(key).collect(),
        };
        let switch = hosts.switch();
        run("ip", &["netns", "add", &switch]);
        run(
            "ip",
            &["-n", &switch, "link", "add", "lan", "type", "bridge"],
        );
        run("ip", &["-n", &switch, "link", "set", "lan", "up"]);
        for at in 0..=ZIPPERS {
            hosts.connect(at);
        }
        for at in 0..ZIPPERS {
            hosts.configure(at);
        }
        hosts
    }

    fn switch(&self) -> String {
        format!("svs{}", self.tag)
    }

    fn name(&self, at: usize) -> String {
        format!("sv{at}c{}", self.tag)
    }

    fn connect(&self, at: usize) {
        let (name, switch, port) = (self.name(at), self.switch(), format!("port{at}"));
        run("ip", &["netns", "add", &name]);
        let peer = ["peer", "name", &port, "netns", &switch];
        let cable = ["-n", &name, "link", "add", "cable", "type", "veth"];
        run("ip", &[&cable[..], &peer].concat());
        let address = format!("10.214.7.{}/24", at + 1);
        run(
            "ip",
            &["-n", &name, "addr", "add", &address, "dev", "cable"],
        );
        run("ip", &["-n", &name, "link", "set", "cable", "up"]);
        run("ip", &["-n", &name, "link", "set", "lo", "up"]);
        run(
            "ip",
            &["-n", &switch, "link", "set", &port, "master", "lan", "up"],
        );
    }

    fn address(at: usize) -> String {
        format!("tcp://10.214.7.{}:9000", at + 1)
    }

    /// Each zipper has two neighbours: a ring.
    fn configure(&self, at: usize) {
        let key = self.folder.join(format!("z{at}.key"));
        std::fs::write(&key, self.keys[at].to_pem()).expect("a file");
        let neighbours = [(at + 1) % ZIPPERS, (at + ZIPPERS - 1) % ZIPPERS];
        let neighbour = |it: usize| {
            let (node, address) = (self.keys[it].node_id(), Self::address(it));
            format!("  z{it}: {{node: \"{node}\", addresses: [\"{address}\"]}}\n")
        };
        let mesh: String = neighbours.into_iter().map(neighbour).collect();
        let listen = Self::address(at);
        let config = format!(
            "name: z{at}\nlisten: [{listen}]\nidentity: {}\nauth: {{type: open}}\nmesh:\n{mesh}",
            key.display()
        );
        std::fs::write(self.config(at), config).expect("a file");
    }

    fn config(&self, at: usize) -> PathBuf {
        self.folder.join(format!("z{at}.yaml"))
    }

    /// A command of `zipper` on a host.
    fn zipper(&self, at: usize, log: &Path) -> Command {
        let log = std::fs::File::options().create(true).append(true).open(log);
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name(at)])
            .arg(env!("CARGO_BIN_EXE_zipper"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a file"));
        command
    }

    fn serve(&self, at: usize) -> Process {
        let log = self.folder.join(format!("z{at}.log"));
        let mut command = self.zipper(at, &log);
        let child = command.arg("serve").arg("-c").arg(self.config(at)).spawn();
        Process(child.expect("it starts"))
    }

    /// A client that knows all zippers and prefers one of them.
    fn client(&self, name: &str, prefers: usize) -> Command {
        let log = self.folder.join(format!("{name}.log"));
        let mut command = self.zipper(CLIENTS, &log);
        command.arg(name.split('-').next().expect("a command"));
        for at in 0..ZIPPERS {
            let at = (prefers + at) % ZIPPERS;
            command.args(["-z", &Self::address(at)]);
        }
        command.args(["--wait"]);
        command
    }

    /// Connects a host to the switch, or cuts it off.
    fn set_port(&self, at: usize, state: &str) {
        let port = format!("port{at}");
        run("ip", &["-n", &self.switch(), "link", "set", &port, state]);
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let hosts = (0..=ZIPPERS).map(|at| self.name(at));
        for name in hosts.chain([self.switch()]) {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// A process that is killed when it is dropped. `ip netns exec` becomes the program that it starts.
struct Process(Child);

impl Process {
    fn signal(&self, signal: &str) {
        run("kill", &[signal, &self.0.id().to_string()]);
    }

    fn wait(&mut self, until: Instant) -> Option<ExitStatus> {
        loop {
            if let Some(status) = self.0.try_wait().expect("it was started") {
                return Some(status);
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes numbered lines until the faults are over; then the end of its input ends the source.
struct Source {
    process: Process,
    writer: JoinHandle<u64>,
}

impl Source {
    fn start(hosts: &Hosts, number: usize, is_over: &Arc<AtomicBool>) -> Self {
        let mut command = hosts.client(&format!("source-{number}"), number);
        command.args(["-t", TAG, "--shutdown-timeout", "100"]);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
        let mut input = child.stdin.take().expect("it is piped");
        let is_over = Arc::clone(is_over);
        let writer = std::thread::spawn(move || {
            let mut line = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    // A source that is gone is noticed by its exit code.
                    if writeln!(input, "{number} {line}").is_err() {
                        return line;
                    }
                    line += 1;
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
            line
        });
        Self {
            process: Process(child),
            writer,
        }
    }
}

/// Lines by source, as a sink has printed them.
type Lines = Arc<Mutex<Vec<(usize, u64)>>>;

struct Sink {
    process: Process,
    group: &'static str,
    lines: Lines,
    reader: JoinHandle<()>,
}

impl Sink {
    fn start(hosts: &Hosts, number: usize, group: &'static str, is_over: &Arc<AtomicBool>) -> Self {
        let mut command = hosts.client(&format!("sink-{number}"), number + 1);
        command.args(["--observe", TAG, "--name", group]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let lines = Lines::default();
        let taken = Arc::clone(&lines);
        let is_over = Arc::clone(is_over);
        let reader = std::thread::spawn(move || {
            for (count, line) in output.lines().map_while(Result::ok).enumerate() {
                let (source, number) = line.split_once(' ').expect("two numbers");
                let parsed = (source.parse(), number.parse());
                let (Ok(source), Ok(number)) = parsed else {
                    panic!("{line:?} is no line of a source");
                };
                taken
                    .lock()
                    .expect("no panic holds it")
                    .push((source, number));
                let is_slow = group == "slow" && !is_over.load(Ordering::Relaxed);
                if is_slow && count % 1000 == 999 {
                    // The pipe fills, and the sink blocks.
                    std::thread::park_timeout(Duration::from_millis(700));
                }
            }
        });
        Self {
            process: Process(child),
            group,
            lines,
            reader,
        }
    }

    /// Everything that it has printed, once it has ended.
    fn end(mut self) -> (&'static str, Vec<(usize, u64)>) {
        let status = self.process.wait(Instant::now() + PATIENCE);
        assert!(status.is_some_and(|it| it.success()), "{status:?}");
        self.reader.join().expect("it does not panic");
        let lines = std::mem::take(&mut *self.lines.lock().expect("no panic holds it"));
        (self.group, lines)
    }

    fn is_empty(&self) -> bool {
        self.lines.lock().expect("no panic holds it").is_empty()
    }
}

/// What befalls the zippers, one after the other.
struct Faults<'a> {
    hosts: &'a Hosts,
    zippers: Vec<Option<Process>>,
    rng: fastrand::Rng,
    kills: u32,
}

impl Faults<'_> {
    fn befall(&mut self) {
        let at = self.rng.usize(..ZIPPERS);
        match self.rng.u8(..4) {
            0 => {
                self.hosts.set_port(at, "down");
                std::thread::park_timeout(Duration::from_millis(self.rng.u64(100..3000)));
                self.hosts.set_port(at, "up");
            }
            1 => {
                if let Some(zipper) = &self.zippers[at] {
                    zipper.signal("-STOP");
                    std::thread::park_timeout(Duration::from_millis(self.rng.u64(100..3000)));
                    zipper.signal("-CONT");
                }
            }
            _ => std::thread::park_timeout(KILL_INTERVAL / 2),
        }
        self.kill();
    }

    /// As an operator does: with SIGTERM, and the next one only once this one is back.
    fn restart(&mut self, at: usize) {
        let mut zipper = self.zippers[at].take().expect("it runs");
        zipper.signal("-TERM");
        let status = zipper.wait(Instant::now() + PATIENCE);
        assert!(status.is_some(), "zipper {at} does not end");
        self.kills += 1;
        self.zippers[at] = Some(self.hosts.serve(at));
        std::thread::park_timeout(KILL_INTERVAL);
    }

    fn kill(&mut self) {
        let at = self.rng.usize(..ZIPPERS);
        // With SIGKILL.
        drop(self.zippers[at].take());
        self.kills += 1;
        std::thread::park_timeout(Duration::from_millis(self.rng.u64(..1000)));
        self.zippers[at] = Some(self.hosts.serve(at));
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else {
        return default;
    };
    text.parse()
        .unwrap_or_else(|_| panic!("{name} is a number"))
}

#[test]
#[ignore = "it needs root and a minute: .ci/hosts runs it"]
fn every_line_arrives_once_whichever_zippers_are_killed_cut_off_or_frozen() {
    let seed = setting("CHAOS_SEED", fastrand::u64(..1_000_000));
    let time = Duration::from_secs(setting("CHAOS_SECONDS", 60));
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={}", time.as_secs());
    let summary = under_load(seed, |faults| {
        let end = Instant::now() + time;
        while Instant::now() < end {
            faults.befall();
        }
    });
    println!("{summary}");
}

#[test]
#[ignore = "it needs root and half a minute: .ci/hosts runs it"]
fn every_line_arrives_once_while_all_zippers_are_restarted_in_turn() {
    let summary = under_load(0, |faults| {
        for at in 0..ZIPPERS {
            faults.restart(at);
        }
    });
    println!("{summary}");
}

/// Runs sources and sinks, and lets faults befall the zippers meanwhile. Returns what has happened.
fn under_load(seed: u64, befall: impl FnOnce(&mut Faults<'_>)) -> String {
    let hosts = Hosts::new();
    let zippers = (0..ZIPPERS).map(|at| Some(hosts.serve(at))).collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let sinks: Vec<_> = SINKS
        .iter()
        .enumerate()
        .map(|(at, group)| Sink::start(&hosts, at, group, &is_over))
        .collect();
    let mut sources: Vec<_> = (0..SOURCES)
        .map(|at| Source::start(&hosts, at, &is_over))
        .collect();
    // Every group observes before the first fault, so that each line is for all of them.
    let mut groups: Vec<&str> = SINKS.to_vec();
    groups.dedup();
    for group in groups {
        let of_group = sinks.iter().filter(|it| it.group == group);
        let begin = Instant::now();
        while !of_group.clone().any(|it| !it.is_empty()) {
            assert!(begin.elapsed() < PATIENCE, "{group} receives nothing");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
    let mut faults = Faults {
        hosts: &hosts,
        zippers,
        rng: fastrand::Rng::with_seed(seed),
        kills: 0,
    };
    befall(&mut faults);
    is_over.store(true, Ordering::Relaxed);
    let until = Instant::now() + PATIENCE;
    let mut written = Vec::new();
    for (at, source) in sources.iter_mut().enumerate() {
        let status = source.process.wait(until);
        assert!(
            status.is_some_and(|it| it.success()),
            "source {at}: {status:?}, {}",
            hosts.folder.display()
        );
    }
    for source in sources {
        written.push(source.writer.join().expect("it does not panic"));
    }
    let summary = format!("{} restarts, {written:?} lines", faults.kills);
    for sink in &sinks {
        sink.process.signal("-TERM");
    }
    let ended: Vec<_> = sinks.into_iter().map(Sink::end).collect();
    for (at, (_, lines)) in ended.iter().enumerate() {
        // Kept with the logs if the check fails.
        let lines: String = lines.iter().map(|it| format!("{it:?}\n")).collect();
        std::fs::write(hosts.folder.join(format!("sink-{at}.lines")), lines).expect("a file");
    }
    check(&ended, &written);
    summary
}

/// Every line reached each group once, and each sink in order. A source ends when its lines are settled, that is,
/// after the sinks have printed them.
fn check(sinks: &[(&str, Vec<(usize, u64)>)], written: &[u64]) {
    let mut groups: BTreeMap<(&str, usize), Vec<u64>> = BTreeMap::new();
    for (at, (group, lines)) in sinks.iter().enumerate() {
        let mut last = BTreeMap::new();
        for &(source, number) in lines {
            let before = last.insert(source, number);
            assert!(
                before.is_none_or(|it| it < number),
                "sink {at}: line {number} of {source} after {before:?}"
            );
            groups.entry((group, source)).or_default().push(number);
        }
    }
    for ((group, source), mut numbers) in groups {
        numbers.sort_unstable();
        let first = numbers.first().copied().unwrap_or(0);
        let expected: Vec<u64> = (first..written[source]).collect();
        let twice = numbers.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None, "{group}: source {source}");
        assert_eq!(
            numbers.len(),
            expected.len(),
            "{group}: lines of source {source} are missing"
        );
        assert!(
            first < 20_000,
            "{group} has missed the beginning of source {source}"
        );
    }
}
