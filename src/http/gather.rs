//! A transport that sends a request in one piece. ureq sends the header, and then the body: two packets, and two wake-ups of
//! the server, where one does. Before each it also sets the socket's timeout, to the nanosecond that is left of it, and between
//! two requests it looks twice whether the connection is still open, at three system calls each: here only the second look,
//! just before the connection is used again, asks the system.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use ureq::Error;
use ureq::unversioned::transport::time::Duration as Left;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport,
};

use super::connections::Permit;

/// The largest response header, all fields together.
pub(super) const MAX_HEADER_BYTES: usize = 64 << 10;
/// Each connection's buffers; the default of 128 kB each would be most of our memory at 16 workers.
pub(super) const BUFFER_BYTES: usize = 16 << 10;
/// What is left of a timeout is rounded up to whole steps of this: most requests then find the one that is set already.
const STEP: Duration = Duration::from_millis(10);
/// The most that is read ahead of what ureq can use: more than the largest header that it takes.
const MOST_UNUSED: usize = MAX_HEADER_BYTES + BUFFER_BYTES;

thread_local! {
    /// When this thread last had written a request to a connection.
    static WRITTEN_AT: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// When this thread had written the request that was answered just now.
pub(super) fn take_written_at() -> Option<Instant> {
    WRITTEN_AT.take()
}

/// Opens a connection, if there is room for one, and wraps it last of all: what is held back is not encrypted yet.
#[derive(Debug, Default)]
pub(super) struct GatherConnector(DefaultConnector);

impl Connector for GatherConnector {
    type Out = Gather<Box<dyn Transport>>;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Self::Out>, Error> {
        let permit = Permit::take().map_err(io::Error::from)?;
        Ok(self.0.connect(details, None)?.map(|inner| Gather {
            inner,
            _permit: permit,
            held: 0,
            input: Vec::new(),
            used: 0,
            progress: false,
            in_use: false,
        }))
    }
}

/// Holds back what is to be sent until an answer is waited for.
#[derive(Debug)]
pub(super) struct Gather<T> {
    inner: T,
    _permit: Permit,
    /// So many bytes at the start of the inner output buffer are still to be sent.
    held: usize,
    /// What was received, …
    input: Vec<u8>,
    /// … of which so much was used, …
    used: usize,
    /// … some of it when it was last looked at.
    progress: bool,
    /// Something came since it was last asked whether it is open.
    in_use: bool,
}

impl<T: Transport> Gather<T> {
    fn flush(&mut self, timeout: NextTimeout) -> Result<(), Error> {
        match std::mem::take(&mut self.held) {
            0 => Ok(()),
            amount => {
                self.inner.transmit_output(amount, timeout)?;
                WRITTEN_AT.set(Some(Instant::now()));
                Ok(())
            }
        }
    }
}

impl<T: Transport> Transport for Gather<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.held += amount;
        // There is always room for some more.
        if self.held > self.inner.buffers().output().len() / 2 {
            return self.flush(in_steps(timeout));
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = in_steps(timeout);
        self.flush(timeout)?;
        if self.input.len() - self.used > MOST_UNUSED {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a header without an end").into());
        }
        let any = self.inner.await_input(timeout)?;
        self.in_use = any;
        self.input.drain(..std::mem::take(&mut self.used));
        let buffers = self.inner.buffers();
        self.input.extend_from_slice(buffers.input());
        let taken = buffers.input().len();
        buffers.input_consume(taken);
        Ok(any)
    }

    /// ureq asks when a connection goes back to its pool, and again when it is taken out. Only the second answer counts: what
    /// came in between is no answer to the next request, and a connection that holds it is dropped.
    fn is_open(&mut self) -> bool {
        let returned = std::mem::take(&mut self.in_use);
        self.input().is_empty() && (returned || self.inner.is_open())
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

impl<T: Transport> Buffers for Gather<T> {
    fn output(&mut self) -> &mut [u8] {
        &mut self.inner.buffers().output()[self.held..]
    }

    fn input(&self) -> &[u8] {
        &self.input[self.used..]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        // For transports that fill it; this one fills its own.
        &mut []
    }

    fn input_appended(&mut self, _: usize) {}

    fn input_consume(&mut self, amount: usize) {
        self.progress = amount > 0;
        self.used += amount;
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        let (scratch, output) = self.inner.buffers().tmp_and_output();
        (scratch, &mut output[self.held..])
    }

    fn can_use_input(&self) -> bool {
        self.progress && self.used < self.input.len()
    }
}

fn in_steps(timeout: NextTimeout) -> NextTimeout {
    let Left::Exact(left) = timeout.after else { return timeout };
    let steps = left.as_nanos().div_ceil(STEP.as_nanos());
    let after = u32::try_from(steps).map_or(left, |steps| STEP * steps);
    NextTimeout { after: Left::Exact(after), ..timeout }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::{Arc, mpsc};

    use ureq::http::Method;

    use super::*;
    use crate::http::agents::Agents;
    use crate::http::client::{Call, Client, ClientSettings, NoReply, SHORT_BODY};
    use crate::http::clock::VirtualClock;

    fn client_of(listener: &TcpListener) -> Client {
        let settings = ClientSettings {
            base_url: format!("http://{}", listener.local_addr().unwrap()),
            timeout: Duration::from_secs(30),
            client_id: None,
            proxy: None,
        };
        Client::new(&settings, &Agents::new(1, None).unwrap(), Arc::new(VirtualClock::new(1))).unwrap()
    }

    fn post<'a>(path: &'a str, body: &'a [u8]) -> Call<'a> {
        Call {
            method: Method::POST,
            path,
            authorization: None,
            body: Some(body),
            headers: &[],
            most_bytes: SHORT_BODY,
        }
    }

    /// What a server receives at once of a request with so long a path and body.
    fn received(path: usize, body: usize) -> Vec<usize> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = client_of(&listener);
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut pieces, mut all, mut buffer) = (Vec::new(), Vec::new(), vec![0; 256 << 10]);
            while !all.ends_with(b"#") {
                let length = stream.read(&mut buffer).unwrap();
                assert!(length > 0);
                pieces.push(length);
                all.extend_from_slice(&buffer[..length]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
            pieces
        });
        let (path, body) = (format!("/{}", "p".repeat(path)), "b".repeat(body) + "#");
        assert_eq!(client.send(&post(&path, body.as_bytes())).unwrap().body, b"ok");
        server.join().unwrap()
    }

    #[test]
    fn what_never_becomes_a_response_is_not_kept_for_ever() {
        for begin in ["HTTP/1.1 200 OK\r\nx: ", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;"] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = client_of(&listener);
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
                stream.write_all(begin.as_bytes()).unwrap();
                let mut sent = 0;
                while sent < 1 << 30 && stream.write_all(&[b'a'; 4096]).is_ok() {
                    sent += 4096;
                }
                sent
            });
            let answer = client.send(&post("/", b"{}"));
            assert!(matches!(answer, Err(NoReply::Interrupted(_))), "{begin}: {:?}", answer.err());
            drop(client);
            // What the system's buffers hold comes on top.
            assert!(server.join().unwrap() < 64 << 20, "{begin}");
        }
    }

    #[test]
    fn a_request_is_sent_in_one_piece_and_one_that_is_too_large_for_that_is_sent_as_well() {
        assert_eq!(received(100, 100).len(), 1);
        for (path, body) in [(100, 9_000), (9_000, 100), (9_000, 9_000), (100, 200_000), (15_000, 50_000)] {
            assert!(received(path, body).iter().sum::<usize>() > path + body);
        }
    }

    #[test]
    fn an_answer_that_was_there_before_the_request_is_not_taken_for_its_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = client_of(&listener);
        let ((answered, done), (written, unasked)) = (mpsc::sync_channel(0), mpsc::sync_channel(0));
        std::thread::spawn(move || {
            let answer = |text: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{text}");
            let mut streams = Vec::new();
            loop {
                // A connection that is used again, or a new one.
                let again = streams.last_mut().is_some_and(is_asked);
                if !again {
                    streams.push(listener.accept().unwrap().0);
                    assert!(is_asked(streams.last_mut().unwrap()));
                }
                let stream = streams.last_mut().unwrap();
                stream.write_all(answer("asked").as_bytes()).unwrap();
                done.recv().unwrap();
                // One more, to nothing that was asked.
                stream.write_all(answer("stale").as_bytes()).unwrap();
                written.send(()).unwrap();
            }
        });
        for n in 0..50 {
            assert_eq!(client.send(&post("/", b"{}")).unwrap().body, b"asked", "request {n}");
            answered.send(()).unwrap();
            unasked.recv().unwrap();
        }
    }

    /// Whether a request comes, rather than the end of the connection.
    fn is_asked(stream: &mut std::net::TcpStream) -> bool {
        stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0)
    }

    #[test]
    fn a_timeout_is_never_shorter_and_hardly_longer() {
        for (left, expected) in [(0, 0), (1, 10), (10_000, 10), (10_001, 20), (29_999_950, 30_000)] {
            let timeout =
                NextTimeout { after: Left::Exact(Duration::from_micros(left)), ..NextTimeout::default() };
            assert_eq!(in_steps(timeout).after, Left::from_millis(expected), "{left}");
        }
        assert!(in_steps(NextTimeout::default()).after.is_not_happening());
    }
}
