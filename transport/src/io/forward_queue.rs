//! Forwards datagrams from a listener to the transport that they belong to, which may be on another
//! worker.
//!
//! The queue is in memory. A wake socket exists only while datagrams are queued: a socket that is
//! writable from the start, which the listener registers under the token of the transport. A
//! transport without forwarded datagrams therefore needs one descriptor, that of its own socket.
//! With a permanent socket pair for each, 10,000 QUIC connections reached a common limit of 20,000
//! descriptors.
//!
//! Only few datagrams take this path: those of a peer whose address has just changed, and those
//! that arrived before the transport's own socket was connected. The costs of a copy and of the
//! system calls are therefore acceptable.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::BytesMut;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::datagram_socket::DatagramMeta;

/// The limit of queued bytes for one transport: the default send buffer of a Linux socket
/// (`net.core.wmem_default`).
const QUEUE_LEN_MAX: usize = 212_992;

/// A datagram and its source.
type ForwardedDatagram = (DatagramMeta, BytesMut);

/// Handles to the polls in which the transports of one listener are registered. A handle uses a
/// descriptor, so transports in the same poll share one.
#[derive(Debug)]
pub(super) struct PollHandles {
    /// A descriptor that is registered in one poll can be deregistered only there, so this socket
    /// identifies the poll behind a registry.
    probe: UnixDatagram,
    handles: Mutex<Vec<Weak<Registry>>>,
}

impl PollHandles {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            probe: UnixDatagram::unbound()?,
            handles: Mutex::default(),
        })
    }

    /// Returns an owned handle to the poll of `registry`.
    fn handle(&self, registry: &Registry) -> io::Result<Arc<Registry>> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles.retain(|handle| handle.strong_count() > 0);
        let fd = self.probe.as_raw_fd();
        registry.register(&mut SourceFd(&fd), Token(0), Interest::READABLE)?;
        let mut candidates = handles.iter().filter_map(Weak::upgrade);
        if let Some(same) = candidates.find(|it| it.deregister(&mut SourceFd(&fd)).is_ok()) {
            return Ok(same);
        }
        registry.deregister(&mut SourceFd(&fd))?;
        let handle = Arc::new(registry.try_clone()?);
        handles.push(Arc::downgrade(&handle));
        Ok(handle)
    }
}

/// The state that a [`ForwardSender`] and its [`ForwardQueue`] share.
#[derive(Debug, Default)]
struct SharedQueue {
    /// Lets a transport without queued datagrams skip the lock. Set before the wake socket is
    /// created.
    has_datagrams: AtomicBool,
    queued: Mutex<QueuedDatagrams>,
}

#[derive(Debug, Default)]
struct QueuedDatagrams {
    datagrams: VecDeque<ForwardedDatagram>,
    /// The bytes of all queued datagrams, with their overhead.
    len: usize,
    /// The poll and the token under which the transport is registered.
    registration: Option<(Arc<Registry>, Token)>,
    wake_socket: Option<UnixDatagram>,
}

impl SharedQueue {
    fn queued(&self) -> MutexGuard<'_, QueuedDatagrams> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueuedDatagrams {
    fn wake(&mut self) {
        if let (None, Some((registry, token))) = (&self.wake_socket, &self.registration) {
            // If no descriptor is left, the datagram is handled at the next wake-up of the
            // transport.
            self.wake_socket = new_wake_socket(registry, *token)
                .inspect_err(|error| tracing::debug!(%error, "no wake-up for a forwarded datagram"))
                .ok();
        }
    }
}

/// Creates a socket that never has unsent data: it is writable, so registering it causes one event.
fn new_wake_socket(registry: &Registry, token: Token) -> io::Result<UnixDatagram> {
    let wake_socket = UnixDatagram::unbound()?;
    registry.register(
        &mut SourceFd(&wake_socket.as_raw_fd()),
        token,
        Interest::WRITABLE,
    )?;
    Ok(wake_socket)
}

fn cost(bytes: &[u8]) -> usize {
    bytes.len() + size_of::<ForwardedDatagram>()
}

/// The listener's half. It holds a weak reference: an idle listener does not remove the entries of
/// dropped transports, and must not keep their queued datagrams in memory.
#[derive(Debug)]
pub(super) struct ForwardSender(Weak<SharedQueue>);

/// The transport's half.
#[derive(Debug)]
pub(super) struct ForwardQueue {
    shared: Arc<SharedQueue>,
    polls: Arc<PollHandles>,
}

/// Creates a connected sender and queue.
pub(super) fn channel(polls: &Arc<PollHandles>) -> (ForwardSender, ForwardQueue) {
    let shared = Arc::<SharedQueue>::default();
    let sender = ForwardSender(Arc::downgrade(&shared));
    let polls = Arc::clone(polls);
    (sender, ForwardQueue { shared, polls })
}

impl ForwardSender {
    /// Queues a datagram. Returns `false`, and drops the datagram, if the queue is full or its
    /// transport was dropped.
    pub(super) fn push(&self, meta: &DatagramMeta, bytes: &[u8]) -> bool {
        let Some(shared) = self.0.upgrade() else {
            return false;
        };
        let mut queued = shared.queued();
        let len = queued.len + cost(bytes);
        if len > QUEUE_LEN_MAX {
            return false;
        }
        queued.len = len;
        // Copied, because a slice would keep a whole receive block of the listener's worker
        // allocated.
        queued.datagrams.push_back((*meta, BytesMut::from(bytes)));
        shared.has_datagrams.store(true, Ordering::Release);
        queued.wake();
        true
    }
}

impl ForwardQueue {
    /// Returns the next datagram; `None` if the queue is empty.
    pub(super) fn pop(&self) -> Option<ForwardedDatagram> {
        if !self.shared.has_datagrams.load(Ordering::Acquire) {
            return None;
        }
        let mut queued = self.shared.queued();
        let datagram = queued.datagrams.pop_front();
        match &datagram {
            Some((_, bytes)) => queued.len -= cost(bytes),
            None => {
                self.shared.has_datagrams.store(false, Ordering::Release);
                queued.datagrams = VecDeque::new();
                queued.wake_socket = None;
            }
        }
        datagram
    }

    /// Delivers wake-ups under `token` from now on. Datagrams that are already queued cause no
    /// wake-up: the contract requires a `recv` after registration.
    pub(super) fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let handle = self.polls.handle(registry)?;
        self.shared.queued().registration = Some((handle, token));
        Ok(())
    }

    pub(super) fn deregister(&self) {
        let mut queued = self.shared.queued();
        // Dropping the wake socket closes it, which removes it from the poll.
        (queued.registration, queued.wake_socket) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    fn meta(remote: &str) -> DatagramMeta {
        DatagramMeta {
            remote: remote.parse().expect("an address"),
            local_ip: None,
            ecn: Some(quinn_udp::EcnCodepoint::Ce),
        }
    }

    fn new_channel() -> (ForwardSender, ForwardQueue) {
        channel(&Arc::new(PollHandles::new().expect("a descriptor")))
    }

    /// Returns the tokens of all pending events.
    fn events(poll: &mut Poll) -> Vec<usize> {
        let mut events = Events::with_capacity(8);
        let polled = poll.poll(&mut events, Some(Duration::ZERO));
        polled.expect("poll");
        events.iter().map(|event| event.token().0).collect()
    }

    #[test]
    fn a_forwarded_datagram_arrives_unchanged() {
        let (sender, queue) = new_channel();
        assert!(queue.pop().is_none());
        for remote in ["192.0.2.1:7", "[2001:db8::1]:9", "[::ffff:192.0.2.1]:7"] {
            let meta = meta(remote);
            assert!(sender.push(&meta, b"datagram"));
            let (read, content) = queue.pop().unwrap();
            assert_eq!((read.remote, read.ecn), (meta.remote, meta.ecn));
            assert_eq!(&content[..], b"datagram");
        }
        assert!(queue.pop().is_none());
    }

    #[test]
    fn a_full_or_disconnected_queue_rejects_datagrams() {
        let (sender, queue) = new_channel();
        let meta = meta("192.0.2.1:7");
        assert!(!sender.push(&meta, &[0; QUEUE_LEN_MAX]));
        for bytes in [&[0; 1200][..], &[]] {
            let push = (0..10_000).take_while(|_| sender.push(&meta, bytes));
            assert!((100..10_000).contains(&push.count()));
            while queue.pop().is_some() {}
        }
        assert!(sender.push(&meta, b"there is room again"));
        drop(queue);
        assert!(!sender.push(&meta, b"x"));
    }

    #[test]
    fn wake_ups_are_delivered_only_to_the_poll_of_the_transport() {
        let mut polls = [(); 2].map(|()| Poll::new().unwrap());
        let (sender, queue) = new_channel();
        let meta = meta("192.0.2.1:7");
        for _ in 0..2 {
            for (at, token) in [(0, 3), (1, 4), (1, 5)] {
                queue.register(polls[at].registry(), Token(token)).unwrap();
                assert!(polls.iter_mut().all(|poll| events(poll).is_empty()));
                for _ in 0..2 {
                    assert!(sender.push(&meta, b"a") && sender.push(&meta, b"b"));
                    assert_eq!(events(&mut polls[at]), [token]);
                    assert!(events(&mut polls[1 - at]).is_empty());
                    while queue.pop().is_some() {}
                }
                // A wake-up was delivered, but the transport moves before it reads the datagram.
                assert!(sender.push(&meta, b"c"));
                queue.deregister();
                assert!(polls.iter_mut().all(|poll| events(poll).is_empty()));
                assert!(sender.push(&meta, b"d"));
                let taken = std::iter::from_fn(|| queue.pop());
                assert_eq!(
                    taken.map(|(_, content)| content[0]).collect::<Vec<_>>(),
                    b"cd"
                );
            }
        }
    }

    #[test]
    fn transports_in_one_poll_share_its_handle() {
        let [poll, other] = [(); 2].map(|()| Poll::new().unwrap());
        let polls = PollHandles::new().unwrap();
        let handle = |poll: &Poll| polls.handle(poll.registry()).unwrap();
        let (one, two, other_handle) = (handle(&poll), handle(&poll), handle(&other));
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other_handle));
        assert!(Arc::ptr_eq(&other_handle, &handle(&other)));
        let gone = Arc::downgrade(&one);
        drop((one, two));
        assert!(gone.upgrade().is_none());
        let _known = handle(&poll);
        assert_eq!(polls.handles.lock().unwrap().len(), 2);
    }
}
