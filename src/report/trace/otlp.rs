//! Spans in the JSON form of OTLP 1: ids in hexadecimal, times and whole numbers as texts, kinds and codes as numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::http::hex::each_hex;
use crate::sync::{Span, Value};

/// What stands before the spans of a line: who speaks.
pub(super) const LINE_HEAD: &str = concat!(
    r#"{"resourceSpans":[{"resource":{"attributes":["#,
    r#"{"key":"service.name","value":{"stringValue":"campaign-sync"}},"#,
    r#"{"key":"service.version","value":{"stringValue":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}}]},"scopeSpans":[{"scope":{"name":"campaign-sync","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""},"spans":["#
);
/// What stands behind them.
pub(super) const LINE_TAIL: &str = "]}]}]}\n";

/// `SPAN_KIND_INTERNAL` and `SPAN_KIND_CLIENT`.
const KINDS: (u8, u8) = (1, 3);
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// Appends one span as an object. There may be many thousands a second: no formatting where copying does.
pub(super) fn write(out: &mut Vec<u8>, span: &Span<'_>) {
    let mut object = Object(out);
    object.raw(r#"{"traceId":""#);
    object.hexadecimal(&span.trace.bytes());
    object.raw(r#"","spanId":""#);
    object.hexadecimal(&span.id.bytes());
    if let Some(parent) = span.parent {
        object.raw(r#"","parentSpanId":""#);
        object.hexadecimal(&parent.bytes());
    }
    object.raw(r#"","name":"#);
    object.text(span.name);
    object.raw(r#","kind":"#);
    object.number(if span.client { KINDS.1 } else { KINDS.0 });
    let begun = nanos(span.begun);
    object.raw(r#","startTimeUnixNano":""#);
    object.number(begun);
    object.raw(r#"","endTimeUnixNano":""#);
    object.number(nanos(span.ended).max(begun));
    object.raw(r#"","attributes":["#);
    for (place, (key, value)) in span.attributes.iter().enumerate() {
        object.raw(if place == 0 { r#"{"key":""# } else { r#",{"key":""# });
        object.raw(key);
        match value {
            Value::Text(value) => {
                object.raw(r#"","value":{"stringValue":"#);
                object.text(value);
                object.raw("}}");
            }
            Value::Number(value) => {
                object.raw(r#"","value":{"intValue":""#);
                object.number(*value);
                object.raw(r#""}}"#);
            }
        }
    }
    object.raw(r#"],"status":{"#);
    if let Some(message) = span.error {
        object.raw(r#""code":"#);
        object.number(ERROR);
        object.raw(r#","message":"#);
        object.text(message);
    }
    object.raw("}}");
}

struct Object<'a>(&'a mut Vec<u8>);

impl Object<'_> {
    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    /// A text in quotes, escaped.
    fn text(&mut self, text: &str) {
        self.value(&text);
    }

    fn number(&mut self, number: impl Serialize) {
        self.value(&number);
    }

    fn value(&mut self, value: &impl Serialize) {
        // Writing to memory cannot fail.
        let _infallible = serde_json::to_writer(&mut *self.0, value);
    }

    fn hexadecimal(&mut self, bytes: &[u8]) {
        each_hex(bytes, |digits| self.0.extend_from_slice(digits));
    }
}

/// Nanoseconds since 1970, which fit until the year 2554.
fn nanos(moment: SystemTime) -> u64 {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
