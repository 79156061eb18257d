//! A UDP socket with segmentation offload, as QUIC and plain UDP use it.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;

use bytes::BytesMut;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use quinn_udp::{EcnCodepoint, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::ReadBuffer;

/// The largest UDP payload over IPv4: 65535 less the headers of IP and UDP.
///
/// A batch for segmentation offload is one such payload to the kernel; a larger one is refused whole
/// (EMSGSIZE), and the connection collapses to 1 MB/s (perf.md, section 3, "a trap").
pub(super) const BATCH_LEN_MAX: usize = 65_507;

/// The most datagrams in one send: 44 of 1452 bytes fill a batch (perf.md T2: 1.74 times quinn's 10).
const SEGMENTS_MAX: usize = 44;

/// What is asked of the kernel for each direction; it may grant less (`net.core.rmem_max`).
///
/// With the default of 212,992 bytes a bulk stream on loopback loses 3 to 10 thousand packets a
/// second, with 4 MiB none (perf.md, section 3). It is a limit, not an allocation.
const SOCKET_BUFFER_LEN: usize = 4 << 20;

/// The space for one receive, in bytes: what segmentation offload can put together.
const RECEIVE_LEN: usize = 64 * 1024;

/// How many datagrams [`DatagramSocket::drain`] takes out: far more than arrive in the few
/// microseconds between bind and connect, and no way to hold the listener up.
const DRAIN_MAX: usize = 256;

/// How many datagrams of `len` bytes one send may carry, given what the kernel can do.
pub(super) fn segments_max(len: usize, kernel_max: usize) -> usize {
    (BATCH_LEN_MAX / len.max(1))
        .min(SEGMENTS_MAX)
        .min(kernel_max)
        .max(1)
}

/// What happened to sends and receives that failed, by reason.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SocketErrors {
    /// Sends that the socket could not take yet (EAGAIN); they were repeated.
    pub(super) blocked: u64,
    /// Sends larger than the path or the kernel takes (EMSGSIZE): probes of the MTU, mostly.
    pub(super) oversized: u64,
    /// Answers that nobody listens there (ECONNREFUSED).
    pub(super) refused: u64,
    /// Any other error of a send or receive.
    pub(super) other: u64,
    /// Batches sent one by one because segmentation offload failed.
    pub(super) unsegmented: u64,
}

/// What became of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendResult {
    /// The kernel took it, or it is lost, as any datagram may be; the loss is counted.
    Sent,
    /// The socket is full: repeat it after the next writable event.
    Blocked,
    /// An earlier datagram was refused by the peer's host; this one was not sent.
    Refused,
}

/// One or more datagrams of equal length (the last may be shorter) from one peer.
#[derive(Debug)]
pub(super) struct ReceivedBatch {
    pub(super) bytes: BytesMut,
    pub(super) stride: usize,
    pub(super) meta: DatagramMeta,
}

/// Where a datagram came from, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct DatagramMeta {
    pub(super) remote: SocketAddr,
    pub(super) local_ip: Option<IpAddr>,
    pub(super) ecn: Option<EcnCodepoint>,
}

/// What one call has received.
#[derive(Debug)]
pub(super) struct ReceivedDatagrams {
    pub(super) batches: [Option<ReceivedBatch>; 2],
    /// Nothing more had arrived then: an event comes when something does.
    pub(super) is_drained: bool,
}

/// Takes out of `buffer` what was received at its beginning, and at [`RECEIVE_LEN`] behind it.
fn split_received(buffer: &mut ReadBuffer, metas: &[RecvMeta]) -> [Option<ReceivedBatch>; 2] {
    let lens = [0, 1].map(|at| metas.get(at).map_or(0, |meta| meta.len.min(RECEIVE_LEN)));
    let gap = RECEIVE_LEN - lens[0];
    let gap = if gap > lens[1] {
        // The copy is less than what would be left unused.
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

/// A non-blocking UDP socket and what quinn-udp knows about it.
#[derive(Debug)]
pub(super) struct DatagramSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    /// Whom it is connected to, if marks of the socket are on what goes there.
    remote: Option<SocketAddr>,
    /// The congestion mark that it gives to what is sent without one of its own.
    ecn: Option<EcnCodepoint>,
    token: Option<Token>,
    /// The last send found no room.
    is_full: bool,
    /// If it is registered for writable events: how often it had been full when that was asked for.
    registered_interest: Option<u64>,
    pub(super) errors: SocketErrors,
}

impl DatagramSocket {
    /// A socket of this listener, which alone owns the address, but lets its own
    /// [`accepted`](Self::accepted) sockets share it.
    pub(super) fn listening(address: SocketAddr) -> io::Result<Self> {
        let socket = new_socket(address)?;
        socket.bind(&address.into())?;
        // Only now, so that a second listener on the address fails instead of sharing its traffic.
        // Linux asks for the option when the second socket binds.
        socket.set_reuse_port(true)?;
        Self::new(socket)
    }

    /// A socket for one peer of a listener: bound to the listener's address, connected to `remote`.
    ///
    /// Between bind and connect the kernel may hand it datagrams of other peers; the caller takes
    /// them out before anything else. Once it is connected it gets none (Linux 5.4, commit
    /// acdcecc61285: a connected socket does not take part in the choice among reuse-port sockets).
    pub(super) fn accepted(local: SocketAddr, remote: SocketAddr) -> io::Result<Self> {
        let socket = new_socket(local)?;
        socket.set_reuse_port(true)?;
        socket.bind(&local.into())?;
        Self::connected(socket, remote)
    }

    /// A socket of a dialer, at a port that the kernel chooses, connected to `remote`.
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

    /// Follows the peer to a new address.
    pub(super) fn reconnect(&mut self, remote: SocketAddr) -> io::Result<()> {
        self.remote = None;
        self.socket.connect(remote)?;
        self.remote = ecn_settable(remote);
        Ok(())
    }

    /// Whether the kernel might cut datagrams into IP fragments, so that the MTU cannot be probed.
    pub(super) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// How many datagrams of `len` bytes one send may carry.
    pub(super) fn segments_max(&self, len: usize) -> usize {
        segments_max(len, self.state.max_gso_segments())
    }

    /// Sends a datagram, or a batch of them if it says a segment size.
    pub(super) fn send(&mut self, transmit: &quinn_udp::Transmit<'_>) -> SendResult {
        let sent = match self.try_send(transmit) {
            Ok(()) => SendResult::Sent,
            Err(error) => self.record_send_error(&error, transmit),
        };
        self.is_full = sent == SendResult::Blocked;
        sent
    }

    /// One datagram to the peer goes by `send`, with the mark of the socket: the kernel need not
    /// look for the route nor read an address and an option.
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

    /// Decides what an error of a send means.
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
            // quinn-udp has just found that this device cannot segment (EIO, EINVAL).
            self.errors.unsegmented += 1;
            return self.send_unsegmented(transmit, segment);
        }
        match error.raw_os_error() {
            Some(EMSGSIZE) => self.errors.oversized += 1,
            _ => self.errors.other += 1,
        }
        tracing::debug!(%error, len = transmit.contents.len(), "a datagram was not sent");
        SendResult::Sent
    }

    fn send_unsegmented(&mut self, batch: &quinn_udp::Transmit<'_>, segment: usize) -> SendResult {
        for contents in batch.contents.chunks(segment.max(1)) {
            let one = quinn_udp::Transmit {
                contents,
                segment_size: None,
                ..batch.clone()
            };
            // The rest of a batch that blocks is lost rather than kept: this happens once a device.
            if self.try_send(&one).is_err() {
                self.errors.other += 1;
            }
        }
        SendResult::Sent
    }

    /// What has arrived, or as much of it as two receives take.
    ///
    /// The kernel already puts equal datagrams together: `recvmmsg` of 32 gains 3 % over single
    /// receives, offload 27 times (perf.md T3). The second receive is there to find out in the same
    /// system call that there is nothing more.
    ///
    /// That is safe although registration is edge-triggered: the call comes back with fewer than it has
    /// space for only when it has found the queue empty, or an error that has come since it began.
    /// Whatever comes after that makes an event of its own, and so has the error.
    ///
    /// # Errors
    /// An error that the kernel kept for this socket, such as a refusal by the peer's host. It says
    /// nothing about the datagrams behind it: call again.
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

    /// What an accepted socket received between its bind and its connect, or since; some of it may
    /// be for others. The listener routes it as if it had received it itself, so nothing is lost.
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

    /// Registers it for readable events, and for writable ones only while it is full.
    ///
    /// A datagram that has left the buffer makes a writable event, whether there was room before or
    /// not: a thread that waits for the answer would be woken by its own question.
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

    /// Has an event come when there is room again if the last send found none, and none any more
    /// when it found some. Call it behind the last send of a turn.
    ///
    /// No event is missed: the kernel looks when it is asked (EPOLL_CTL_MOD), and finds the room that
    /// was made since the send. It is asked each time that the socket was full.
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

/// A socket of IPv6 puts its mark on packets of IPv6 only.
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

/// The same number on every system that this crate runs on (Linux; `errno.h`).
const EMSGSIZE: i32 = 90;

/// A socket with receive offload, for as long as the process lives, and used for nothing.
///
/// The kernel patches its own code, interrupting all cores, when the first such socket of the machine
/// is made and when the last one has gone; and quinn-udp makes and closes one of IPv6 with each
/// socket, to see whether the kernel knows the option. As long as this one is there, none is the
/// first or the last: a socket of a dialer takes 28 us and not 109, one of a listener 22 and not 127.
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
    // Best effort: a container may be allowed less.
    for error in [
        socket.set_send_buffer_size(SOCKET_BUFFER_LEN).err(),
        socket.set_recv_buffer_size(SOCKET_BUFFER_LEN).err(),
    ]
    .into_iter()
    .flatten()
    {
        tracing::debug!(%error, "the socket buffer keeps its size");
    }
    Ok(socket)
}

/// A socket that is full now and then: UDP on loopback never is, since nothing holds datagrams back.
#[cfg(test)]
pub(super) mod fault_injection {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static EVERY: Cell<u32> = const { Cell::new(0) };
        static SENDS: Cell<u32> = const { Cell::new(0) };
    }

    /// From now on each `every`th send of this thread finds no room; none does with 0.
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
