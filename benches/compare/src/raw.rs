//! The same work on bare sockets: the limit that the kernel sets.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::job::Job;

/// How long the polling programs poll before they sleep (benches/README.md, "Reference measurements").
pub(crate) const SPIN: Duration = Duration::from_micros(50);

/// The read size of our transports.
const READ_LEN: usize = 256 * 1024;

/// The size to which small messages are coalesced before a write.
pub(crate) const WRITE_LEN: usize = 64 * 1024;

/// A stream with its own poll.
struct Stream {
    stream: TcpStream,
    poll: Poll,
    events: Events,
    spin: Duration,
}

impl Stream {
    fn new(stream: std::net::TcpStream, spin: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let (mut stream, poll) = (TcpStream::from_std(stream), Poll::new()?);
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(0), both)?;
        Ok(Self {
            stream,
            poll,
            events: Events::with_capacity(16),
            spin,
        })
    }

    fn accept(job: &Job, spin: Duration) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        job.ready(&listener.local_addr().expect("it is bound").to_string());
        let (stream, _) = listener.accept().expect("a peer");
        Self::new(stream, spin).expect("a poll")
    }

    fn connect(job: &Job, spin: Duration) -> Self {
        let stream = std::net::TcpStream::connect(job.address()).expect("it listens");
        Self::new(stream, spin).expect("a poll")
    }

    /// Repeats an operation until it does not block: polls while spinning, then waits.
    fn until_ready(
        &mut self,
        mut act: impl FnMut(&mut TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut spins_until = None;
        loop {
            match act(&mut self.stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let now = Instant::now();
                    if now >= *spins_until.get_or_insert(now + self.spin) {
                        self.poll.poll(&mut self.events, None)?;
                        spins_until = None;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Reads at least one byte. The end of the stream is no error: the runner ends processes one by one.
    fn read(&mut self, buffer: &mut [u8]) -> usize {
        match self.until_ready(|stream| stream.read(buffer)) {
            Ok(read @ 1..) => read,
            Ok(0) | Err(_) => std::process::exit(0),
        }
    }

    fn write_all(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.until_ready(|stream| stream.write(bytes)) {
                Ok(written) => bytes = &bytes[written..],
                Err(_) => std::process::exit(0),
            }
        }
    }
}

/// Echoes each message.
pub(crate) fn echo(job: &Job, spin: Duration) {
    let mut stream = Stream::accept(job, spin);
    let mut buffer = vec![0; job.size()];
    loop {
        let read = stream.read(&mut buffer);
        stream.write_all(&buffer[..read]);
    }
}

/// Sends requests, one at a time.
pub(crate) fn ask(job: &Job, spin: Duration) {
    let mut stream = Stream::connect(job, spin);
    let (payload, mut buffer) = (job.payload(), vec![0; job.size()]);
    job.ready("");
    loop {
        let began = Instant::now();
        stream.write_all(&payload);
        let mut got = 0;
        while got < buffer.len() {
            got += stream.read(&mut buffer[got..]);
        }
        job.meter.trip(began.elapsed());
    }
}

/// Reads bytes. Blocking reads are faster here than waiting for events (6 % at 64 KiB, 28 % at 1 MiB).
pub(crate) fn drain(job: &Job) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    job.ready(&listener.local_addr().expect("it is bound").to_string());
    let (mut stream, _) = listener.accept().expect("a peer");
    let mut buffer = vec![0; READ_LEN];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        job.meter.add(0, read);
    }
}

/// Writes bytes in pieces of one size, with blocking writes.
pub(crate) fn pour(job: &Job) {
    let mut stream = std::net::TcpStream::connect(job.address()).expect("it listens");
    let block = vec![7; WRITE_LEN];
    job.ready("");
    while stream.write_all(&block).is_ok() {}
}

/// Reads length-prefixed messages and copies each into its own memory.
pub(crate) fn count(job: &Job) {
    let mut stream = Stream::accept(job, Duration::ZERO);
    let mut buffer = vec![0; READ_LEN];
    let mut filled = 0;
    loop {
        filled += stream.read(&mut buffer[filled..]);
        let (mut at, mut messages, mut bytes) = (0, 0, 0);
        while let Some(prefix) = buffer[at..filled].first_chunk::<4>() {
            let end = at + 4 + u32::from_le_bytes(*prefix) as usize;
            let Some(payload) = buffer.get(at + 4..end).filter(|_| end <= filled) else {
                break;
            };
            std::hint::black_box(payload.to_vec());
            messages += 1;
            bytes += payload.len();
            at = end;
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        job.meter.add(messages, bytes);
    }
}

/// Writes length-prefixed messages, coalesced.
pub(crate) fn flood(job: &Job) {
    let mut stream = Stream::connect(job, Duration::ZERO);
    let payload = job.payload();
    let prefix = u32::try_from(payload.len())
        .expect("messages are short")
        .to_le_bytes();
    let mut batch = Vec::with_capacity(WRITE_LEN + payload.len() + prefix.len());
    job.ready("");
    loop {
        batch.clear();
        while batch.len() < WRITE_LEN {
            batch.extend_from_slice(&prefix);
            batch.extend_from_slice(std::hint::black_box(&payload));
        }
        stream.write_all(&batch);
    }
}
