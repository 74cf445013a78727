//! The trace file: spans as OTLP JSON lines, one `ExportTraceServiceRequest` a line, as the OpenTelemetry collector's
//! file exporter writes and its `otlpjsonfile` receiver reads them.
//!
//! Spans are turned into text by the thread in which they end and gathered in memory; a thread of its own writes them out,
//! whole lines by one write to the end of the file, so that several processes may share it.

mod otlp;

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::text::visible;
use super::whole_file::refuse_foreign_link;
use crate::http::lock::lock;
use crate::sync::{Recorder, Span};

/// A line is ended when it has so many bytes: readers take no lines of more than 1 MiB.
const LINE: usize = 128 << 10;
/// Spans are in the file at most this much later.
const EVERY: Duration = Duration::from_secs(1);
/// What a disk too slow for it may have waiting; spans beyond that are left out.
pub(crate) const MOST_WAITING: usize = 32 << 20;

/// Writes spans to a file. Nothing that goes wrong with it is anybody else's trouble: it is said once, in the log.
pub struct Tracer {
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
    /// All that came before it was closed is in the file.
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
    /// Opens or creates (for its owner alone, mode 0600) the file to append to.
    ///
    /// # Errors
    /// A line that names the file and the cause.
    pub fn open(path: &Path) -> Result<Self, String> {
        let failed = |error| format!("{}: spans are not written: {error}", named(path));
        let out = Out::open(path).map_err(failed)?;
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let theirs = shared.clone();
        let write = move || theirs.write(out);
        let writer = std::thread::Builder::new().name("traces".into()).spawn(write).map_err(failed)?;
        Ok(Self { shared, writer: Mutex::new(Some(writer)) })
    }

    /// Writes what is left, and ends. Spans that come later are not written.
    pub fn finish(&self) {
        lock(&self.shared.state).closed = true;
        self.shared.changed.notify_all();
        if let Some(writer) = lock(&self.writer).take() {
            let _panics_abort = writer.join();
        }
    }

    /// The same, but never longer than this: a disk that is slower has none of it.
    pub fn finish_within(&self, most: Duration) {
        let mut state = lock(&self.shared.state);
        state.closed = true;
        self.shared.changed.notify_all();
        let _in_time = self.shared.changed.wait_timeout_while(state, most, |state| !state.ended);
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
        let left_out = {
            let mut state = lock(&self.state);
            state.ended = true;
            state.left_out
        };
        self.changed.notify_all();
        if left_out > 0 {
            log::warn!(
                "{}: {left_out} spans are missing, the disk was too slow for them; name a file on a faster one",
                named(&out.path)
            );
        }
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

/// The file's end.
struct Out {
    path: PathBuf,
    file: File,
    /// The file ends within a line: of a process that was killed, or after a failure.
    torn: bool,
    warned: bool,
}

impl Out {
    fn open(path: &Path) -> io::Result<Self> {
        refuse_foreign_link(path)?;
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let torn = file.metadata()?.is_file() && ends_within_a_line(&mut file)?;
        Ok(Self { path: path.to_owned(), file, torn, warned: false })
    }

    fn append(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        let mut text = text;
        let ended;
        if self.torn {
            ended = [b"\n", text].concat();
            text = &ended;
        }
        match self.file.write_all(text) {
            Ok(()) => self.torn = false,
            Err(error) => {
                // How much of it is there, nobody knows; a line break too many does no harm.
                self.torn = true;
                if !self.warned {
                    self.warned = true;
                    log::warn!(
                        "{}: cannot be written to, spans are missing: {error}; make room there or name another file; the sync itself is not affected",
                        named(&self.path)
                    );
                }
            }
        }
    }
}

fn ends_within_a_line(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

fn named(path: &Path) -> String {
    format!("--trace-file {}", visible(&path.to_string_lossy()))
}

#[cfg(test)]
mod tests;
