//! The trace file: spans as OTLP JSON lines, one `ExportTraceServiceRequest` a line, as the OpenTelemetry collector's
//! file exporter writes and its `otlpjsonfile` receiver reads them.
//!
//! Spans are turned into text by the thread in which they end and gathered in memory; a thread of its own writes them out,
//! whole lines by one write to the end of the file, so that several processes may share it.

mod otlp;
mod out;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use self::out::{Out, is_pipe};
use super::text::visible;
use crate::http::lock::lock;
use crate::sync::{Recorder, Span};

/// A line is ended when it has so many bytes: readers take no lines of more than 1 MiB.
const LINE: usize = 128 << 10;
/// Spans are in the file at most this much later.
const EVERY: Duration = Duration::from_secs(1);
/// What a disk too slow for it may have waiting; spans beyond that are left out.
pub(crate) const MOST_WAITING: usize = 32 << 20;

/// How long its beginning waits to know whether the file can be opened: on a disk that is gone, opening never ends.
const OPENING: Duration = Duration::from_secs(2);
/// How long the process, otherwise done, waits for the last spans to be written.
pub(crate) const LAST_SPANS: Duration = Duration::from_secs(5);

/// Writes spans to a file. Nothing that goes wrong with it is anybody else's trouble: it is said once, in the log.
pub struct Tracer {
    path: PathBuf,
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Whole lines, and the last one, which is still open.
    text: Vec<u8>,
    /// Where the open line begins; nothing when there is none.
    open: Option<usize>,
    left_out: u64,
    closed: bool,
    /// All that came before it was closed is in the file, or never will be.
    ended: bool,
}

impl State {
    fn push(&mut self, span: &[u8]) {
        if self.text.len() + span.len() > MOST_WAITING {
            self.left_out += 1;
            return;
        }
        match self.open {
            Some(_) => self.text.push(b','),
            None => {
                self.open = Some(self.text.len());
                self.text.extend_from_slice(otlp::LINE_HEAD.as_bytes());
            }
        }
        self.text.extend_from_slice(span);
        if self.open.is_some_and(|begin| self.text.len() - begin >= LINE) {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        if self.open.take().is_some() {
            self.text.extend_from_slice(otlp::LINE_TAIL.as_bytes());
        }
    }
}

impl Tracer {
    /// Opens or creates (for its owner alone, mode 0600) the file to append to. Spans for a pipe are gathered until somebody
    /// reads it; so are those for a file that takes its time to be opened.
    ///
    /// # Errors
    /// A line that names the file and the cause.
    pub fn open(path: &Path) -> Result<Self, String> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let (theirs, its) = (shared.clone(), path.to_owned());
        let (sender, opened) = sync_channel(0);
        let write = move || {
            if is_pipe(&its) {
                let _nobody_waits = sender.send(Ok(()));
            }
            let (out, cause) = match Out::open(&its) {
                Ok(out) => (Some(out), Ok(())),
                Err(error) => (None, Err(not_written(&its, &error))),
            };
            // Whoever began may not wait for it any more.
            if let Err(SendError(Err(cause))) = sender.send(cause) {
                log::warn!("{cause}; the sync itself is not affected");
            }
            match out {
                Some(out) => theirs.write(out),
                None => theirs.end(),
            }
        };
        let writer = std::thread::Builder::new()
            .name("traces".into())
            .spawn(write)
            .map_err(|error| not_written(path, &error))?;
        if let Ok(Err(cause)) = opened.recv_timeout(OPENING) {
            return Err(cause);
        }
        Ok(Self { path: path.to_owned(), shared, writer: Mutex::new(Some(writer)) })
    }

    /// Writes what is left, and ends. Spans that come later are not written; neither is what takes too long.
    pub fn finish(&self) {
        let Some(writer) = lock(&self.writer).take() else { return };
        if self.finish_within(LAST_SPANS) {
            let _panics_abort = writer.join();
        } else {
            log::warn!(
                "{}: the last spans are missing, it took none for {} s; does somebody read it, and is its disk there? The sync itself is not affected",
                named(&self.path),
                LAST_SPANS.as_secs()
            );
        }
    }

    /// The same within another time, and without a word; whether it was enough.
    pub fn finish_within(&self, most: Duration) -> bool {
        let mut state = lock(&self.shared.state);
        state.closed = true;
        self.shared.changed.notify_all();
        let waited = self.shared.changed.wait_timeout_while(state, most, |state| !state.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Recorder for Tracer {
    fn record(&self, span: &Span<'_>) {
        thread_local! {
            static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        TEXT.with_borrow_mut(|text| {
            text.clear();
            otlp::write(text, span);
            self.shared.gather(text);
        });
    }
}

impl Shared {
    fn gather(&self, span: &[u8]) {
        let mut state = lock(&self.state);
        if state.closed {
            return;
        }
        let before = state.text.len() / LINE;
        state.push(span);
        if state.text.len() / LINE > before {
            self.changed.notify_one();
        }
    }

    fn write(&self, mut out: Out) {
        let mut text = Vec::new();
        loop {
            let closed = self.next(&mut text);
            out.append(&text);
            if closed {
                break;
            }
        }
        let left_out = lock(&self.state).left_out;
        if left_out > 0 {
            log::warn!(
                "{}: {left_out} spans are missing, the disk was too slow for them; name a file on a faster one",
                named(&out.path)
            );
        }
        self.end();
    }

    /// Nothing is written any more.
    fn end(&self) {
        let mut state = lock(&self.state);
        (state.closed, state.ended) = (true, true);
        state.text = Vec::new();
        drop(state);
        self.changed.notify_all();
    }

    /// Puts whole lines in place of `text`, when there is enough for a write or it is time for one; true for the last.
    fn next(&self, text: &mut Vec<u8>) -> bool {
        let waits = |state: &mut State| !state.closed && state.text.len() < LINE;
        let (mut state, _) = self
            .changed
            .wait_timeout_while(lock(&self.state), EVERY, waits)
            .unwrap_or_else(PoisonError::into_inner);
        state.end_line();
        // Memory is used again, unless a slow disk has made it large.
        text.clear();
        text.shrink_to(4 * LINE);
        std::mem::swap(&mut state.text, text);
        state.closed
    }
}

fn not_written(path: &Path, error: &std::io::Error) -> String {
    format!("{}: spans are not written: {error}", named(path))
}

fn named(path: &Path) -> String {
    format!("--trace-file {}", visible(&path.to_string_lossy()))
}

#[cfg(test)]
mod tests;
