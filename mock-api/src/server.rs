//! A small blocking HTTP/1.1 server: a thread for each connection, one read and one write for each request.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Requests with a longer head, or a longer body, are refused.
const MOST_HEAD: usize = 64 << 10;
const MOST_BODY: usize = 1 << 20;
const STACK_BYTES: usize = 256 << 10;

/// A request, as far as the API looks at it.
pub(crate) struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub authorization: &'a str,
    pub client: &'a str,
    pub idempotency_key: &'a str,
    pub body: &'a [u8],
    pub arrived: Instant,
}

/// What to do with a request.
pub(crate) enum Answer {
    /// Answer it.
    Whole(Response),
    /// Answer it, but break off inside the body.
    Cut(Response),
    /// Close the connection after this time, without a word.
    Silence(Duration),
    /// A body without an end.
    Endless,
}

/// A response.
#[derive(Default)]
pub(crate) struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub html: bool,
    /// Sent this much later.
    pub after: Duration,
}

/// Something that answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    fn answer(&self, request: &Request<'_>) -> Answer;
}

/// A running server; stops when dropped.
pub(crate) struct Listening {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    stopping: AtomicBool,
    asleep: Mutex<()>,
    wake: Condvar,
    open: Mutex<HashMap<u64, TcpStream>>,
    closed: Condvar,
    next: AtomicU64,
}

pub(crate) fn listen(address: &str, handler: Arc<dyn Handler>) -> io::Result<Listening> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    let shared = Arc::new(Shared {
        stopping: AtomicBool::new(false),
        asleep: Mutex::new(()),
        wake: Condvar::new(),
        open: Mutex::default(),
        closed: Condvar::new(),
        next: AtomicU64::new(0),
    });
    let acceptor = std::thread::Builder::new().name("accept".into()).spawn({
        let shared = shared.clone();
        move || accept(&listener, &shared, &handler)
    })?;
    Ok(Listening { address, shared, acceptor: Some(acceptor) })
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, handler: &Arc<dyn Handler>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let Ok(copy) = stream.try_clone() else { continue };
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        shared.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, copy);
        let (worker_shared, handler) = (shared.clone(), handler.clone());
        let spawned = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            let _closed_by_either_side = serve(stream, &worker_shared, &*handler);
            worker_shared.forget(id);
        });
        if spawned.is_err() {
            shared.forget(id);
        }
    }
}

impl Shared {
    fn forget(&self, id: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = open.remove(&id) {
            let _gone_already = stream.shutdown(Shutdown::Both);
        }
        drop(open);
        self.closed.notify_all();
    }

    /// Sleeps, unless the server stops; true when it does.
    fn sleep(&self, duration: Duration) -> bool {
        if !duration.is_zero() {
            let guard = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
            let _woken = self
                .wake
                .wait_timeout_while(guard, duration, |()| !self.stopping.load(Ordering::Acquire))
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.stopping.load(Ordering::Acquire)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        drop(self.shared.asleep.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
        // Wakes the acceptor, which then sees that it is to stop.
        let _woken = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let Some(acceptor) = self.acceptor.take() {
            let _panicked = acceptor.join();
        }
        let open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.values() {
            let _gone_already = stream.shutdown(Shutdown::Both);
        }
        let _all_closed =
            self.shared.closed.wait_timeout_while(open, Duration::from_secs(5), |open| !open.is_empty());
    }
}

fn serve(mut stream: TcpStream, shared: &Shared, handler: &dyn Handler) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut buffer, mut out) = (Vec::with_capacity(4096), Vec::with_capacity(4096));
    loop {
        let Some((head, length)) = read_head(&mut stream, &mut buffer)? else { return Ok(()) };
        while buffer.len() < head + length {
            if read_more(&mut stream, &mut buffer)? == 0 {
                return Ok(());
            }
        }
        let arrived = Instant::now();
        let answer = match parse(&buffer[..head], &buffer[head..head + length], arrived) {
            Some(request) => handler.answer(&request),
            None => Answer::Whole(Response { status: 400, ..Response::default() }),
        };
        match answer {
            Answer::Whole(response) => {
                if shared.sleep(response.after) {
                    return Ok(());
                }
                render(&response, &mut out);
                stream.write_all(&out)?;
            }
            Answer::Cut(response) => {
                let _stopped = shared.sleep(response.after);
                render(&response, &mut out);
                let head = out.len() - response.body.len();
                return stream.write_all(&out[..head + response.body.len() / 2]);
            }
            Answer::Silence(wait) => {
                let _stopped = shared.sleep(wait);
                return Ok(());
            }
            Answer::Endless => return pour(&mut stream, shared),
        }
        buffer.drain(..head + length);
    }
}

/// The head's length and the body's; nothing at the connection's end.
fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<(usize, usize)>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = end + 4;
            let length =
                field(&buffer[..head], "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
            if length > MOST_BODY {
                return Err(io::ErrorKind::InvalidData.into());
            }
            return Ok(Some((head, length)));
        }
        if buffer.len() > MOST_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if read_more(stream, buffer)? == 0 {
            return Ok(None);
        }
    }
}

fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut chunk = [0; 4096];
    let read = stream.read(&mut chunk)?;
    buffer.extend_from_slice(&chunk[..read]);
    Ok(read)
}

fn parse<'a>(head: &'a [u8], body: &'a [u8], arrived: Instant) -> Option<Request<'a>> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\r').next()?).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    Some(Request {
        method,
        path,
        authorization: field(head, "authorization").unwrap_or_default(),
        client: field(head, "x-client-id").unwrap_or("default"),
        idempotency_key: field(head, "idempotency-key").unwrap_or_default(),
        body,
        arrived,
    })
}

fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        found.eq_ignore_ascii_case(name.as_bytes()).then(|| std::str::from_utf8(value).ok().map(str::trim))?
    })
}

fn render(response: &Response, out: &mut Vec<u8>) {
    out.clear();
    let kind = if response.html { "text/html" } else { "application/json" };
    // Writing to a Vec cannot fail.
    let _infallible = write!(
        out,
        "HTTP/1.1 {} {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n",
        response.status,
        reason(response.status),
        response.body.len()
    );
    for (name, value) in &response.headers {
        let _infallible = write!(out, "{name}: {value}\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&response.body);
}

/// Sends for as long as the client takes it.
fn pour(stream: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{\"data\":[\"",
    )?;
    let chunk = [b'x'; 64 << 10];
    while !shared.stopping.load(Ordering::Acquire) {
        stream.write_all(&chunk)?;
    }
    Ok(())
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        410 => "Gone",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}
