//! Processes and hosts: frozen, killed, unplugged. Messages arrive once and in order, or their loss is
//! reported.
//!
//! Ignored by default, because they need root (network namespaces) and several seconds each: `.ci/hosts` runs
//! them in CI.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use selvedge_hub::{
    Endpoint, Event, Hub, HubEvent, Identity, Inbox, Incoming, LaneId, NodeId, SessionConfig,
};

/// Far longer than any test here takes; only a defect reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

const ROLE: &str = "SELVEDGE_HOSTS_ROLE";

fn env(name: &str) -> String {
    std::env::var(format!("SELVEDGE_HOSTS_{name}")).expect("the parent sets it")
}

fn note(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").expect("the parent reads");
    out.flush().expect("the parent reads");
}

/// Prints the number of each message on arrival, before the message counts as consumed.
struct Print;

impl Inbox for Print {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        let mut lines = String::new();
        while let Some(message) = incoming.take(LaneId::FIRST) {
            let number = message.payload.first_chunk().expect("a number");
            lines.push_str(&format!("got {}\n", u64::from_be_bytes(*number)));
        }
        note(lines.trim_end());
    }

    fn on_event(&mut self, _event: Event) {}
}

/// One process: sends to its peer until it receives a stop command, or prints what it receives. The tests below
/// run it instead of a separate program.
#[test]
#[ignore = "it is the other process of the tests of this file, which .ci/hosts runs"]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    // After the line that the test harness has begun to print.
    note("");
    let key = std::fs::read_to_string(env("KEY")).expect("a key");
    let peer: NodeId = env("PEER").parse().expect("a node");
    let reach = env("REACH");
    let reach: Vec<&str> = reach.split(',').filter(|it| !it.is_empty()).collect();
    let mut builder = Hub::builder(Identity::from_pem(&key).expect("a key"))
        .session(SessionConfig::default())
        .peer(peer, &reach)
        .expect("a peer");
    for address in env("LISTEN").split(',').filter(|it| !it.is_empty()) {
        builder = builder.listen(address).expect("an address");
    }
    if role == "receive" {
        builder = builder.inbox(|_: &Endpoint| Box::new(Print));
    }
    let hub = builder.start().expect("a hub");
    let events = hub.events().clone();
    std::thread::spawn(move || {
        for event in events {
            match event {
                HubEvent::Up { .. } => note("up"),
                HubEvent::Down { .. } => note("down"),
                _ => {}
            }
        }
    });
    if role == "send" {
        send(&hub.endpoint(peer).expect("a peer"));
    } else {
        // Until the parent ends or kills this process.
        let _ = std::io::stdin().lines().count();
    }
}

fn send(to: &Endpoint) {
    let (stopping, stop) = channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::stdin().lines().next();
        drop(stopping);
    });
    let mut number = 0_u64;
    while stop.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
        for _ in 0..5 {
            let mut payload = vec![0; 500];
            payload[..8].copy_from_slice(&number.to_be_bytes());
            to.send(LaneId::FIRST, payload.into()).expect("it is open");
            number += 1;
        }
    }
    note(&format!("sent {number}"));
    let flushed = to.flush(PATIENCE);
    while let Some(event) = to.try_event() {
        if let Event::PeerRestarted { undelivered } = event {
            for message in undelivered {
                let number = message.payload.first_chunk().expect("a number");
                note(&format!("reported {}", u64::from_be_bytes(*number)));
            }
        }
    }
    note(&format!("flushed {}", flushed.is_ok()));
}

/// A child process and its output.
struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    fn word(&self, line: &str) -> Option<u64> {
        let next = self.lines.recv_timeout(PATIENCE).expect("the child speaks");
        let rest = next.strip_prefix(line)?.trim().to_owned();
        Some(rest.parse().unwrap_or(0))
    }

    /// Waits for a line with this prefix.
    fn wait_for(&self, line: &str) -> u64 {
        loop {
            if let Some(number) = self.word(line) {
                return number;
            }
        }
    }

    /// Its next line within the time limit.
    fn listen(&self, time: Duration) -> Vec<String> {
        let until = Instant::now() + time;
        let left = || until.saturating_duration_since(Instant::now());
        std::iter::from_fn(|| self.lines.recv_timeout(left()).ok()).collect()
    }

    fn signal(&self, signal: &str) {
        run("kill", &[signal, &self.child.id().to_string()]);
    }

    fn stop(&mut self) {
        drop(self.stdin.take());
    }

    /// All unread lines until its end.
    fn rest(mut self) -> Vec<String> {
        self.child.wait().expect("it ends");
        let mut rest = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            rest.push(line);
        }
        rest
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).status();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(done.success(), "{program} {args:?}");
}

/// Two hosts: keys, addresses, and network namespaces if they are separate.
struct Hosts {
    folder: PathBuf,
    keys: [Identity; 2],
    /// The command prefix that runs a program on a host.
    prefix: [Vec<String>; 2],
    addresses: String,
    namespaces: Option<[String; 2]>,
}

impl Hosts {
    fn new(name: &str, at: &str, port: u16) -> Self {
        let folder = std::env::temp_dir().join(format!("selvedge-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let keys = [0, 1].map(|_| Identity::generate().expect("randomness"));
        for (number, key) in keys.iter().enumerate() {
            std::fs::write(folder.join(number.to_string()), key.to_pem()).expect("a file");
        }
        Self {
            folder,
            keys,
            prefix: Default::default(),
            addresses: format!("quic://{at}:{port},tcp://{at}:{}", port + 1),
            namespaces: None,
        }
    }

    /// Two hosts in separate network namespaces with a cable between them.
    fn apart(name: &str) -> Self {
        let mut hosts = Self::new(name, "10.213.7.2", 9000);
        let tag = std::process::id() % 100_000;
        let names = ["a", "b"].map(|end| format!("sv{end}{tag}"));
        for name in &names {
            run("ip", &["netns", "add", name]);
        }
        let [a, b] = &names;
        hosts.prefix = [a, b].map(|name| ["ip", "netns", "exec", name].map(str::to_owned).to_vec());
        hosts.namespaces = Some(names.clone());
        let peer = ["peer", "name", "cable", "netns", b];
        run(
            "ip",
            &[
                &["-n", a, "link", "add", "cable", "type", "veth"],
                &peer[..],
            ]
            .concat(),
        );
        for (name, address) in [(a, "10.213.7.1/24"), (b, "10.213.7.2/24")] {
            run("ip", &["-n", name, "addr", "add", address, "dev", "cable"]);
            run("ip", &["-n", name, "link", "set", "cable", "up"]);
            run("ip", &["-n", name, "link", "set", "lo", "up"]);
        }
        hosts
    }

    /// Plugs the cable in or unplugs it.
    fn cable(&self, state: &str) {
        let [a, _] = self.namespaces.as_ref().expect("they are apart");
        run("ip", &["-n", a, "link", "set", "cable", state]);
    }

    fn start(&self, host: usize, role: &str) -> Process {
        let this = std::env::current_exe().expect("a program");
        let mut words = self.prefix[host].clone();
        words.push(this.to_string_lossy().into_owned());
        let (listen, reach) = match role {
            "receive" => (self.addresses.as_str(), ""),
            _ => ("", self.addresses.as_str()),
        };
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .args([
                "child",
                "--exact",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(ROLE, role)
            .env("SELVEDGE_HOSTS_KEY", self.folder.join(host.to_string()))
            .env(
                "SELVEDGE_HOSTS_PEER",
                self.keys[1 - host].node_id().to_string(),
            )
            .env("SELVEDGE_HOSTS_LISTEN", listen)
            .env("SELVEDGE_HOSTS_REACH", reach)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // A line truncated by a kill does not count as printed.
            let whole = out.lines().map_while(Result::ok);
            whole.for_each(|line| drop(sender.send(line)));
        });
        Process {
            stdin: child.stdin.take(),
            child,
            lines,
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in self.namespaces.iter().flatten() {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn numbers<'a>(lines: impl IntoIterator<Item = &'a String>, word: &str) -> Vec<u64> {
    let numbers = lines.into_iter().filter_map(|line| line.strip_prefix(word));
    numbers
        .filter_map(|rest| rest.trim().parse().ok())
        .collect()
}

/// Reads until so many further messages have been printed. Returns all numbers.
fn receive(receiver: &Process, count: usize, received: &mut Vec<u64>) {
    let end = received.len() + count;
    while received.len() < end {
        let line = receiver
            .lines
            .recv_timeout(PATIENCE)
            .expect("messages come");
        received.extend(numbers([&line], "got "));
    }
}

/// Ends the sender in order and checks that everything it sent has arrived, once and in order.
fn expect_all(sender: Process, receiver: &Process, mut received: Vec<u64>) {
    let (sent, _, flushed) = finish(sender);
    assert!(flushed);
    receive(receiver, sent as usize - received.len(), &mut received);
    assert!(received.into_iter().eq(0..sent), "once and in order");
}

/// Ends the sender in order. Returns the number of sent messages and those reported as possibly lost.
fn finish(mut sender: Process) -> (u64, BTreeSet<u64>, bool) {
    sender.stop();
    let lines = sender.rest();
    let sent = numbers(&lines, "sent ");
    let flushed = lines.iter().any(|line| line == "flushed true");
    let reported = numbers(&lines, "reported ").into_iter().collect();
    (sent[0], reported, flushed)
}

#[test]
#[ignore = "needs root for network namespaces: .ci/hosts runs it"]
fn n2_hosts_that_are_unplugged_and_plugged_in_again_lose_nothing() {
    let hosts = Hosts::apart("cable");
    let (receiver, sender) = (hosts.start(1, "receive"), hosts.start(0, "send"));
    let mut received = Vec::new();
    for _ in 0..3 {
        receive(&receiver, 2000, &mut received);
        hosts.cable("down");
        let unplugged = Instant::now();
        // There is no notification: neither a FIN nor a reset arrives.
        sender.wait_for("down");
        assert!(
            unplugged.elapsed() < Duration::from_secs(6),
            "{:?}",
            unplugged.elapsed()
        );
        hosts.cable("up");
        sender.wait_for("up");
    }
    expect_all(sender, &receiver, received);
}

#[test]
#[ignore = "takes some seconds: .ci/hosts runs it"]
fn a_process_that_is_frozen_for_five_seconds_loses_nothing() {
    let hosts = Hosts::new("frozen", "127.0.0.1", 29_310);
    let (receiver, sender) = (hosts.start(1, "receive"), hosts.start(0, "send"));
    let mut received = Vec::new();
    for frozen in [&receiver, &sender] {
        receive(&receiver, 2000, &mut received);
        frozen.signal("-STOP");
        let other = if std::ptr::eq(frozen, &receiver) {
            &sender
        } else {
            &receiver
        };
        let said = other.listen(Duration::from_secs(5));
        assert!(said.iter().any(|line| line == "down"), "{said:?}");
        received.extend(numbers(&said, "got "));
        frozen.signal("-CONT");
        receive(&receiver, 2000, &mut received);
    }
    expect_all(sender, &receiver, received);
}

#[test]
#[ignore = "takes some seconds: .ci/hosts runs it"]
fn of_a_receiver_that_is_killed_the_loss_is_reported_exactly() {
    let hosts = Hosts::new("killed", "127.0.0.1", 29_320);
    let sender = hosts.start(0, "send");
    let mut lives = Vec::new();
    for _ in 0..3 {
        let receiver = hosts.start(1, "receive");
        let mut received = Vec::new();
        receive(&receiver, 3000, &mut received);
        receiver.signal("-KILL");
        received.extend(numbers(&receiver.rest(), "got "));
        lives.push(received);
    }
    let last = hosts.start(1, "receive");
    let mut received = Vec::new();
    receive(&last, 3000, &mut received);
    let (sent, reported, flushed) = finish(sender);
    assert!(flushed);
    while received.last() != Some(&(sent - 1)) {
        receive(&last, 1, &mut received);
    }
    lives.push(received);
    let mut delivered = BTreeSet::new();
    for life in &lives {
        assert!(life.is_sorted(), "in order within a life");
        for number in life {
            let is_new = delivered.insert(*number);
            assert!(
                is_new,
                "{number} came twice (reported: {})",
                reported.contains(number)
            );
        }
    }
    let silent: Vec<u64> = (0..sent)
        .filter(|number| !delivered.contains(number) && !reported.contains(number))
        .collect();
    println!(
        "{sent} sent, {} reported, {} of those delivered",
        reported.len(),
        reported.intersection(&delivered).count()
    );
    assert!(silent.is_empty(), "lost in silence: {silent:?}");
}
