//! A connected socket that is not read in vain.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};

use mio::event::Event;
use mio::net::TcpStream;

/// A connection that knows when a read has emptied it.
///
/// A read that does not fill its memory has taken all there was. Whatever comes later makes an event
/// of its own, since registration is edge-triggered (epoll(7), question 9; a kqueue filter with
/// `EV_CLEAR` likewise), so asking once more would only cost a system call: 0.4 us of 12 a round trip.
/// Not so the end of the stream, or an error: if it was there when the last event was, that event has
/// told it, and no other will. So this holds only behind events that say nothing of an end; behind
/// others, and where no event was told, reads go on until the kernel says that it would block.
#[derive(Debug)]
pub(super) struct SocketStream {
    socket: TcpStream,
    event_hint: EventHint,
    is_drained: bool,
}

/// What events have said since the last call of `recv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EventHint {
    None,
    /// Something has come, and no end.
    Open,
    /// The peer has ended its half, or something is wrong.
    MayEnd,
}

impl SocketStream {
    pub(super) const fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            event_hint: EventHint::None,
            is_drained: false,
        }
    }

    pub(super) const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(super) const fn socket_mut(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    pub(super) fn on_event(&mut self, event: &Event) {
        let ends = event.is_read_closed() || event.is_write_closed() || event.is_error();
        if ends {
            self.event_hint = EventHint::MayEnd;
        } else if self.event_hint == EventHint::None {
            self.event_hint = EventHint::Open;
        }
    }

    /// A call of `recv` is over: the next one asks the kernel again.
    pub(super) const fn reset_events(&mut self) {
        self.event_hint = EventHint::None;
        self.is_drained = false;
    }

    const fn record_read(&mut self, read: usize, asked: usize) {
        self.is_drained = matches!(self.event_hint, EventHint::Open) && read > 0 && read < asked;
    }
}

impl Read for SocketStream {
    fn read(&mut self, memory: &mut [u8]) -> io::Result<usize> {
        if self.is_drained {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let read = self.socket.read(memory)?;
        self.record_read(read, memory.len());
        Ok(read)
    }

    fn read_vectored(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if self.is_drained {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let asked = slices.iter().map(|slice| slice.len()).sum();
        let read = self.socket.read_vectored(slices)?;
        self.record_read(read, asked);
        Ok(read)
    }
}

impl Write for SocketStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener as Listening, TcpStream as Peer};
    use std::time::Duration;

    use mio::{Events, Interest, Poll, Token};

    use super::*;

    struct MayEnd {
        peer: Peer,
        stream: SocketStream,
        poll: Poll,
        events: Events,
    }

    fn connected() -> MayEnd {
        let listening = Listening::bind("127.0.0.1:0").expect("a port");
        let at = listening.local_addr().expect("an address");
        let peer = Peer::connect(at).expect("it listens");
        let (socket, _) = listening.accept().expect("somebody connects");
        socket.set_nonblocking(true).expect("a socket");
        let (mut socket, poll) = (TcpStream::from_std(socket), Poll::new().expect("a poll"));
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = poll.registry().register(&mut socket, Token(0), both);
        registered.expect("a socket");
        let (stream, events) = (SocketStream::new(socket), Events::with_capacity(4));
        let mut ends = MayEnd {
            peer,
            stream,
            poll,
            events,
        };
        // That it can be written.
        ends.wait();
        ends
    }

    impl MayEnd {
        /// Waits for events, tells them, and reads as `recv` does: returns what came, and whether the
        /// stream has ended.
        fn wait(&mut self) -> (Vec<u8>, bool) {
            let patience = Some(Duration::from_secs(20));
            let polled = self.poll.poll(&mut self.events, patience);
            polled.expect("it is not interrupted");
            assert!(!self.events.is_empty(), "no event came");
            let events = self.events.iter();
            events.for_each(|event| self.stream.on_event(event));
            let read = self.read();
            self.stream.reset_events();
            read
        }

        fn read(&mut self) -> (Vec<u8>, bool) {
            let (mut all, mut memory) = (Vec::new(), [0; 64]);
            loop {
                match self.stream.read(&mut memory) {
                    Ok(0) => return (all, true),
                    Ok(read) => all.extend_from_slice(&memory[..read]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (all, false),
                    Err(error) => panic!("{error}"),
                }
            }
        }

        /// Has the peer send, and returns when it has arrived.
        fn arrive(&mut self, bytes: &[u8]) {
            self.peer.write_all(bytes).expect("it is open");
            while self.stream.socket().peek(&mut [0]).is_err() {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn what_comes_behind_a_read_that_emptied_it_makes_an_event_of_its_own() {
        let mut ends = connected();
        ends.arrive(b"first");
        assert_eq!(ends.wait(), (b"first".to_vec(), false));
        ends.arrive(b"second");
        assert_eq!(ends.wait(), (b"second".to_vec(), false));
        let polled = ends.poll.poll(&mut ends.events, Some(Duration::ZERO));
        polled.unwrap();
        assert!(ends.events.is_empty());
    }

    #[test]
    fn the_kernel_is_not_asked_again_behind_an_event_that_says_no_end() {
        let mut ends = connected();
        let mut memory = [0; 64];
        ends.arrive(b"first");
        ends.poll.poll(&mut ends.events, None).unwrap();
        ends.stream.on_event(ends.events.iter().next().unwrap());
        assert_eq!(ends.stream.read(&mut memory).unwrap(), 5);
        ends.arrive(b"second");
        let error = ends.stream.read(&mut memory).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        ends.stream.reset_events();
        assert_eq!(ends.wait(), (b"second".to_vec(), false));
        // Without an event it is.
        ends.arrive(b"third");
        assert_eq!(ends.stream.read(&mut memory).unwrap(), 5);
        ends.arrive(b"fourth");
        assert_eq!(ends.read(), (b"fourth".to_vec(), false));
    }

    #[test]
    fn an_end_is_found_whether_it_comes_with_the_last_bytes_or_behind_them() {
        for round in 0..200 {
            let mut ends = connected();
            ends.arrive(b"last");
            let (mut got, mut has_ended) = (Vec::new(), false);
            if round % 2 == 0 {
                (got, has_ended) = ends.wait();
            }
            ends.peer.shutdown(Shutdown::Write).unwrap();
            while !has_ended {
                let (more, is_end) = ends.wait();
                got.extend(more);
                has_ended = is_end;
            }
            assert_eq!(got, b"last");
        }
    }
}
