//! A bad network: a TCP proxy before the API or the database that refuses, resets, swallows, drips and delays.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mock_api::settings::{chance, mix};

use crate::tally::Tally;

/// How often, for each piece of data that passes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// The connection is reset before the piece is passed on.
    pub reset: f64,
    /// The piece is passed on, and the connection is cut when its answer comes: what it asked for is done.
    pub lost_reply: f64,
    /// The piece is passed on a few bytes at a time.
    pub drip: f64,
    /// The piece is passed on later.
    pub delay: f64,
}

/// What befalls everything at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Calm,
    /// Nobody listens; connections that are open go on.
    Refusing,
    /// Connections open and data is taken, but nothing passes until this is over.
    BlackHole,
}

/// How faults of this proxy are named.
pub struct Names {
    pub reset: &'static str,
    pub lost_reply: &'static str,
    pub drip: &'static str,
    pub delay: &'static str,
}

impl Names {
    pub const API: Self = Self {
        reset: "api network: reset",
        lost_reply: "api network: reply lost",
        drip: "api network: drip",
        delay: "api network: delay",
    };
    pub const DATABASE: Self = Self {
        reset: "database network: reset",
        lost_reply: "database network: reply lost",
        drip: "database network: drip",
        delay: "database network: delay",
    };
}

/// A proxy before one address; ends with its value.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    target: SocketAddr,
    names: Names,
    seed: u64,
    pieces: AtomicU64,
    rates: Mutex<Rates>,
    mood: Mutex<Mood>,
    changed: Condvar,
    stopping: AtomicBool,
    sends: Mutex<Vec<Instant>>,
    tally: Arc<Tally>,
}

/// Both ends of a connection.
struct Ends {
    client: TcpStream,
    server: TcpStream,
    /// The next answer is to be lost.
    losing: AtomicBool,
    /// Closed without a farewell: what is unread makes the system send a reset.
    dead: AtomicBool,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    ToServer,
    ToClient,
}

impl Proxy {
    pub fn before(target: SocketAddr, seed: u64, names: Names, tally: &Arc<Tally>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target,
            names,
            seed: mix(seed, u64::from(b'p')),
            pieces: AtomicU64::new(0),
            rates: Mutex::default(),
            mood: Mutex::new(Mood::Calm),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            sends: Mutex::default(),
            tally: tally.clone(),
        });
        let acceptor = std::thread::spawn({
            let shared = shared.clone();
            move || accept(listener, address, &shared)
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    pub fn set_rates(&self, rates: Rates) {
        *self.shared.rates.lock().unwrap() = rates;
    }

    pub fn set_mood(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
        self.shared.changed.notify_all();
    }

    /// When each request that counts towards a rate limit was sent by the program.
    pub fn sends(&self) -> Vec<Instant> {
        let mut sends = self.shared.sends.lock().unwrap().clone();
        sends.sort();
        sends
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.set_mood(Mood::Calm);
        let _ = self.acceptor.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }

    fn wait_while_black(&self) {
        let mood = self.mood.lock().unwrap();
        drop(self.changed.wait_while(mood, |mood| *mood == Mood::BlackHole).unwrap());
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// Accepts while it may; a refused connection is one that nobody listens for.
fn accept(listener: TcpListener, address: SocketAddr, shared: &Arc<Shared>) {
    listener.set_nonblocking(true).unwrap();
    let mut listener = Some(listener);
    while !shared.stopping() {
        if shared.mood() == Mood::Refusing {
            listener = None;
        } else if listener.is_none() {
            // Somebody's outgoing connection may have the port for a moment.
            listener = TcpListener::bind(address).ok();
            let _ = listener.as_ref().map(|listener| listener.set_nonblocking(true));
        }
        match listener.as_ref().map(TcpListener::accept) {
            Some(Ok((client, _))) => open(client, shared),
            _ => std::thread::sleep(Duration::from_millis(4)),
        }
    }
}

fn open(client: TcpStream, shared: &Arc<Shared>) {
    let Ok(server) = TcpStream::connect(shared.target) else { return };
    for stream in [&client, &server] {
        let _ = (stream.set_nonblocking(false), stream.set_nodelay(true));
    }
    let ends =
        Arc::new(Ends { client, server, losing: AtomicBool::new(false), dead: AtomicBool::new(false) });
    for way in [Way::ToServer, Way::ToClient] {
        let (ends, shared) = (ends.clone(), shared.clone());
        std::thread::spawn(move || {
            let _closed = pass(&ends, way, &shared);
            // What comes from one side only ends the other's reading; a failure ends both.
            if ends.dead.load(Ordering::Acquire) || _closed.is_err() {
                let _ = ends.server.shutdown(Shutdown::Both);
                let _ = ends.client.shutdown(Shutdown::Read);
                ends.dead.store(true, Ordering::Release);
            } else {
                let to = if way == Way::ToServer { &ends.server } else { &ends.client };
                let _ = to.shutdown(Shutdown::Write);
            }
        });
    }
}

/// Passes one way until its end.
fn pass(ends: &Ends, way: Way, shared: &Shared) -> io::Result<()> {
    let (mut from, mut to) = match way {
        Way::ToServer => (&ends.client, &ends.server),
        Way::ToClient => (&ends.server, &ends.client),
    };
    let broken = || Err(io::ErrorKind::ConnectionAborted.into());
    let mut bytes = vec![0; 16 << 10];
    loop {
        if from.peek(&mut bytes[..1])? == 0 {
            return Ok(());
        }
        let arrived = Instant::now();
        shared.wait_while_black();
        if shared.stopping() {
            return broken();
        }
        if way == Way::ToClient && ends.losing.swap(false, Ordering::AcqRel) {
            shared.tally.count(shared.names.lost_reply);
            return broken();
        }
        let hit = draw(shared, way);
        if hit == Hit::Reset {
            return broken();
        }
        let length = from.read(&mut bytes)?;
        let piece = &bytes[..length];
        if way == Way::ToServer
            && [&b"GET /api/campaigns?"[..], b"POST /api/campaigns/"]
                .iter()
                .any(|sign| piece.starts_with(sign))
        {
            shared.sends.lock().unwrap().push(arrived);
        }
        match hit {
            Hit::LostReply => ends.losing.store(true, Ordering::Release),
            Hit::Delay(time) => std::thread::sleep(time),
            Hit::Drip => {
                for few in piece.chunks(length.div_ceil(60)) {
                    to.write_all(few)?;
                    std::thread::sleep(Duration::from_millis(2));
                }
                continue;
            }
            Hit::Nothing | Hit::Reset => {}
        }
        to.write_all(piece)?;
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Hit {
    Nothing,
    Reset,
    LostReply,
    Drip,
    Delay(Duration),
}

fn draw(shared: &Shared, way: Way) -> Hit {
    let rates = *shared.rates.lock().unwrap();
    if rates == Rates::default() {
        return Hit::Nothing;
    }
    let piece = shared.pieces.fetch_add(1, Ordering::Relaxed);
    let mut drawn = chance(shared.seed, piece);
    let mut hit = |share: f64| {
        let hit = drawn >= 0.0 && drawn < share;
        drawn -= share;
        hit
    };
    if hit(rates.reset) {
        shared.tally.count(shared.names.reset);
        Hit::Reset
    } else if way == Way::ToServer && hit(rates.lost_reply) {
        Hit::LostReply
    } else if hit(rates.drip) {
        shared.tally.count(shared.names.drip);
        Hit::Drip
    } else if hit(rates.delay) {
        shared.tally.count(shared.names.delay);
        Hit::Delay(Duration::from_millis(20 + mix(shared.seed, piece) % 150))
    } else {
        Hit::Nothing
    }
}
