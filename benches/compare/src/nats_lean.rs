//! NATS through a minimal client, to measure its server.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::job::Job;
use crate::raw::WRITE_LEN;

pub(crate) const QUESTION: &str = "question";
const ANSWER: &str = "answer";
pub(crate) const ACK: &str = "ack";

/// The payload that answers a probe, which is an empty question. Acknowledgements are empty.
pub(crate) const PROBED: &[u8] = b"probed";

/// How often a question is probed until it is answered.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_millis(10);

/// The messages in flight to each subscriber: the server disconnects slow ones. Over all of them together
/// the limit is 16 MiB and 50,000 messages (benches/README.md, "Reference measurements").
pub(crate) const fn window(size: usize, subscribers: u64) -> u64 {
    let by_bytes = (16 << 20) / size as u64 / subscribers;
    let window = if by_bytes < 50_000 { by_bytes } else { 50_000 };
    if window < 4 { 4 } else { window }
}

/// One connection to the server.
struct Lean {
    stream: TcpStream,
    input: Vec<u8>,
    /// The parsed length of the input.
    parsed: usize,
    filled: usize,
    output: Vec<u8>,
    written: usize,
    /// Whether the server has answered a ping, and thus processed everything that was sent before it.
    is_heard: bool,
}

/// Ends the process when the server has ended: the runner ends all, one by one.
fn or_exit<T>(result: io::Result<T>) -> T {
    result.unwrap_or_else(|_| std::process::exit(0))
}

impl Lean {
    fn connect(at: &str, poll: &Poll, token: Token) -> Self {
        let at = at.parse().expect("an address");
        let mut stream = TcpStream::connect(at).expect("the server runs");
        stream.set_nodelay(true).expect("a socket of TCP");
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(&mut stream, token, both)
            .expect("a poll");
        let mut lean = Self {
            stream,
            input: vec![0; 256 * 1024],
            parsed: 0,
            filled: 0,
            output: Vec::with_capacity(2 * WRITE_LEN),
            written: 0,
            is_heard: false,
        };
        lean.put(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":false}\r\n");
        lean
    }

    fn put(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    fn subscribe(&mut self, subject: &str) {
        self.put(format!("SUB {subject} 1\r\n").as_bytes());
    }

    fn publish(&mut self, subject: &str, payload: &[u8]) {
        let len = payload.len();
        write!(self.output, "PUB {subject} {len}\r\n").expect("memory takes it");
        self.put(payload);
        self.put(b"\r\n");
    }

    /// Writes as much as the socket accepts. Returns whether that was all.
    fn flush(&mut self) -> bool {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if is_for_later(&error) => return false,
                Err(error) => or_exit(Err(error)),
            }
        }
        self.output.clear();
        self.written = 0;
        true
    }

    /// Reads once. Returns whether there was data.
    fn fill(&mut self) -> bool {
        self.input.copy_within(self.parsed..self.filled, 0);
        self.filled -= self.parsed;
        self.parsed = 0;
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => or_exit(Err(ErrorKind::UnexpectedEof.into())),
            Ok(read) => {
                self.filled += read;
                true
            }
            Err(error) if is_for_later(&error) => false,
            Err(error) => or_exit(Err(error)),
        }
    }

    /// Passes on each complete message and answers the server's pings.
    fn parse(&mut self, mut message: impl FnMut(&[u8])) {
        loop {
            let input = &self.input[self.parsed..self.filled];
            let Some(end) = input.iter().position(|&byte| byte == b'\n') else {
                return;
            };
            let line = &input[..end];
            if line.starts_with(b"MSG ") {
                let digits = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
                let len = digits
                    .iter()
                    .filter(|byte| byte.is_ascii_digit())
                    .fold(0, |len, byte| len * 10 + usize::from(byte - b'0'));
                let Some(payload) = input.get(end + 1..end + 1 + len + 2) else {
                    return;
                };
                message(&payload[..len]);
                self.parsed += end + 1 + len + 2;
            } else {
                let is_error = line.starts_with(b"-ERR");
                assert!(!is_error, "{}", String::from_utf8_lossy(line));
                self.is_heard |= line.starts_with(b"PONG");
                if line.starts_with(b"PING") {
                    self.output.extend_from_slice(b"PONG\r\n");
                }
                self.parsed += end + 1;
            }
        }
    }
}

fn is_for_later(error: &io::Error) -> bool {
    use ErrorKind::{Interrupted, NotConnected, WouldBlock};
    matches!(error.kind(), Interrupted | NotConnected | WouldBlock)
}

/// Waits until the server has all subscriptions: messages published before have no subscriber and would be
/// missing from the acknowledgements.
fn settle<'a>(poll: &mut Poll, all: impl Iterator<Item = &'a mut Lean>) {
    let mut unheard: Vec<_> = all.collect();
    unheard.iter_mut().for_each(|lean| lean.put(b"PING\r\n"));
    let mut events = Events::with_capacity(256);
    while !unheard.is_empty() {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => or_exit(other),
        }
        unheard.retain_mut(|lean| {
            lean.flush();
            while lean.fill() {
                lean.parse(|_| {});
            }
            !lean.is_heard
        });
    }
}

/// Calls `turn` when the socket may be readable or writable.
fn drive(poll: &mut Poll, mut turn: impl FnMut(usize)) -> ! {
    let mut events = Events::with_capacity(256);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => or_exit(other),
        }
        for event in &events {
            turn(event.token().0);
        }
    }
}

/// One connection with one subscription.
fn alone(job: &Job, subject: &str) -> (Poll, Lean) {
    let mut poll = Poll::new().expect("a poll");
    let mut lean = Lean::connect(job.address(), &poll, Token(0));
    lean.subscribe(subject);
    settle(&mut poll, std::iter::once(&mut lean));
    (poll, lean)
}

/// Echoes each message.
pub(crate) fn echo(job: &Job) {
    let (mut poll, mut lean) = alone(job, QUESTION);
    job.ready("");
    let mut answers = Vec::new();
    drive(&mut poll, |_| {
        while lean.fill() {
            lean.parse(|question| answers.push(question.to_vec()));
            for answer in answers.drain(..) {
                lean.publish(ANSWER, &answer);
            }
            lean.flush();
        }
        lean.flush();
    })
}

/// Sends requests, one at a time.
pub(crate) fn ask(job: &Job) {
    let (mut poll, mut lean) = alone(job, ANSWER);
    let payload = job.payload();
    lean.publish(QUESTION, &payload);
    lean.flush();
    job.ready("");
    let mut asked = Instant::now();
    drive(&mut poll, |_| {
        lean.flush();
        while lean.fill() {
            let mut answers = 0;
            lean.parse(|_| answers += 1);
            for _ in 0..answers {
                job.meter.trip(asked.elapsed());
                asked = Instant::now();
                lean.publish(QUESTION, &payload);
            }
            lean.flush();
        }
    })
}

/// Several subscribers, each on its own connection, on one thread.
pub(crate) fn count(job: &Job, subscribers: u64) {
    let step = window(job.size(), subscribers) / 4;
    let mut poll = Poll::new().expect("a poll");
    let mut all: Vec<_> = (0..subscribers)
        .map(|number| Lean::connect(job.far_address(), &poll, Token(number as usize)))
        .map(|lean| (lean, 0_u64))
        .collect();
    for (lean, _) in &mut all {
        lean.subscribe(QUESTION);
    }
    settle(&mut poll, all.iter_mut().map(|(lean, _)| lean));
    job.ready("");
    drive(&mut poll, |number| {
        let (lean, taken) = &mut all[number];
        while lean.fill() {
            let (before, mut bytes, mut probes) = (*taken, 0, 0);
            lean.parse(|payload| {
                if payload.is_empty() {
                    probes += 1;
                    return;
                }
                *taken += 1;
                bytes += payload.len();
            });
            job.meter.add(*taken - before, bytes);
            for _ in 0..probes {
                lean.publish(ACK, PROBED);
            }
            for _ in before / step..*taken / step {
                lean.publish(ACK, b"");
            }
            lean.flush();
        }
        lean.flush();
    })
}

/// Waits until a subscriber has answered: subscriptions take a moment from one server to another, and messages
/// published before they arrive would be missing from the acknowledgements.
fn probe(poll: &mut Poll, lean: &mut Lean) {
    let mut events = Events::with_capacity(256);
    let mut is_answered = false;
    while !is_answered {
        lean.publish(QUESTION, b"");
        lean.flush();
        match poll.poll(&mut events, Some(PROBE_INTERVAL)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => or_exit(other),
        }
        while lean.fill() {
            lean.parse(|_| is_answered = true);
        }
    }
}

/// Publishes as fast as the subscribers receive.
pub(crate) fn flood(job: &Job, subscribers: u64) {
    let window = window(job.size(), subscribers);
    let (mut poll, mut lean) = alone(job, ACK);
    probe(&mut poll, &mut lean);
    let payload = job.payload();
    job.ready("");
    let (mut sent, mut taken) = (0, 0);
    let acknowledged = |ack: &[u8]| if ack.is_empty() { window / 4 } else { 0 };
    let mut turn = |_| {
        while lean.flush() {
            while lean.fill() {
                lean.parse(|ack| taken += acknowledged(ack));
            }
            while lean.output.len() < WRITE_LEN && sent * subscribers < taken + window * subscribers
            {
                lean.publish(QUESTION, &payload);
                sent += 1;
            }
            if lean.output.is_empty() {
                return;
            }
        }
        while lean.fill() {
            lean.parse(|ack| taken += acknowledged(ack));
        }
    };
    // There will be no event: the socket has been writable all the time.
    turn(0);
    drive(&mut poll, turn)
}
