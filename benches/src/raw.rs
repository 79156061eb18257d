//! The same work on raw sockets: the limit that the kernel sets.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, UdpSocket};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::Workload;

/// The read and write sizes of our transports, for a fair comparison.
const BATCH: usize = 256 * 1024;

/// A stream with its own poll.
#[derive(Debug)]
struct RawStream {
    stream: TcpStream,
    poll: Poll,
    events: Events,
}

impl RawStream {
    fn new(stream: std::net::TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let (mut stream, poll) = (TcpStream::from_std(stream), Poll::new()?);
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(0), both)?;
        Ok(Self {
            stream,
            poll,
            events: Events::with_capacity(16),
        })
    }

    /// Repeats an operation until it does not block.
    fn until_ready(
        &mut self,
        mut act: impl FnMut(&mut TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match act(&mut self.stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.poll.poll(&mut self.events, None)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.until_ready(|stream| stream.read(buffer))
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.until_ready(|stream| stream.write(bytes))?;
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

fn streams() -> [RawStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    let near = std::net::TcpStream::connect(at).expect("it listens");
    let (far, _) = listener.accept().expect("a stream");
    [near, far].map(|stream| RawStream::new(stream).expect("a poll"))
}

/// TCP: a request and its response.
#[derive(Debug)]
pub struct TcpRoundTrip {
    near: RawStream,
    payload: Vec<u8>,
    far: Option<JoinHandle<()>>,
}

impl TcpRoundTrip {
    /// Messages of `len` bytes in both directions.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let [near, mut far] = streams();
        let echo = move || {
            let mut buffer = vec![0; BATCH];
            while let Ok(read @ 1..) = far.read(&mut buffer) {
                far.write_all(&buffer[..read]).expect("it is open");
            }
        };
        Self {
            near,
            payload: vec![7; len],
            far: Some(std::thread::spawn(echo)),
        }
    }
}

impl Workload for TcpRoundTrip {
    fn run(&mut self, count: u64) {
        let mut buffer = vec![0; self.payload.len()];
        for _ in 0..count {
            self.near.write_all(&self.payload).expect("it is open");
            let mut got = 0;
            while got < buffer.len() {
                got += self.near.read(&mut buffer[got..]).expect("it is open");
            }
        }
    }
}

impl Drop for TcpRoundTrip {
    fn drop(&mut self) {
        end(&self.near, &mut self.far);
    }
}

/// TCP: length-prefixed messages in one direction, many per write.
#[derive(Debug)]
pub struct TcpOneWay {
    near: RawStream,
    batch: Vec<u8>,
    per_batch: u64,
    message_len: usize,
    want: Sender<u64>,
    reached: Receiver<()>,
    far: Option<JoinHandle<()>>,
}

impl TcpOneWay {
    /// Messages of `len` bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let [near, mut far] = streams();
        let ((want, wanted), (reach, reached)) = (bounded::<u64>(1), bounded(1));
        let message_len = len + 4;
        let count = move || {
            let mut buffer = vec![0; BATCH];
            while let Ok(bytes) = wanted.recv() {
                let mut left = bytes;
                while left > 0 {
                    left -= far.read(&mut buffer).expect("it is open") as u64;
                }
                reach.send(()).expect("the receiver lives");
            }
        };
        let per_batch = (BATCH / message_len).max(1) as u64;
        Self {
            near,
            batch: vec![7; message_len * per_batch as usize],
            per_batch,
            message_len,
            want,
            reached,
            far: Some(std::thread::spawn(count)),
        }
    }
}

impl Workload for TcpOneWay {
    fn run(&mut self, count: u64) {
        let bytes = count * self.message_len as u64;
        self.want.send(bytes).expect("the far end lives");
        let mut left = count;
        while left > 0 {
            let now = left.min(self.per_batch);
            let batch = &self.batch[..now as usize * self.message_len];
            self.near.write_all(batch).expect("it is open");
            left -= now;
        }
        self.reached.recv().expect("the far end lives");
    }
}

impl Drop for TcpOneWay {
    fn drop(&mut self) {
        // The remote end waits for the next request; there is none.
        let (none, _) = bounded(0);
        self.want = none;
        end(&self.near, &mut self.far);
    }
}

fn end(near: &RawStream, far: &mut Option<JoinHandle<()>>) {
    let _already_closed = near.stream.shutdown(Shutdown::Both);
    if let Some(far) = far.take() {
        far.join().expect("the far end does not panic");
    }
}

/// Pairs of TCP sockets on one poll.
#[derive(Debug)]
struct Pairs {
    all: Vec<[TcpStream; 2]>,
    poll: Poll,
    events: Events,
}

impl Pairs {
    fn new(pairs: usize) -> Self {
        let poll = Poll::new().expect("a poll");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let pair = |number: usize| {
            let near = std::net::TcpStream::connect(at).expect("it listens");
            let (far, _) = listener.accept().expect("a stream");
            let mut pair = [near, far].map(|stream| {
                stream.set_nodelay(true).expect("a socket");
                stream.set_nonblocking(true).expect("a socket");
                TcpStream::from_std(stream)
            });
            for (end, stream) in pair.iter_mut().enumerate() {
                let (token, both) = (2 * number + end, Interest::READABLE | Interest::WRITABLE);
                let registered = poll.registry().register(stream, Token(token), both);
                registered.expect("a socket");
            }
            pair
        };
        Self {
            all: (0..pairs).map(pair).collect(),
            poll,
            // The event capacity of our worker.
            events: Events::with_capacity(1024),
        }
    }

    /// Waits once and calls `arrived` for each end of a pair with data.
    fn turn(&mut self, mut arrived: impl FnMut(&mut [[TcpStream; 2]], usize, usize, &[u8])) {
        let polled = self.poll.poll(&mut self.events, None);
        polled.expect("it is not interrupted");
        let mut buffer = [0; 4096];
        for event in &self.events {
            let (number, end) = (event.token().0 / 2, event.token().0 % 2);
            // An error means that it is writable again and has nothing to read.
            if let Ok(read) = self.all[number][end].read(&mut buffer) {
                arrived(&mut self.all, number, end, &buffer[..read]);
            }
        }
    }
}

/// TCP: a message that travels back and forth on one pair of sockets after another, all on one thread.
#[derive(Debug)]
pub struct TcpRoundRobin(Pairs);

impl TcpRoundRobin {
    /// `pairs` pairs on one poll.
    #[must_use]
    pub fn new(pairs: usize) -> Self {
        Self(Pairs::new(pairs))
    }
}

impl Workload for TcpRoundRobin {
    fn run(&mut self, count: u64) {
        let mut done = 0;
        let begin = |stream: &mut TcpStream| stream.write_all(&[7; 64]).expect("room for one");
        begin(&mut self.0.all[0][0]);
        while done < count {
            self.0.turn(|all, number, end, _| {
                done += end as u64 ^ 1;
                if end == 1 {
                    begin(&mut all[number][1]);
                } else if done < count {
                    let next = (number + 1) % all.len();
                    begin(&mut all[next][0]);
                }
            });
        }
    }
}

/// TCP: messages back and forth on all pairs of sockets at once, those in flight on a pair together, all on
/// one thread.
#[derive(Debug)]
pub struct TcpStreams {
    pairs: Pairs,
    batch: Vec<u8>,
    message_len: usize,
}

impl TcpStreams {
    /// `pairs` pairs on one poll, with `in_flight` messages of `message_len` bytes on each.
    #[must_use]
    pub fn new(pairs: usize, in_flight: usize, message_len: usize) -> Self {
        Self {
            pairs: Pairs::new(pairs),
            batch: vec![7; in_flight * message_len],
            message_len,
        }
    }
}

impl Workload for TcpStreams {
    /// All pairs make the same number of rounds.
    fn run(&mut self, count: u64) {
        let pairs = self.pairs.all.len();
        let bytes = count.div_ceil(pairs as u64) as usize * self.message_len;
        let mut left = vec![bytes.next_multiple_of(self.batch.len()); pairs];
        let mut going = pairs;
        for [near, _] in &mut self.pairs.all {
            near.write_all(&self.batch).expect("room for a batch");
        }
        while going > 0 {
            self.pairs.turn(|all, number, end, bytes| {
                let mut again = bytes;
                if end == 0 {
                    // The last ones are as many as were in flight at the start.
                    let more = left[number].saturating_sub(self.batch.len());
                    again = &bytes[..more.min(bytes.len())];
                    left[number] -= bytes.len();
                    going -= usize::from(left[number] == 0);
                }
                if !again.is_empty() {
                    all[number][end].write_all(again).expect("room for a batch");
                }
            });
        }
    }

    fn count_min(&self) -> u64 {
        let in_flight = self.batch.len() / self.message_len;
        4 * (in_flight * self.pairs.all.len()) as u64
    }
}

/// UDP: a request and its response.
#[derive(Debug)]
pub struct UdpRoundTrip {
    near: UdpSocket,
    payload: Vec<u8>,
    far: Option<JoinHandle<()>>,
}

fn sockets() -> [UdpSocket; 2] {
    let sockets = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a port"));
    for (from, to) in [(0, 1), (1, 0)] {
        let at = sockets[to].local_addr().expect("an address");
        sockets[from].connect(at).expect("a port");
    }
    sockets
}

impl UdpRoundTrip {
    /// Messages of `len` bytes in both directions; an empty one ends the run.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let [near, far] = sockets();
        let echo = move || {
            let mut buffer = vec![0; 65_536];
            while let Ok(read @ 1..) = far.recv(&mut buffer) {
                far.send(&buffer[..read]).expect("it is open");
            }
        };
        Self {
            near,
            payload: vec![7; len],
            far: Some(std::thread::spawn(echo)),
        }
    }
}

impl Workload for UdpRoundTrip {
    fn run(&mut self, count: u64) {
        let mut buffer = vec![0; self.payload.len()];
        for _ in 0..count {
            self.near.send(&self.payload).expect("it is open");
            self.near.recv(&mut buffer).expect("it is open");
        }
    }
}

impl Drop for UdpRoundTrip {
    fn drop(&mut self) {
        self.near.send(&[]).expect("it is open");
        if let Some(far) = self.far.take() {
            far.join().expect("the far end does not panic");
        }
    }
}
