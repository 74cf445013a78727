//! Spans: what an account's part tells of its steps, to whoever wants to know.

use std::time::SystemTime;

use crate::http::trace_context::{SpanId, TraceId};

/// Takes spans as they end, from any thread. It has to be quick, and has nobody to tell of failures.
pub trait Recorder: Send + Sync {
    /// A span has ended.
    fn record(&self, span: &Span<'_>);
}

/// A step that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// What it is a part of: one account's part in a run, in one process.
    pub trace: TraceId,
    /// Its own id.
    pub id: SpanId,
    /// The step it belongs to; none for the run.
    pub parent: Option<SpanId>,
    /// What kind of step it is, in few different words.
    pub name: &'a str,
    /// Whether it is a request to a server.
    pub client: bool,
    /// When it began.
    pub begun: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What else there is to say.
    pub attributes: &'a [(&'static str, Value<'a>)],
    /// Why it failed, if it did.
    pub error: Option<&'a str>,
}

/// An attribute's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A text.
    Text(&'a str),
    /// A whole number.
    Number(i64),
}
