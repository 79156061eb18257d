//! A connected socket that avoids reads of an empty receive queue.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};

use mio::event::Event;
use mio::net::TcpStream;

/// A connection that detects when a read has drained it.
///
/// A read that does not fill its buffer has drained the receive queue. With edge-triggered
/// registration later data causes another event (epoll(7), question 9; a kqueue filter with
/// `EV_CLEAR` likewise), so a second read would only cost a system call: 0.4 µs of a round trip of
/// 12 µs. The end of the stream and errors are different: if they were present at the last event,
/// that event has reported them and no other follows. The shortcut therefore applies only after
/// events that report no end. After other events, and if no event was passed, reads continue until
/// `WouldBlock`.
#[derive(Debug)]
pub(super) struct SocketStream {
    socket: TcpStream,
    event_hint: EventHint,
    is_drained: bool,
}

/// The events passed since the last call of `recv`, summarised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EventHint {
    None,
    /// Events arrived, and none reported an end.
    Open,
    /// An event reported a half-close, a close or an error.
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
        let may_end = event.is_read_closed() || event.is_write_closed() || event.is_error();
        if may_end {
            self.event_hint = EventHint::MayEnd;
        } else if self.event_hint == EventHint::None {
            self.event_hint = EventHint::Open;
        }
    }

    /// A call of `recv` is complete: the next one reads the socket again.
    pub(super) const fn reset_events(&mut self) {
        self.event_hint = EventHint::None;
        self.is_drained = false;
    }

    const fn record_read(&mut self, read: usize, capacity: usize) {
        self.is_drained = matches!(self.event_hint, EventHint::Open) && read > 0 && read < capacity;
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
        let capacity = slices.iter().map(|slice| slice.len()).sum();
        let read = self.socket.read_vectored(slices)?;
        self.record_read(read, capacity);
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

    fn connected_pair() -> MayEnd {
        let listening = Listening::bind("127.0.0.1:0").expect("a port");
        let at = listening.local_addr().expect("an address");
        let peer = Peer::connect(at).expect("a listener");
        let (socket, _) = listening.accept().expect("a connection");
        socket.set_nonblocking(true).expect("a socket");
        let (mut socket, poll) = (TcpStream::from_std(socket), Poll::new().expect("a poll"));
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = poll.registry().register(&mut socket, Token(0), both);
        registered.expect("a socket");
        let (stream, events) = (SocketStream::new(socket), Events::with_capacity(4));
        let mut pair = MayEnd {
            peer,
            stream,
            poll,
            events,
        };
        // Consumes the initial writable event.
        pair.wait();
        pair
    }

    impl MayEnd {
        /// Waits for events, passes them on and reads as `recv` does. Returns the bytes, and
        /// whether the stream has ended.
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

        /// Sends `bytes` from the peer and waits until they have arrived.
        fn arrive(&mut self, bytes: &[u8]) {
            self.peer.write_all(bytes).expect("it is open");
            while self.stream.socket().peek(&mut [0]).is_err() {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn data_after_a_draining_read_causes_an_event() {
        let mut pair = connected_pair();
        pair.arrive(b"first");
        assert_eq!(pair.wait(), (b"first".to_vec(), false));
        pair.arrive(b"second");
        assert_eq!(pair.wait(), (b"second".to_vec(), false));
        let polled = pair.poll.poll(&mut pair.events, Some(Duration::ZERO));
        polled.unwrap();
        assert!(pair.events.is_empty());
    }

    #[test]
    fn a_drained_socket_is_not_read_again_after_an_event_without_an_end() {
        let mut pair = connected_pair();
        let mut memory = [0; 64];
        pair.arrive(b"first");
        pair.poll.poll(&mut pair.events, None).unwrap();
        pair.stream.on_event(pair.events.iter().next().unwrap());
        assert_eq!(pair.stream.read(&mut memory).unwrap(), 5);
        pair.arrive(b"second");
        let error = pair.stream.read(&mut memory).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        pair.stream.reset_events();
        assert_eq!(pair.wait(), (b"second".to_vec(), false));
        // Without a passed event the socket is read until it would block.
        pair.arrive(b"third");
        assert_eq!(pair.stream.read(&mut memory).unwrap(), 5);
        pair.arrive(b"fourth");
        assert_eq!(pair.read(), (b"fourth".to_vec(), false));
    }

    #[test]
    fn an_end_is_detected_with_or_after_the_last_bytes() {
        for round in 0..200 {
            let mut pair = connected_pair();
            pair.arrive(b"last");
            let (mut got, mut has_ended) = (Vec::new(), false);
            if round % 2 == 0 {
                (got, has_ended) = pair.wait();
            }
            pair.peer.shutdown(Shutdown::Write).unwrap();
            while !has_ended {
                let (more, is_end) = pair.wait();
                got.extend(more);
                has_ended = is_end;
            }
            assert_eq!(got, b"last");
        }
    }
}
