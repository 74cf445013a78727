//! A small blocking HTTP/1.1 server: a thread for each connection, one read and one write for each request.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;

use crate::wire::{self, Request};

const STACK_BYTES: usize = 256 << 10;
const BUFFER_BYTES: usize = 4 << 10;
/// How long no connection is accepted after one could not be.
const AFTER_REFUSED: Duration = Duration::from_millis(10);

/// What to do with a request.
pub(crate) enum Answer {
    /// Answer it.
    Whole(Response),
    /// Answer it, but break off inside the body: close the connection, or reset it.
    Cut { response: Response, reset: bool },
    /// Answer it, the body a byte at a time.
    Drip { response: Response, pause: Duration },
    /// Close the connection after this time, without a word.
    Silence(Duration),
    /// Reset the connection.
    Reset,
    /// A body without an end.
    EndlessBody,
    /// Headers without an end.
    EndlessHeaders,
    /// A compressed body that grows without an end.
    GzipBomb,
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
    open: Mutex<HashMap<u64, Arc<TcpStream>>>,
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
        let Ok(stream) = stream.map(Arc::new) else {
            shared.sleep(AFTER_REFUSED);
            continue;
        };
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        shared.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, stream.clone());
        let (worker_shared, handler) = (shared.clone(), handler.clone());
        let spawned = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            let _closed_by_either_side = serve(&stream, &worker_shared, &*handler);
            drop(stream);
            worker_shared.forget(id);
        });
        if spawned.is_err() {
            shared.forget(id);
        }
    }
}

impl Shared {
    fn forget(&self, id: u64) {
        drop(self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id));
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

/// What was read and not yet answered.
struct Inbox {
    bytes: Vec<u8>,
    filled: usize,
}

impl Inbox {
    fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Reads more; the connection's end is an error.
    fn fill(&mut self, mut stream: &TcpStream) -> io::Result<()> {
        if self.filled == self.bytes.len() {
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
        match stream.read(&mut self.bytes[self.filled..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.filled += read;
                Ok(())
            }
        }
    }

    fn take(&mut self, length: usize) {
        self.bytes.copy_within(length..self.filled, 0);
        self.filled -= length;
    }
}

fn serve(mut stream: &TcpStream, shared: &Shared, handler: &dyn Handler) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut inbox = Inbox { bytes: vec![0; BUFFER_BYTES], filled: 0 };
    let mut out = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let (head, length) = match wire::measure(inbox.filled()) {
            Ok(Some(lengths)) => lengths,
            Ok(None) => {
                inbox.fill(stream)?;
                continue;
            }
            Err(wire::Malformed(status)) => return refuse(stream, status, &mut out),
        };
        while inbox.filled < head + length {
            inbox.fill(stream)?;
        }
        let (head_bytes, rest) = inbox.filled().split_at(head);
        let answer = match wire::parse(head_bytes, &rest[..length]) {
            Ok(request) => handler.answer(&request),
            Err(wire::Malformed(status)) => return refuse(stream, status, &mut out),
        };
        inbox.take(head + length);
        let Answer::Whole(response) = answer else { return misbehave(stream, shared, answer, &mut out) };
        if shared.sleep(response.after) {
            return Ok(());
        }
        wire::render(&response, &mut out);
        stream.write_all(&out)?;
    }
}

fn refuse(mut stream: &TcpStream, status: u16, out: &mut Vec<u8>) -> io::Result<()> {
    wire::render(
        &Response { status, headers: vec![("Connection", "close".into())], ..Response::default() },
        out,
    );
    stream.write_all(out)
}

/// The answers after which the connection is no more.
fn misbehave(mut stream: &TcpStream, shared: &Shared, answer: Answer, out: &mut Vec<u8>) -> io::Result<()> {
    match answer {
        Answer::Whole(_) => {}
        Answer::Cut { response, reset } => {
            shared.sleep(response.after);
            let body = wire::render(&response, out);
            stream.write_all(&out[..body + response.body.len() / 2])?;
            if reset {
                return reset_on_close(stream);
            }
        }
        Answer::Drip { response, pause } => {
            shared.sleep(response.after);
            let body = wire::render(&response, out);
            stream.write_all(&out[..body])?;
            for byte in &out[body..] {
                if shared.sleep(pause) {
                    break;
                }
                stream.write_all(std::slice::from_ref(byte))?;
            }
        }
        Answer::Silence(wait) => {
            shared.sleep(wait);
        }
        Answer::Reset => return reset_on_close(stream),
        Answer::EndlessBody => {
            let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{\"data\":[\"";
            return pour(stream, shared, head, &[b'x'; 1024]);
        }
        Answer::EndlessHeaders => {
            let line = [b"X-Filler: ", [b'x'; 500].as_slice(), b"\r\n"].concat();
            return pour(stream, shared, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n", &line);
        }
        Answer::GzipBomb => {
            let mut head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n".to_vec();
            head.extend(wire::gzip_begin());
            return pour(stream, shared, &head, &wire::gzip_more());
        }
    }
    Ok(())
}

fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Sends `more` again and again, for as long as the client takes it.
fn pour(mut stream: &TcpStream, shared: &Shared, head: &[u8], more: &[u8]) -> io::Result<()> {
    stream.write_all(head)?;
    let chunk = more.repeat(64);
    while !shared.stopping.load(Ordering::Acquire) {
        stream.write_all(&chunk)?;
    }
    Ok(())
}
