//! A transport that sends a request in one piece. ureq sends the header, and then the body: two packets, and two wake-ups of
//! the server, where one does. Before each it also sets the socket's timeout, to the nanosecond that is left of it, and between
//! two requests it looks twice whether the connection is still open, at three system calls each.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::Error;
use ureq::unversioned::transport::time::Duration as Left;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// What is left of a timeout is rounded up to whole steps of this: most requests then find the one that is set already.
const STEP: Duration = Duration::from_millis(10);
/// The most that is read ahead of what ureq can use: more than the largest header that it takes.
const MOST_UNUSED: usize = super::client::MAX_HEADER_BYTES + super::client::BUFFER_BYTES;

/// A connection on which something came so lately is taken for open.
const FRESH: Duration = Duration::from_millis(1);

/// Comes last in a chain of connectors: what is held back is not encrypted yet.
#[derive(Debug, Default)]
pub(super) struct GatherConnector {
    /// This server closes connections without a word: look each time.
    closes: Arc<AtomicBool>,
}

impl<In: Transport> Connector<In> for GatherConnector {
    type Out = Gather<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Gather<In>>, Error> {
        Ok(chained.map(|inner| Gather {
            inner,
            held: 0,
            input: Vec::new(),
            used: 0,
            progress: false,
            heard: None,
            taken_for_open: false,
            closes: self.closes.clone(),
        }))
    }
}

/// Holds back what is to be sent until an answer is waited for.
#[derive(Debug)]
pub(super) struct Gather<T> {
    inner: T,
    /// So many bytes at the start of the inner output buffer are still to be sent.
    held: usize,
    /// What was received, …
    input: Vec<u8>,
    /// … of which so much was used, …
    used: usize,
    /// … some of it when it was last looked at.
    progress: bool,
    /// When something came last.
    heard: Option<Instant>,
    /// It was not looked whether it is open, and nothing has come since.
    taken_for_open: bool,
    closes: Arc<AtomicBool>,
}

impl<T: Transport> Gather<T> {
    fn flush(&mut self, timeout: NextTimeout) -> Result<(), Error> {
        match std::mem::take(&mut self.held) {
            0 => Ok(()),
            amount => self.inner.transmit_output(amount, timeout),
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
        let any = self.inner.await_input(timeout);
        let heard = matches!(any, Ok(true));
        if std::mem::take(&mut self.taken_for_open) && !heard && !matches!(any, Err(Error::Timeout(_))) {
            self.closes.store(true, Ordering::Relaxed);
        }
        let any = any?;
        if heard {
            self.heard = Some(Instant::now());
        }
        self.input.drain(..std::mem::take(&mut self.used));
        let buffers = self.inner.buffers();
        self.input.extend_from_slice(buffers.input());
        let taken = buffers.input().len();
        buffers.input_consume(taken);
        Ok(any)
    }

    fn is_open(&mut self) -> bool {
        self.taken_for_open =
            !self.closes.load(Ordering::Relaxed) && self.heard.is_some_and(|at| at.elapsed() < FRESH);
        self.taken_for_open || self.inner.is_open()
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

    use ureq::http::Method;

    use super::*;
    use crate::http::client::{Call, Client, ClientSettings, NoReply, SHORT_BODY};
    use crate::http::clock::VirtualClock;

    fn client_of(listener: &TcpListener) -> Client {
        let settings = ClientSettings {
            base_url: format!("http://{}", listener.local_addr().unwrap()),
            timeout: Duration::from_secs(30),
            connections: 1,
            client_id: None,
            trusted_roots: None,
        };
        Client::new(&settings, Arc::new(VirtualClock::new(1))).unwrap()
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
    fn a_timeout_is_never_shorter_and_hardly_longer() {
        for (left, expected) in [(0, 0), (1, 10), (10_000, 10), (10_001, 20), (29_999_950, 30_000)] {
            let timeout =
                NextTimeout { after: Left::Exact(Duration::from_micros(left)), ..NextTimeout::default() };
            assert_eq!(in_steps(timeout).after, Left::from_millis(expected), "{left}");
        }
        assert!(in_steps(NextTimeout::default()).after.is_not_happening());
    }
}
