//! A non-blocking UDP socket with segmentation offload, shared by the QUIC and UDP transports.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;

use bytes::BytesMut;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use quinn_udp::{EcnCodepoint, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::ReadBuffer;

/// The maximum UDP payload over IPv4: 65535 minus the IP and UDP headers.
///
/// The kernel treats a batch for segmentation offload as one such payload and rejects a longer one
/// as a whole (EMSGSIZE). With batches of 8 to 10 segments of 8952 bytes, which exceed it, quinn
/// 0.11.12 drops to 1 MB/s on loopback.
pub(super) const BATCH_LEN_MAX: usize = 65_507;

/// The maximum number of datagrams in one send: 44 of 1452 bytes fill a batch. Measured bulk
/// throughput over QUIC on loopback is 1849 MB/s with 44 and 1305 MB/s with 10, quinn's constant.
const SEGMENTS_MAX: usize = 44;

/// The requested size of each socket buffer; the kernel may grant less (`net.core.rmem_max`).
///
/// With the default of 212,992 bytes a bulk stream on loopback loses 3,000 to 10,000 packets per
/// run, with 4 MiB none. It is a limit, not an allocation.
const SOCKET_BUFFER_LEN: usize = 4 << 20;

/// The buffer length of one receive, in bytes: the maximum that receive offload coalesces.
const RECEIVE_LEN: usize = 64 * 1024;

/// The maximum number of datagrams that [`DatagramSocket::drain`] returns: far more than arrive in
/// the few microseconds between bind and connect, and few enough not to block the listener.
const DRAIN_MAX: usize = 256;

/// The number of datagrams of `len` bytes that one send may carry on a kernel that supports
/// `kernel_max` segments.
pub(super) fn segments_max(len: usize, kernel_max: usize) -> usize {
    (BATCH_LEN_MAX / len.max(1))
        .min(SEGMENTS_MAX)
        .min(kernel_max)
        .max(1)
}

/// The numbers of failed sends and receives, by reason.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SocketErrors {
    /// Sends that found the socket buffer full (EAGAIN) and were repeated.
    pub(super) blocked: u64,
    /// Sends that exceeded the MTU of the path or the limit of the kernel (EMSGSIZE), mostly MTU
    /// probes.
    pub(super) oversized: u64,
    /// ICMP port-unreachable reports: no process listens at the peer's address (ECONNREFUSED).
    pub(super) refused: u64,
    /// All other errors of sends and receives.
    pub(super) other: u64,
    /// Batches sent datagram by datagram because segmentation offload failed.
    pub(super) unsegmented: u64,
}

/// The result of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendResult {
    /// The kernel accepted the datagram, or it was lost and counted as an error.
    Sent,
    /// The socket buffer is full: repeat the send after the next writable event.
    Blocked,
    /// The socket reported that an earlier datagram was refused by the peer's host; this one was
    /// not sent.
    Refused,
}

/// One or more datagrams of equal length from one peer; the last may be shorter.
#[derive(Debug)]
pub(super) struct ReceivedBatch {
    pub(super) bytes: BytesMut,
    pub(super) stride: usize,
    pub(super) meta: DatagramMeta,
}

/// The addresses and the ECN codepoint of a received datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct DatagramMeta {
    pub(super) remote: SocketAddr,
    pub(super) local_ip: Option<IpAddr>,
    pub(super) ecn: Option<EcnCodepoint>,
}

/// The result of one receive call.
#[derive(Debug)]
pub(super) struct ReceivedDatagrams {
    pub(super) batches: [Option<ReceivedBatch>; 2],
    /// The receive queue was empty at the end of the call; an event follows when more arrives.
    pub(super) is_drained: bool,
}

/// Splits the two received batches off `buffer`: one at its start, one at offset [`RECEIVE_LEN`].
fn split_received(buffer: &mut ReadBuffer, metas: &[RecvMeta]) -> [Option<ReceivedBatch>; 2] {
    let lens = [0, 1].map(|at| metas.get(at).map_or(0, |meta| meta.len.min(RECEIVE_LEN)));
    let gap = RECEIVE_LEN - lens[0];
    let gap = if gap > lens[1] {
        // Closes the gap if the copy is shorter than the space that would be wasted.
        let space = buffer.space(2 * RECEIVE_LEN);
        space.copy_within(RECEIVE_LEN..RECEIVE_LEN + lens[1], lens[0]);
        0
    } else {
        gap
    };
    [0, 1].map(|at| {
        let meta = metas.get(at)?;
        let bytes = buffer.take(lens[at]);
        if at == 0 {
            buffer.take(gap);
        }
        Some(ReceivedBatch {
            bytes,
            stride: meta.stride,
            meta: DatagramMeta {
                remote: meta.addr,
                local_ip: meta.dst_ip,
                ecn: meta.ecn,
            },
        })
    })
}

impl Iterator for ReceivedBatch {
    type Item = BytesMut;

    fn next(&mut self) -> Option<BytesMut> {
        if self.bytes.is_empty() {
            return None;
        }
        let len = match self.stride {
            0 => self.bytes.len(),
            stride => stride.min(self.bytes.len()),
        };
        Some(self.bytes.split_to(len))
    }
}

/// A non-blocking UDP socket and the offload state of quinn-udp.
#[derive(Debug)]
pub(super) struct DatagramSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    /// The peer to which the socket is connected, if the ECN option of the socket applies to it.
    remote: Option<SocketAddr>,
    /// The ECN codepoint that the socket sets on datagrams sent without a control message.
    ecn: Option<EcnCodepoint>,
    token: Option<Token>,
    /// The last send found the socket buffer full.
    is_full: bool,
    /// If registered for writable events: the value of `errors.blocked` at the time of
    /// registration.
    registered_interest: Option<u64>,
    pub(super) errors: SocketErrors,
}

impl DatagramSocket {
    /// Creates the socket of a listener. Only [`accepted`](Self::accepted) sockets of the same
    /// listener can share its address.
    pub(super) fn listening(address: SocketAddr) -> io::Result<Self> {
        let socket = new_socket(address)?;
        socket.bind(&address.into())?;
        // Set after the bind, so that the bind of a second listener fails instead of sharing the
        // traffic. Linux checks the option of the first socket when another one binds.
        socket.set_reuse_port(true)?;
        Self::new(socket)
    }

    /// Creates a socket for one peer of a listener: bound to the listener's address, connected to
    /// `remote`.
    ///
    /// Between bind and connect the kernel may deliver datagrams of other peers to it; the caller
    /// must [`drain`](Self::drain) them first. A connected socket receives none: since Linux 5.4
    /// (commit acdcecc61285) it does not take part in the selection among reuse-port sockets.
    pub(super) fn accepted(local: SocketAddr, remote: SocketAddr) -> io::Result<Self> {
        let socket = new_socket(local)?;
        socket.set_reuse_port(true)?;
        socket.bind(&local.into())?;
        Self::connected(socket, remote)
    }

    /// Creates the socket of a dialer, at a port that the kernel selects, connected to `remote`.
    pub(super) fn dialing(remote: SocketAddr) -> io::Result<Self> {
        let any: IpAddr = match remote {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let local = SocketAddr::new(any, 0);
        let socket = new_socket(local)?;
        socket.bind(&local.into())?;
        Self::connected(socket, remote)
    }

    fn connected(socket: Socket, remote: SocketAddr) -> io::Result<Self> {
        socket.connect(&remote.into())?;
        Ok(Self {
            remote: ecn_settable(remote),
            ..Self::new(socket)?
        })
    }

    fn new(socket: Socket) -> io::Result<Self> {
        LazyLock::force(&OFFLOAD_KEEPER);
        let state = UdpSocketState::new((&socket).into())?;
        let socket = UdpSocket::from_std(socket.into());
        Ok(Self {
            local: socket.local_addr()?,
            socket,
            state,
            remote: None,
            ecn: None,
            token: None,
            is_full: false,
            registered_interest: None,
            errors: SocketErrors::default(),
        })
    }

    pub(super) const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Connects the socket to a new address of the peer.
    pub(super) fn reconnect(&mut self, remote: SocketAddr) -> io::Result<()> {
        self.remote = None;
        self.socket.connect(remote)?;
        self.remote = ecn_settable(remote);
        Ok(())
    }

    /// Whether the kernel may fragment datagrams at the IP layer, which makes MTU discovery
    /// impossible.
    pub(super) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// The number of datagrams of `len` bytes that one send may carry.
    pub(super) fn segments_max(&self, len: usize) -> usize {
        segments_max(len, self.state.max_gso_segments())
    }

    /// Sends a datagram, or a batch if `transmit` has a segment size.
    pub(super) fn send(&mut self, transmit: &quinn_udp::Transmit<'_>) -> SendResult {
        let sent = match self.try_send(transmit) {
            Ok(()) => SendResult::Sent,
            Err(error) => self.record_send_error(&error, transmit),
        };
        self.is_full = sent == SendResult::Blocked;
        sent
    }

    /// A single datagram to the connected peer is sent by `send(2)` with the ECN option of the
    /// socket. The kernel then needs no route lookup and parses no address or control message.
    fn try_send(&mut self, transmit: &quinn_udp::Transmit<'_>) -> io::Result<()> {
        #[cfg(test)]
        fault_injection::take()?;
        if transmit.segment_size.is_none()
            && self.remote == Some(transmit.destination)
            && self.set_ecn(transmit.ecn).is_ok()
        {
            return self.socket.send(transmit.contents).map(drop);
        }
        self.socket
            .try_io(|| self.state.try_send((&self.socket).into(), transmit))
    }

    fn set_ecn(&mut self, ecn: Option<EcnCodepoint>) -> io::Result<()> {
        if self.ecn == ecn {
            return Ok(());
        }
        let (socket, bits) = (SockRef::from(&self.socket), ecn.map_or(0, |it| it as u32));
        if self.local.is_ipv4() {
            socket.set_tos_v4(bits)?;
        } else {
            socket.set_tclass_v6(bits)?;
        }
        self.ecn = ecn;
        Ok(())
    }

    /// Counts the error of a send and determines the result.
    fn record_send_error(
        &mut self,
        error: &io::Error,
        transmit: &quinn_udp::Transmit<'_>,
    ) -> SendResult {
        match error.kind() {
            io::ErrorKind::WouldBlock => {
                self.errors.blocked += 1;
                return SendResult::Blocked;
            }
            io::ErrorKind::ConnectionRefused => {
                self.errors.refused += 1;
                return SendResult::Refused;
            }
            _ => {}
        }
        if let Some(segment) = transmit.segment_size
            && self.state.max_gso_segments() == 1
        {
            // quinn-udp has just detected that this device does not support segmentation (EIO,
            // EINVAL).
            self.errors.unsegmented += 1;
            return self.send_unsegmented(transmit, segment);
        }
        match error.raw_os_error() {
            Some(EMSGSIZE) => self.errors.oversized += 1,
            _ => self.errors.other += 1,
        }
        tracing::debug!(
            %error,
            remote = %transmit.destination,
            len = transmit.contents.len(),
            "datagram not sent"
        );
        SendResult::Sent
    }

    fn send_unsegmented(&mut self, batch: &quinn_udp::Transmit<'_>, segment: usize) -> SendResult {
        for contents in batch.contents.chunks(segment.max(1)) {
            let one = quinn_udp::Transmit {
                contents,
                segment_size: None,
                ..batch.clone()
            };
            // If the socket blocks, the remaining datagrams are dropped: this happens at most once
            // per device.
            if self.try_send(&one).is_err() {
                self.errors.other += 1;
            }
        }
        SendResult::Sent
    }

    /// Receives the datagrams that are queued, at most two receive buffers of them.
    ///
    /// With receive offload the kernel already coalesces datagrams of equal length. Measured for
    /// 1200-byte datagrams: `recvmmsg` of 32 gives 1.03 times the throughput of single receives,
    /// offload 27 times. The second buffer only detects in the same system call that the queue is
    /// empty.
    ///
    /// This detection is safe with edge-triggered registration: the call returns fewer batches than
    /// it has buffers only if the queue was empty or an error has occurred since it began. Later
    /// datagrams and the error cause events of their own.
    ///
    /// # Errors
    /// A pending error of the socket, such as a refusal by the peer's host. It does not concern the
    /// datagrams that are queued: call again.
    pub(super) fn recv(&mut self, buffer: &mut ReadBuffer) -> io::Result<ReceivedDatagrams> {
        let space = &mut buffer.space(2 * RECEIVE_LEN)[..2 * RECEIVE_LEN];
        let mut metas = [RecvMeta::default(); 2];
        let received = self.socket.try_io(|| {
            let (first, second) = space.split_at_mut(RECEIVE_LEN);
            let mut slices = [first, second].map(IoSliceMut::new);
            self.state
                .recv((&self.socket).into(), &mut slices, &mut metas)
        });
        match received {
            Ok(count) => Ok(ReceivedDatagrams {
                batches: split_received(buffer, &metas[..count.min(2)]),
                is_drained: count < 2,
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(ReceivedDatagrams {
                batches: [None, None],
                is_drained: true,
            }),
            Err(error) => {
                match error.kind() {
                    io::ErrorKind::ConnectionRefused => self.errors.refused += 1,
                    _ => self.errors.other += 1,
                }
                Err(error)
            }
        }
    }

    /// Returns the datagrams that an accepted socket received between bind and connect, or since.
    /// Some may belong to other peers. The listener dispatches them like its own, so none is lost.
    pub(super) fn drain(&mut self, buffer: &mut ReadBuffer) -> Vec<(DatagramMeta, BytesMut)> {
        let mut datagrams = Vec::new();
        while datagrams.len() < DRAIN_MAX
            && let Ok(received) = self.recv(buffer)
        {
            for batch in received.batches.into_iter().flatten() {
                let meta = batch.meta;
                datagrams.extend(batch.map(|datagram| (meta, datagram)));
            }
            if received.is_drained {
                break;
            }
        }
        datagrams
    }

    /// Registers the socket for readable events, and for writable events only while its buffer is
    /// full.
    ///
    /// Each datagram that leaves the buffer causes a writable event, even if there was space
    /// before. A thread that waits for a response would be woken by its own request.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.socket, token, interest(self.is_full))?;
        (self.token, self.registered_interest) = (Some(token), self.wanted_interest());
        Ok(())
    }

    const fn wanted_interest(&self) -> Option<u64> {
        if self.is_full {
            Some(self.errors.blocked)
        } else {
            None
        }
    }

    /// Adds the interest in writable events if the last send found the buffer full, and removes it
    /// otherwise. Call it after the last send of a `Turn`.
    ///
    /// No event is missed: `EPOLL_CTL_MOD` evaluates the readiness of the socket, so it reports
    /// space that became free since the send. It is called for each time that the socket was full.
    pub(super) fn update_interest(&mut self, registry: &Registry) -> io::Result<()> {
        if self.wanted_interest() == self.registered_interest {
            return Ok(());
        }
        if let Some(token) = self.token {
            registry.reregister(&mut self.socket, token, interest(self.is_full))?;
            self.registered_interest = self.wanted_interest();
        }
        Ok(())
    }

    pub(super) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.token = None;
        registry.deregister(&mut self.socket)
    }
}

/// The ECN option of an IPv6 socket applies to IPv6 packets only, not to IPv4-mapped peers.
fn ecn_settable(remote: SocketAddr) -> Option<SocketAddr> {
    let is_mapped = matches!(remote.ip(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    (!is_mapped).then_some(remote)
}

const fn interest(is_full: bool) -> Interest {
    if is_full {
        Interest::READABLE.add(Interest::WRITABLE)
    } else {
        Interest::READABLE
    }
}

/// The error number on Linux (`errno.h`), the only system that this crate supports at present.
const EMSGSIZE: i32 = 90;

/// An unused socket with receive offload that lives as long as the process.
///
/// The kernel patches its code, which interrupts all cores, when the first socket with receive
/// offload on the machine is created and when the last one is closed. quinn-udp opens and closes
/// one for IPv6 with each socket, to test whether the kernel supports the option. While this socket
/// exists, no other is the first or the last: a dialer's socket takes 28 µs instead of 109 µs, a
/// listener's 22 µs instead of 127 µs.
static OFFLOAD_KEEPER: LazyLock<Option<Socket>> = LazyLock::new(|| {
    let any = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    let made = any.map(|ip: IpAddr| {
        let socket = new_socket(SocketAddr::new(ip, 0))?;
        UdpSocketState::new((&socket).into()).map(|_| socket)
    });
    made.into_iter().find_map(Result::ok)
});

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_nonblocking(true)?;
    // Best effort: a container may restrict the sizes.
    for error in [
        socket.set_send_buffer_size(SOCKET_BUFFER_LEN).err(),
        socket.set_recv_buffer_size(SOCKET_BUFFER_LEN).err(),
    ]
    .into_iter()
    .flatten()
    {
        tracing::debug!(%error, %address, "the socket buffer keeps its default size");
    }
    Ok(socket)
}

/// Makes sends fail periodically. Loopback never fills a UDP socket, because it delivers at once.
#[cfg(test)]
pub(super) mod fault_injection {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static EVERY: Cell<u32> = const { Cell::new(0) };
        static SENDS: Cell<u32> = const { Cell::new(0) };
    }

    /// From now on every `every`th send of this thread returns `WouldBlock`; 0 disables it.
    pub(crate) fn set(every: u32) {
        EVERY.set(every);
        SENDS.set(0);
    }

    pub(super) fn take() -> io::Result<()> {
        SENDS.set(SENDS.get().wrapping_add(1));
        match EVERY.get() {
            0 => Ok(()),
            every if SENDS.get().is_multiple_of(every) => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
