//! TCP sockets and their options.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// The limit of unsent data in the kernel's send buffer. By default it is up to 4 MiB
/// (`net.ipv4.tcp_wmem`), which delays an urgent frame by 40 ms at 100 MB/s. The limit costs no
/// throughput on loopback (3.0 GB/s with it, 2.8 GB/s without).
#[cfg(target_os = "linux")]
const UNSENT_LEN: u32 = 128 * 1024;

/// The maximum time without an acknowledgement, as for QUIC and UDP. The heartbeats of a session (1
/// s) detect a dead peer earlier (3 s); this limit serves transports without a session.
///
/// Linux also counts the time during which a responsive peer advertises a zero window: a reader
/// that stops for longer loses the connection. Sessions therefore always read, and apply
/// backpressure by credit.
#[cfg(target_os = "linux")]
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Keepalive detects a dead peer on an idle connection within [`SILENCE_MAX`]: 4 s idle, then three
/// unanswered probes at intervals of 2 s.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(4);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 3;

/// The maximum number of connections in the accept queue; the kernel may allow fewer
/// (`net.core.somaxconn`).
const BACKLOG: i32 = 1024;

/// Creates a socket that is connecting to `remote`.
pub(super) fn connecting(remote: SocketAddr) -> io::Result<TcpStream> {
    let socket = new_socket(remote)?;
    // Set before the connect, so that the limit also applies to the SYN retransmissions.
    set_options(SockRef::from(&socket));
    match socket.connect(&remote.into()) {
        Ok(()) => {}
        // `io::ErrorKind` has no stable variant for EINPROGRESS.
        Err(error) if error.raw_os_error() == Some(EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// Creates a socket that listens at `local`.
pub(super) fn listening(local: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(local)?;
    // Connections of a previous process in TIME_WAIT must not prevent the bind.
    socket.set_reuse_address(true)?;
    socket.bind(&local.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Sets the options of a connection. All are optional, so a failure is only logged.
pub(super) fn set_options(socket: SockRef<'_>) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_PROBES);
    let results = [
        // This transport coalesces frames itself, so Nagle's algorithm would only add delay.
        socket.set_tcp_nodelay(true),
        socket.set_tcp_keepalive(&keepalive),
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(SILENCE_MAX)),
        #[cfg(target_os = "linux")]
        socket.set_tcp_notsent_lowat(UNSENT_LEN),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "socket option not supported; its default remains");
    }
}

/// The error number on Linux (`errno.h`), the only system that this crate supports at present.
const EINPROGRESS: i32 = 115;

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
