//! TCP sockets and their options.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// How much the kernel may queue beyond what is on its way to the peer. Without it that is up to
/// 4 MiB (`net.ipv4.tcp_wmem`), all ahead of the next urgent frame: 40 ms at 100 MB/s. It costs no
/// throughput on loopback (3.0 against 2.8 GB/s).
#[cfg(target_os = "linux")]
const UNSENT_LEN: u32 = 128 * 1024;

/// So long without an answer is the end, as for QUIC and UDP here. A session's heartbeats (1 s)
/// notice a dead peer first (3 s); this is for what has no session.
///
/// Linux also counts the time for which a peer that answers keeps its window shut: a reader that
/// stops for longer loses the connection. Sessions read on, and push back by credit.
#[cfg(target_os = "linux")]
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Keepalive probes find a dead peer on an idle connection in [`SILENCE_MAX`]: 4 s of quiet, then
/// a probe every 2 s of which three in a row stay unanswered.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(4);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 3;

/// How many connections may wait to be accepted (the kernel may allow less: `net.core.somaxconn`).
const BACKLOG: i32 = 1024;

/// A socket that has begun to connect to `remote`.
pub(super) fn connecting(remote: SocketAddr) -> io::Result<TcpStream> {
    let socket = new_socket(remote)?;
    // Before it connects, so that it also limits for how long it knocks.
    set_options(SockRef::from(&socket));
    match socket.connect(&remote.into()) {
        Ok(()) => {}
        // EINPROGRESS has no kind of its own.
        Err(error) if error.raw_os_error() == Some(EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// A socket that listens at `local`.
pub(super) fn listening(local: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(local)?;
    // Connections of the last process may linger; they must not keep this one from its address.
    socket.set_reuse_address(true)?;
    socket.bind(&local.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Sets the options of a connection. None of them is needed for it to work, so none fails it.
pub(super) fn set_options(socket: SockRef<'_>) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_PROBES);
    let results = [
        // Frames are coalesced here, so Nagle's algorithm would only add delay.
        socket.set_tcp_nodelay(true),
        socket.set_tcp_keepalive(&keepalive),
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(SILENCE_MAX)),
        #[cfg(target_os = "linux")]
        socket.set_tcp_notsent_lowat(UNSENT_LEN),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "a socket keeps its default");
    }
}

/// Linux's number (`errno.h`), the only system that this crate runs on so far.
const EINPROGRESS: i32 = 115;

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
