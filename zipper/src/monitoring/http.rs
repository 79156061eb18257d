//! A small HTTP/1.1 server for pages that are made on request. It has a limit for everything that a
//! client decides: the length of a request, the time for it, and the number of connections.
//!
//! `tiny_http` has none of the three (version 0.12: no time limit for a header, a thread for each
//! connection, lines of any length), and the other servers need an async runtime. The parser is
//! `httparse`; what remains is an accept loop.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest request with its headers. Prometheus and kubelet send less than 1 KiB.
const REQUEST_LEN_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 32;

/// The time for a whole request, and again for reading the answer.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Connections that are served at once. A further one ends the oldest: clients that are silent cannot
/// keep others out.
const CONNECTIONS_MAX: usize = 16;

/// Time without accepting after the operating system has refused a connection or a thread.
const PAUSE: Duration = Duration::from_millis(100);

/// The stack of a thread that serves a connection: four times the buffer of a request, and the page.
const STACK_LEN: usize = 256 * 1024;

/// What a client receives.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Page {
    pub(super) fn text(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    const fn reason(&self) -> &'static str {
        match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            421 => "Misdirected Request",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        }
    }
}

/// Makes the page of a path, such as `/metrics`, on the thread of the connection.
pub(super) type MakePage = dyn Fn(&str) -> Page + Send + Sync;

/// A request that is answered.
#[derive(Debug, PartialEq, Eq)]
struct PageRequest {
    path: String,
    is_head: bool,
}

/// Listens on an address until the process ends. Returns the address with the port that was bound.
pub(super) fn listen(address: SocketAddr, make: Arc<MakePage>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let bound = listener.local_addr()?;
    std::thread::Builder::new()
        .name("zipper-metrics".into())
        .spawn(move || accept(&listener, &make))?;
    Ok(bound)
}

fn accept(listener: &TcpListener, make: &Arc<MakePage>) {
    let open = Arc::new(OpenConnections::default());
    loop {
        if let Err(error) = accept_one(listener, make, &open) {
            tracing::debug!(%error, "cannot accept a connection for metrics");
            std::thread::sleep(PAUSE);
        }
    }
}

fn accept_one(
    listener: &TcpListener,
    make: &Arc<MakePage>,
    open: &Arc<OpenConnections>,
) -> io::Result<()> {
    let (stream, _) = listener.accept()?;
    let place = open.enter(&stream)?;
    let make = Arc::clone(make);
    let serve = move || {
        let _place = place;
        if let Err(error) = serve(&stream, &*make) {
            tracing::debug!(%error, "a connection for metrics failed");
        }
    };
    std::thread::Builder::new()
        .name("zipper-metrics".into())
        .stack_size(STACK_LEN)
        .spawn(serve)?;
    Ok(())
}

/// The connections that are being served, the oldest first.
#[derive(Debug, Default)]
struct OpenConnections {
    streams: Mutex<VecDeque<(u64, TcpStream)>>,
    left: Condvar,
}

/// The place of a connection among the open ones, until it is dropped.
struct ConnectionPlace {
    open: Arc<OpenConnections>,
    number: u64,
}

impl OpenConnections {
    /// Takes a place. Without a free one, the oldest connection is ended first.
    fn enter(self: &Arc<Self>, stream: &TcpStream) -> io::Result<ConnectionPlace> {
        let stream = stream.try_clone()?;
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        while streams.len() >= CONNECTIONS_MAX
            && let Some((_, oldest)) = streams.front()
        {
            let _already_ended = oldest.shutdown(Shutdown::Both);
            streams = self
                .left
                .wait(streams)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let number = streams.back().map_or(0, |(last, _)| last + 1);
        streams.push_back((number, stream));
        Ok(ConnectionPlace {
            open: Arc::clone(self),
            number,
        })
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let streams = self.open.streams.lock();
        let mut streams = streams.unwrap_or_else(PoisonError::into_inner);
        streams.retain(|(number, _)| *number != self.number);
        self.open.left.notify_one();
    }
}

fn serve(stream: &TcpStream, make: &MakePage) -> io::Result<()> {
    let (page, is_head) = match read_request(stream, Instant::now() + TIME_MAX)? {
        None => return Ok(()),
        Some(Ok(request)) => (make(&request.path), request.is_head),
        Some(Err(refusal)) => (refusal, false),
    };
    let mut answer = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Allow: GET, HEAD\r\nConnection: close\r\n\r\n",
        page.status,
        page.reason(),
        page.content_type,
        page.body.len()
    );
    if !is_head {
        answer.push_str(&page.body);
    }
    let until = Instant::now() + TIME_MAX;
    write_until(stream, answer.as_bytes(), until)?;
    stream.shutdown(Shutdown::Write)?;
    // A close with unread bytes would reset the connection and discard the answer.
    let mut rest = [0; 1024];
    for _ in 0..REQUEST_LEN_MAX / rest.len() {
        if read_until(stream, &mut rest, until)? == 0 {
            break;
        }
    }
    Ok(())
}

/// Reads a request: `None` if the client sends none, or the page that refuses it.
fn read_request(
    stream: &TcpStream,
    until: Instant,
) -> io::Result<Option<Result<PageRequest, Page>>> {
    let is_local = stream.local_addr()?.ip().to_canonical().is_loopback();
    let mut buffer = [0; REQUEST_LEN_MAX];
    let mut len = 0;
    while len < buffer.len() {
        match read_until(stream, &mut buffer[len..], until) {
            Ok(0) => return Ok(None),
            Ok(read) => len += read,
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                let refusal = Page::text(408, "no request within 5 s\n");
                return Ok(Some(Err(refusal)));
            }
            Err(error) => return Err(error),
        }
        if let Some(parsed) = parse(&buffer[..len], is_local) {
            return Ok(Some(parsed));
        }
    }
    let refusal = Page::text(431, "the request is longer than 8 KiB\n");
    Ok(Some(Err(refusal)))
}

/// Whether `Host` has an IP address or `localhost`, each maybe with a port. A page of a browser reaches a server
/// of this host under another name by changing the address of that name (DNS rebinding).
fn is_local_name(host: &[u8]) -> bool {
    let host = String::from_utf8_lossy(host);
    let (name, _) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|it| it.is_ascii_digit()) => (name, port),
        _ => (&*host, ""),
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

/// Parses a request, or returns the page that refuses it; `None` if it is incomplete. A server that listens on
/// a loopback address is `is_local`.
fn parse(bytes: &[u8], is_local: bool) -> Option<Result<PageRequest, Page>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => (),
        Err(httparse::Error::TooManyHeaders) => {
            return Some(Err(Page::text(431, "more than 32 headers\n")));
        }
        Err(error) => return Some(Err(Page::text(400, format!("{error}\n")))),
    }
    if let Some(host) = request
        .headers
        .iter()
        .find(|it| it.name.eq_ignore_ascii_case("host"))
        && is_local
        && !is_local_name(host.value)
    {
        let refusal = "these pages are at an address of this host only: use it, or localhost\n";
        return Some(Err(Page::text(421, refusal)));
    }
    let is_head = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Some(Err(Page::text(405, "only GET and HEAD are allowed\n"))),
    };
    let target = request.path.unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    Some(Ok(PageRequest { path, is_head }))
}

/// Reads like [`Read::read`], until a time.
fn read_until(mut stream: &TcpStream, buffer: &mut [u8], until: Instant) -> io::Result<usize> {
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(buffer) {
            Err(error) if is_retried(&error) => {}
            read => return read,
        }
    }
}

fn write_until(mut stream: &TcpStream, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(until)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if is_retried(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The time until then, which a socket accepts as a timeout only if it is not zero.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(ErrorKind::TimedOut.into()),
        false => Ok(left),
    }
}

/// Whether to look at the time and try again: a timeout of a socket is reported as `WouldBlock`.
fn is_retried(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(request: &[u8]) -> Option<u16> {
        Some(parse(request, true)?.map_or_else(|page| page.status, |_| 200))
    }

    #[test]
    fn requests_are_parsed_or_refused() {
        let (get, head) = (b"GET /a?b=c HTTP/1.1\r\n\r\n", b"HEAD /a HTTP/1.0\r\n\r\n");
        for (bytes, is_head) in [(&get[..], false), (&head[..], true)] {
            let request = parse(bytes, true)
                .expect("it is complete")
                .expect("it is valid");
            let path = "/a".to_owned();
            assert_eq!(request, PageRequest { path, is_head });
        }
        for len in 0..get.len() {
            assert_eq!(status(&get[..len]), None, "{len} bytes");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(33));
        for (request, expected) in [
            (&b"POST / HTTP/1.1\r\n\r\n"[..], 405),
            (b"GET / HTTP/9.9\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00", 400),
            (many.as_bytes(), 431),
        ] {
            assert_eq!(status(request), Some(expected));
        }
    }

    #[test]
    fn h4_a_server_of_this_host_answers_to_addresses_and_localhost_only() {
        let request = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        for host in [
            "localhost",
            "LOCALHOST:9001",
            "127.0.0.1:9001",
            "[::1]:80",
            "[::1]",
        ] {
            assert_eq!(status(request(host).as_bytes()), Some(200), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9001",
            "127.0.0.1.evil.example",
            "",
            "localhost.evil:1",
        ] {
            assert_eq!(status(request(host).as_bytes()), Some(421), "{host}");
            let elsewhere = parse(request(host).as_bytes(), false).expect("it is complete");
            assert!(elsewhere.is_ok(), "{host}");
        }
    }

    fn server() -> SocketAddr {
        let make = |path: &str| match path {
            "/long" => Page::text(200, "x".repeat(1 << 20)),
            path => Page::text(200, path),
        };
        listen("127.0.0.1:0".parse().expect("an address"), Arc::new(make)).expect("it listens")
    }

    fn connect(server: SocketAddr) -> TcpStream {
        TcpStream::connect(server).expect("it listens")
    }

    fn ask(mut stream: &TcpStream, request: &[u8]) -> String {
        stream.write_all(request).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }

    #[test]
    fn a_page_is_served_in_whole_and_its_head_without_a_body() {
        let server = server();
        let answer = ask(&connect(server), b"GET /long HTTP/1.1\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("Content-Length: 1048576"), "{head}");
        assert_eq!(body.len(), 1 << 20);
        let answer = ask(&connect(server), b"HEAD /long HTTP/1.1\r\n\r\n");
        assert!(answer.ends_with("\r\n\r\n") && answer.contains("Content-Length: 1048576"));
    }

    #[test]
    fn an_endless_request_is_refused_and_the_reason_arrives() {
        let request = [
            b"GET / HTTP/1.1\r\na: ".to_vec(),
            vec![b'x'; REQUEST_LEN_MAX + 100],
        ];
        let answer = ask(&connect(server()), &request.concat());
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[test]
    fn silent_clients_do_not_keep_others_out() {
        let server = server();
        let silent: Vec<TcpStream> = (0..3 * CONNECTIONS_MAX).map(|_| connect(server)).collect();
        let answer = ask(&connect(server), b"GET /here HTTP/1.1\r\n\r\n");
        assert!(answer.ends_with("/here"), "{answer}");
        // The oldest was ended by the server.
        let mut rest = Vec::new();
        (&silent[0]).read_to_end(&mut rest).expect("an end");
        assert_eq!(rest, b"");
    }
}
