//! Measurements beside raw TCP on mio, in the same run. `--release -- --ignored --nocapture figures`.

use std::io::{self, IoSlice, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use selvedge_transport::{Identity, Listener, TcpDialer};

use crate::driven::{DrivenTcp, accept, listener};

const ROUNDS: usize = 5;

/// User and system time of this process so far, from `/proc/self/stat` (100 ticks a second).
fn cpu_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

/// Runs two ends on two threads.
fn on_two_threads(
    scheme: &str,
    ours: impl FnOnce(DrivenTcp),
    theirs: impl FnOnce(DrivenTcp) + Send + 'static,
) {
    let mut listener = listener(scheme);
    let address = listener.local_address();
    let server = thread::spawn(move || {
        let mut lone = accept(&mut listener);
        lone.until_open();
        theirs(lone);
    });
    let mut lone = DrivenTcp::dial(&TcpDialer::new(Identity::generate().unwrap()), &address);
    lone.until_open();
    ours(lone);
    server.join().unwrap();
}

/// Bytes per second, and seconds of CPU time per gigabyte.
fn bulk(scheme: &str, len: usize, total: usize) -> (f64, f64) {
    let count = total / len;
    let (cpu, began) = (cpu_time(), Instant::now());
    on_two_threads(
        scheme,
        move |mut lone| {
            lone.queue.repeated = Some((count, vec![7; len].into()));
            lone.drive();
            lone.until(false, |lone| lone.inbox.count == 1);
        },
        move |mut lone| {
            lone.until(false, |lone| lone.inbox.count == count);
            lone.queue.frames.push_back(Bytes::from_static(b"done"));
            lone.send();
        },
    );
    let took = began.elapsed().as_secs_f64();
    (total as f64 / took, (cpu_time() - cpu) / total as f64 * 1e9)
}

fn round_trip(scheme: &str, spins: bool) -> Duration {
    const TRIPS: usize = 20_000;
    let mut times = Vec::with_capacity(TRIPS);
    let body = Bytes::from(vec![7; 64]);
    on_two_threads(
        scheme,
        |mut lone| {
            for number in 0..TRIPS {
                let began = Instant::now();
                lone.queue.frames.push_back(body.clone());
                lone.send();
                lone.until(spins, |lone| lone.inbox.count > number);
                times.push(began.elapsed());
            }
        },
        move |mut lone| {
            for number in 0..TRIPS {
                lone.until(spins, |lone| lone.inbox.count > number);
                let frame = std::mem::take(&mut lone.inbox.last);
                lone.queue.frames.push_back(frame);
                lone.send();
            }
        },
    );
    times.sort();
    times[TRIPS / 2]
}

/// A raw socket on a poll, which reads until it blocks.
struct Raw {
    poll: Poll,
    events: Events,
    stream: TcpStream,
    buffer: Vec<u8>,
    read: usize,
}

impl Raw {
    fn pair() -> (Self, Self) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        (Self::new(ours), Self::new(theirs))
    }

    fn new(stream: std::net::TcpStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut stream = TcpStream::from_std(stream);
        let poll = Poll::new().unwrap();
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(&mut stream, Token(0), interest)
            .unwrap();
        Self {
            poll,
            events: Events::with_capacity(16),
            stream,
            buffer: vec![0; 256 * 1024],
            read: 0,
        }
    }

    fn drain(&mut self) {
        loop {
            match self.stream.read(&mut self.buffer) {
                // The peer has sent everything.
                Ok(0) => return,
                Ok(read) => self.read += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn until_read(&mut self, spins: bool, total: usize) {
        while self.read < total {
            let wait = spins.then_some(Duration::ZERO);
            self.poll.poll(&mut self.events, wait).unwrap();
            if !self.events.is_empty() {
                self.drain();
            }
        }
    }

    fn write_all(&mut self, total: usize, body: &[u8]) {
        let mut left = total;
        while left > 0 {
            // As many at a time as the transport writes, and no excess byte at the end.
            let whole = [IoSlice::new(body); 3];
            let last = [IoSlice::new(&body[..body.len().min(left)])];
            let slices = if left >= 3 * body.len() {
                &whole[..]
            } else {
                &last
            };
            match self.stream.write_vectored(slices) {
                Ok(written) => left -= written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.poll.poll(&mut self.events, None).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn raw_bulk(total: usize) -> (f64, f64) {
    let (mut ours, mut theirs) = Raw::pair();
    let (cpu, began) = (cpu_time(), Instant::now());
    let server = thread::spawn(move || {
        theirs.until_read(false, total);
        theirs.stream.write_all(b"done").unwrap();
    });
    ours.write_all(total, &vec![7; 64 * 1024]);
    ours.until_read(false, 4);
    server.join().unwrap();
    let took = began.elapsed().as_secs_f64();
    (total as f64 / took, (cpu_time() - cpu) / total as f64 * 1e9)
}

fn raw_round_trip(spins: bool) -> Duration {
    const TRIPS: usize = 20_000;
    let (mut ours, mut theirs) = Raw::pair();
    let server = thread::spawn(move || {
        for number in 1..=TRIPS {
            theirs.until_read(spins, number * 64);
            theirs.stream.write_all(&[7; 64]).unwrap();
        }
    });
    let mut times = Vec::with_capacity(TRIPS);
    for number in 1..=TRIPS {
        let began = Instant::now();
        ours.stream.write_all(&[7; 64]).unwrap();
        ours.until_read(spins, number * 64);
        times.push(began.elapsed());
    }
    server.join().unwrap();
    times.sort();
    times[TRIPS / 2]
}

#[test]
#[ignore = "a measurement: .ci/figures runs it"]
fn bulk_beside_raw_tcp() {
    for _ in 0..ROUNDS {
        let (raw, cpu) = raw_bulk(4 << 30);
        println!("raw       {:6.0} MB/s {cpu:.3} s/GB", raw / 1e6);
        for scheme in ["tcp+plain", "tcp"] {
            for (len, total) in [
                (65_536, 4 << 30),
                (8192, 2 << 30),
                (1024, 1 << 30),
                (64, 1 << 27),
            ] {
                let (rate, cpu) = bulk(scheme, len, total);
                println!(
                    "{scheme:9} {len:5} B {:6.0} MB/s {cpu:.3} s/GB {:5.2} M/s; {:.2} of raw",
                    rate / 1e6,
                    rate / len as f64 / 1e6,
                    rate / raw
                );
            }
        }
    }
}

#[test]
#[ignore = "a measurement: .ci/figures runs it"]
fn round_trip_beside_raw_tcp() {
    for round in 0..2 * ROUNDS {
        let spins = round % 2 == 1;
        let raw = raw_round_trip(spins);
        println!("raw       64 B, spins {spins}: {raw:?}");
        for scheme in ["tcp+plain", "tcp"] {
            let time = round_trip(scheme, spins);
            let ratio = time.as_secs_f64() / raw.as_secs_f64();
            println!("{scheme:9} 64 B, spins {spins}: {time:?}; {ratio:.2} of raw");
        }
    }
}
