//! Spans in the JSON form of OTLP 1: ids in hexadecimal, times and whole numbers as texts, kinds and codes as numbers.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

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

/// One span as an object.
pub(super) fn json(span: &Span<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(1_024);
    // Writing to memory cannot fail.
    let _infallible = write(&mut out, span);
    out
}

fn write(out: &mut Vec<u8>, span: &Span<'_>) -> std::io::Result<()> {
    write!(out, r#"{{"traceId":"{}","spanId":"{}""#, span.trace, span.id)?;
    if let Some(parent) = span.parent {
        write!(out, r#","parentSpanId":"{parent}""#)?;
    }
    out.extend_from_slice(br#","name":"#);
    text(out, span.name)?;
    let kind = if span.client { KINDS.1 } else { KINDS.0 };
    let (begun, ended) = (nanos(span.begun), nanos(span.ended).max(nanos(span.begun)));
    write!(out, r#","kind":{kind},"startTimeUnixNano":"{begun}","endTimeUnixNano":"{ended}""#)?;
    out.extend_from_slice(br#","attributes":["#);
    for (place, (key, value)) in span.attributes.iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        write!(out, r#"{comma}{{"key":"{key}","value":{{"#)?;
        match value {
            Value::Text(value) => {
                out.extend_from_slice(br#""stringValue":"#);
                text(out, value)?;
            }
            Value::Number(value) => write!(out, r#""intValue":"{value}""#)?,
        }
        out.extend_from_slice(b"}}");
    }
    out.push(b']');
    match span.error {
        Some(message) => {
            write!(out, r#","status":{{"code":{ERROR},"message":"#)?;
            text(out, message)?;
            out.extend_from_slice(b"}}");
        }
        None => out.extend_from_slice(br#","status":{}}"#),
    }
    Ok(())
}

fn text(out: &mut Vec<u8>, text: &str) -> std::io::Result<()> {
    Ok(serde_json::to_writer(out, text)?)
}

fn nanos(moment: SystemTime) -> u128 {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}
