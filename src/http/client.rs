//! One request, one reply: the ureq agent with every limit set, and what can come of a single attempt.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::Body;
use ureq::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use ureq::http::{HeaderName, Method, Request, Response};

use super::agents::{Agents, BadClientSettings, Proxy, Shared};
use super::budget::{Memory, SMALL_PAGE};
use super::clock::Clock;
use super::coding::Coding;
use super::gather::{self, BUFFER_BYTES};
use super::hints::{self, Hints};
use super::secret::Secret;
use super::tls_fault::TlsFault;
use crate::own_machine::Shortage;

/// The largest body of a listing that is read, decompressed: a page of 1,000 campaigns of 30 kB each.
pub const LONG_BODY: u64 = 32 << 20;
/// The largest of any other, of which each worker may hold one: they have a few hundred bytes.
pub const SHORT_BODY: u64 = 256 << 10;
/// Nothing of what follows it (RFC 8259, 8.1, permits to ignore it).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What a client needs to know of its server.
pub struct ClientSettings {
    /// Scheme, host and base path, without a slash at the end.
    pub base_url: String,
    /// The longest that one attempt may take, from name look-up to the body's last byte.
    pub timeout: Duration,
    /// Sent as `X-Client-Id` when set.
    pub client_id: Option<String>,
    /// Used for https only, whatever the environment says.
    pub proxy: Option<Proxy>,
}

/// A client of one server.
pub struct Client {
    agent: Arc<Shared>,
    base_url: String,
    client_id: Option<HeaderValue>,
    proxy: Option<String>,
    clock: Arc<dyn Clock>,
    /// The last long body's size: the next one's memory is there before it is asked for.
    expected: AtomicU64,
    abandoned: AtomicBool,
}

/// One attempt of one call.
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// Path and query below the base address, percent-encoded.
    pub path: &'a str,
    /// The value of `Authorization`, when one is sent.
    pub authorization: Option<&'a Secret>,
    /// A JSON body.
    pub body: Option<&'a [u8]>,
    /// Further headers.
    pub headers: &'a [(&'static HeaderName, &'a str)],
    /// The largest reply, in bytes: [`LONG_BODY`] or [`SHORT_BODY`].
    pub most_bytes: u64,
}

/// A complete reply: its body was read to the end.
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// What its header and body say of limits and waits.
    pub hints: Hints,
    /// The body, decompressed.
    pub body: Vec<u8>,
    /// Of a large one, its part of the memory for all pages.
    pub memory: Option<Memory>,
    /// Where a redirect points to; never followed.
    pub location: Option<String>,
    /// Just before the request was sent.
    pub sent_at: Instant,
    /// When it had been written to the connection.
    pub written_at: Instant,
    /// When the body's last byte was there.
    pub answered_at: Instant,
}

/// Why there is no reply. All of these are worth another attempt.
#[derive(Debug)]
pub enum NoReply {
    /// No connection could be made: refused, unreachable, no such host, TLS.
    Connect(String),
    /// The time for one attempt was over.
    Timeout(String),
    /// The connection broke, or what came was no complete HTTP response.
    Interrupted(String),
    /// It came in this content coding, which was not asked for.
    Coding(String),
    /// More than this many bytes, [`Call::most_bytes`].
    TooLarge(u64),
    /// Nothing was sent: this machine has no more of what that takes.
    Shortage(Shortage),
}

impl fmt::Display for NoReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(cause) => write!(f, "cannot connect: {cause}"),
            Self::Timeout(stage) => write!(f, "timed out ({stage})"),
            Self::Interrupted(cause) => write!(f, "connection broken: {cause}"),
            Self::Shortage(shortage) => shortage.fmt(f),
            Self::Coding(coding) => {
                write!(f, "the platform answered in Content-Encoding {coding}, which was not asked for")
            }
            Self::TooLarge(most) => write!(f, "the reply has more than {} KiB", most >> 10),
        }
    }
}

impl Client {
    /// A client whose connections are those of one of these agents.
    ///
    /// # Errors
    /// When the client id cannot stand in a header.
    pub fn new(
        settings: &ClientSettings,
        agents: &Agents,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BadClientSettings> {
        let client_id =
            match &settings.client_id {
                Some(id) => Some(HeaderValue::from_str(id).map_err(|_| {
                    BadClientSettings("the client id has characters no header can hold".into())
                })?),
                None => None,
            };
        // What is not encrypted goes to its host and to nobody else.
        let proxy = settings.proxy.as_ref().filter(|_| settings.base_url.starts_with("https:"));
        Ok(Self {
            agent: agents.get(settings.timeout, proxy),
            base_url: settings.base_url.clone(),
            client_id,
            proxy: proxy.map(|proxy| proxy.name.clone()),
            clock,
            expected: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
        })
    }

    /// Scheme, host and base path, without a slash at the end.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Makes one attempt.
    ///
    /// # Errors
    /// When there is no complete reply; whatever its status, a complete reply is none.
    pub fn send(&self, call: &Call<'_>) -> Result<Reply, NoReply> {
        let request = self.request(call).map_err(|error| NoReply::Connect(error.to_string()))?;
        let mut memory = match self.expected.load(Ordering::Relaxed) {
            bytes if call.most_bytes == LONG_BODY && bytes > SMALL_PAGE => Some(self.memory(bytes)?),
            _ => None,
        };
        let sent_at = self.clock.now();
        let mut response = self.agent.http.run(request).map_err(|error| self.no_reply(error))?;
        let written_at = gather::take_written_at().unwrap_or(sent_at);
        let status = response.status().as_u16();
        let coding = Coding::of(response.headers().get(CONTENT_ENCODING));
        let mut body = self.read(&mut response, &coding, call.most_bytes, &mut memory)?;
        if let Coding::Other(coding) = coding
            && !body.is_empty()
        {
            // The status of a failure says enough, whatever its body may be.
            if (200..300).contains(&status) {
                return Err(NoReply::Coding(coding));
            }
            body.clear();
        }
        if body.starts_with(BYTE_ORDER_MARK) {
            body.drain(..BYTE_ORDER_MARK.len());
        }
        let answered_at = self.clock.now();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let hints = match body_retry_after(status, &body) {
            None if !response.headers().keys().any(|name| hints::may_be_in(name.as_str())) => {
                Hints::default()
            }
            in_body => hints::from_response(header, in_body, self.clock.wall()),
        };
        let location = header("location").map(str::to_owned);
        Ok(Reply { status, hints, body, memory, location, sent_at, written_at, answered_at })
    }

    /// Reads a body to its end. Beyond a small page's size, it takes memory for the whole before it reads on.
    fn read(
        &self,
        response: &mut Response<Body>,
        coding: &Coding,
        most: u64,
        memory: &mut Option<Memory>,
    ) -> Result<Vec<u8>, NoReply> {
        // Compressed, it tells the length of something else.
        let encoded = response.headers().contains_key(CONTENT_ENCODING);
        let told = response.body().content_length().filter(|_| !encoded);
        let first = told.unwrap_or(0).min(most).min(BUFFER_BYTES as u64);
        let mut body = Vec::with_capacity(usize::try_from(first).unwrap_or(0) + 1);
        let mut reader = coding.decoded(response.body_mut().as_reader());
        reader.by_ref().take(SMALL_PAGE.min(most) + 1).read_to_end(&mut body).map_err(no_body)?;
        if most == LONG_BODY && body.len() as u64 > SMALL_PAGE {
            let whole = told.unwrap_or(most).min(most);
            self.expected.store(whole, Ordering::Relaxed);
            if memory.as_ref().is_none_or(|memory| memory.page() < whole) {
                // Not while it has some: two that wait for more would wait for each other.
                *memory = None;
                *memory = Some(self.memory(whole)?);
            }
            if told.is_some() {
                body.reserve_exact(usize::try_from(whole + 1).unwrap_or(0).saturating_sub(body.len()));
            }
        }
        let left = (most + 1).saturating_sub(body.len() as u64);
        reader.take(left).read_to_end(&mut body).map_err(no_body)?;
        let length = body.len() as u64;
        if length > most {
            return Err(NoReply::TooLarge(most));
        }
        if most == LONG_BODY {
            self.expected.store(length, Ordering::Relaxed);
            memory.iter_mut().for_each(|memory| memory.shrink(length));
        }
        Ok(body)
    }

    fn memory(&self, page: u64) -> Result<Memory, NoReply> {
        let given_up = || self.abandoned.load(Ordering::Acquire);
        Memory::take(page, given_up).ok_or_else(|| NoReply::Interrupted("there was no memory for it".into()))
    }

    /// Has no call of this client wait for memory any more. Where the connections are this client's alone, they are broken too,
    /// so that no call waits for an answer: those that do fail, and so do later ones. A name look-up or a connect that has
    /// begun is not broken, but takes no more than 10 s.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        if Arc::strong_count(&self.agent) == 1 {
            self.agent.http.clone().shutdown();
        }
    }

    fn request<'a>(&self, call: &Call<'a>) -> Result<Request<&'a [u8]>, ureq::http::Error> {
        let mut request =
            Request::builder().method(call.method.clone()).uri([&self.base_url, call.path].concat());
        if let Some(authorization) = call.authorization {
            let mut value = HeaderValue::from_str(authorization.reveal())?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(id) = &self.client_id {
            request = request.header("x-client-id", id);
        }
        if call.body.is_some() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, value) in call.headers {
            request = request.header(*name, *value);
        }
        request.body(call.body.unwrap_or_default())
    }

    fn no_reply(&self, error: ureq::Error) -> NoReply {
        use ureq::Error;
        if let Error::Io(error) = &error
            && let Some(shortage) = Shortage::behind(error)
        {
            return NoReply::Shortage(shortage);
        }
        match error {
            Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                self.no_connection("no answer in time")
            }
            Error::Timeout(stage) => NoReply::Timeout(stage_name(stage)),
            Error::Io(error) if is_connect_failure(&error) => self.no_connection(&error.to_string()),
            Error::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
            {
                Some(fault) => NoReply::Connect(tls_message(fault)),
                None => no_body(error),
            },
            Error::Rustls(fault) => NoReply::Connect(tls_message(&fault)),
            Error::HostNotFound | Error::ConnectionFailed | Error::Tls(_) => {
                self.no_connection(&error.to_string())
            }
            Error::ConnectProxyFailed(cause) => self.no_connection(&cause),
            other => NoReply::Interrupted(other.to_string()),
        }
    }

    /// Nobody is there, or does not want to talk. If there is a proxy, it is the only one that was asked.
    fn no_connection(&self, cause: &str) -> NoReply {
        // With a proxy, nothing but its own address is looked up.
        self.agent.resolver.forget(self.proxy.is_none().then_some(&*self.base_url));
        NoReply::Connect(match &self.proxy {
            Some(proxy) => format!("{proxy}: {cause}"),
            None => cause.to_owned(),
        })
    }
}

fn is_connect_failure(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    // A failed name look-up has no kind of its own in the standard library.
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
        || error.to_string().contains("failed to lookup address")
}

fn tls_message(error: &rustls::Error) -> String {
    let fault = TlsFault::from(error);
    let cure = match &fault {
        TlsFault::Untrusted => "set SSL_CERT_FILE to that authority's PEM file",
        TlsFault::Expired | TlsFault::NotYetValid => "is this machine's clock right?",
        TlsFault::OtherName => "is --api-url right?",
        TlsFault::Unacceptable(_) | TlsFault::Refused(_) => "it is the server that has to be mended",
        TlsFault::Unspoken(_) => "does it speak plain http there, or something else?",
    };
    format!("{fault} ({cure})")
}

/// What took too long; most often the whole of it, which has a flag.
fn stage_name(stage: ureq::Timeout) -> String {
    match stage {
        ureq::Timeout::Global => "--timeout".into(),
        other => other.to_string(),
    }
}

/// A failure while the response was under way; ureq hides its own errors inside `io::Error` there.
fn no_body(error: io::Error) -> NoReply {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
        Some(ureq::Error::Timeout(stage)) => NoReply::Timeout(stage_name(*stage)),
        _ if error.kind() == io::ErrorKind::TimedOut => NoReply::Timeout("body".into()),
        _ => NoReply::Interrupted(error.to_string()),
    }
}

/// `retry_after` of an error's JSON body; looked for only where an error may carry it.
fn body_retry_after(status: u16, body: &[u8]) -> Option<f64> {
    #[derive(Deserialize)]
    struct Hint {
        retry_after: Option<f64>,
    }
    if ![403, 429, 503].contains(&status) {
        return None;
    }
    serde_json::from_slice::<Hint>(body).ok()?.retry_after
}
