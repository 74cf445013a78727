//! The line to the server: the stream under each connection. It can be cut from another thread, which ends any wait for an
//! answer, and it follows the protocol's messages so that no answer takes more memory than agreed.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use postgres::Socket;
use postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::messages::Messages;
use crate::http::lock::lock;

/// When a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    Never,
    /// When the server offers it.
    Offered,
    Always,
    /// Always, and without asking for it first (`sslnegotiation=direct`).
    Direct,
}

/// One connection's line, as others see it.
#[derive(Default)]
pub(super) struct Line {
    cut: AtomicBool,
    waiting: Mutex<Option<Waker>>,
    /// The server's process for this connection, 0 before it has told.
    backend: AtomicI32,
}

impl Line {
    /// Ends whatever waits for this connection's server, now and later, with an error.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        if let Some(waker) = lock(&self.waiting).take() {
            waker.wake();
        }
    }

    pub(super) fn backend(&self) -> i32 {
        self.backend.load(Ordering::Relaxed)
    }

    /// An error once it is cut. Until then whoever waits is woken by the cut.
    fn check(&self, context: &Context<'_>) -> io::Result<()> {
        let mut waiting = lock(&self.waiting);
        if self.cut.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "left without an answer"));
        }
        if !waiting.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waiting = Some(context.waker().clone());
        }
        Ok(())
    }
}

/// Makes the stream of one connection. The driver takes it for TLS that begins at once: whether it is TLS at all is decided
/// here, which is what `sslmode` says.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) tls: MakeRustlsConnect,
    pub(super) encryption: Encryption,
    pub(super) line: Arc<Line>,
}

type Rustls = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
type Encrypted = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

impl MakeTlsConnect<Socket> for Dial {
    type Stream = Wire;
    type TlsConnect = Dialled;
    type Error = Box<dyn Error + Send + Sync>;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Dialled, Self::Error> {
        let tls = MakeTlsConnect::<Socket>::make_tls_connect(&mut self.tls, domain)?;
        Ok(Dialled { tls, encryption: self.encryption, line: self.line.clone() })
    }
}

pub(super) struct Dialled {
    tls: Rustls,
    encryption: Encryption,
    line: Arc<Line>,
}

impl TlsConnect<Socket> for Dialled {
    type Stream = Wire;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, Self::Error>> + Send>>;

    fn connect(self, mut socket: Socket) -> Self::Future {
        Box::pin(async move {
            let encrypted = match self.encryption {
                Encryption::Never => false,
                Encryption::Direct => true,
                Encryption::Offered | Encryption::Always => offers_tls(&mut socket).await?,
            };
            if !encrypted && self.encryption == Encryption::Always {
                return Err("server does not support TLS".into());
            }
            let stream = match encrypted {
                true => Stream::Encrypted(Box::new(self.tls.connect(socket).await?)),
                false => Stream::Plain(socket),
            };
            Ok(Wire { stream, messages: Messages::default(), line: self.line })
        })
    }
}

/// Asks for TLS, as the protocol has it, and reads the one byte of the answer and nothing behind it.
async fn offers_tls(socket: &mut Socket) -> io::Result<bool> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    let mut sent = 0;
    while sent < SSL_REQUEST.len() {
        match poll_fn(|context| Pin::new(&mut *socket).poll_write(context, &SSL_REQUEST[sent..])).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => sent += count,
        }
    }
    let mut byte = [0];
    let mut answer = ReadBuf::new(&mut byte);
    poll_fn(|context| Pin::new(&mut *socket).poll_read(context, &mut answer)).await?;
    match answer.filled() {
        [b'S'] => Ok(true),
        [_] => Ok(false),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

enum Stream {
    Plain(Socket),
    Encrypted(Box<Encrypted>),
}

/// The stream that the driver has.
pub(super) struct Wire {
    stream: Stream,
    messages: Messages,
    line: Arc<Line>,
}

macro_rules! stream {
    ($wire:expr, $stream:ident => $call:expr) => {
        match &mut $wire.stream {
            Stream::Plain(socket) => {
                let $stream = Pin::new(socket);
                $call
            }
            Stream::Encrypted(tls) => {
                let $stream = Pin::new(&mut **tls);
                $call
            }
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &mut *self;
        wire.line.check(context)?;
        let before = buffer.filled().len();
        ready!(stream!(wire, stream => stream.poll_read(context, buffer)))?;
        wire.messages.follow(&buffer.filled()[before..])?;
        if let Some(backend) = wire.messages.take_backend() {
            wire.line.backend.store(backend, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.line.check(context)?;
        stream!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.check(context)?;
        stream!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.check(context)?;
        stream!(self, stream => stream.poll_shutdown(context))
    }
}

impl TlsStream for Wire {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.stream {
            Stream::Plain(_) => ChannelBinding::none(),
            Stream::Encrypted(tls) => tls.channel_binding(),
        }
    }
}
