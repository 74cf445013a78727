use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::http::Clock;
use crate::http::clock::VirtualClock;
use crate::http::trace_context::{SpanId, TraceId};
use crate::scratch::Scratch;
use crate::sync::Value;

const FILE: &str = "traces.jsonl";

fn with_span(clock: &dyn Clock, name: &str, text: &str, record: impl Fn(&Span<'_>)) {
    record(&Span {
        trace: TraceId::random(clock),
        id: SpanId::random(clock),
        parent: None,
        name,
        client: false,
        begun: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_767_473_859_000_000_001),
        ended: SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_473_860),
        attributes: &[("a", Value::Text(text)), ("n", Value::Number(-1))],
        error: Some(text),
    });
}

fn lines(path: &Path) -> Vec<Json> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn spans(path: &Path) -> Vec<Json> {
    let spans = |line: Json| line["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone();
    lines(path).into_iter().flat_map(spans).collect()
}

#[test]
fn a_span_is_told_as_the_json_form_of_otlp_wants_it() {
    let folder = Scratch::new("traces-form");
    let path = folder.path().join(FILE);
    let tracer = Tracer::open(&path).unwrap();
    with_span(&VirtualClock::new(1), "page", "x", |span| tracer.record(span));
    tracer.finish();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let lines = lines(&path);
    let resource = &lines[0]["resourceSpans"][0]["resource"]["attributes"][0];
    assert_eq!(resource, &json!({"key": "service.name", "value": {"stringValue": "campaign-sync"}}));
    let mut span = spans(&path).remove(0);
    let (trace, id) = (span["traceId"].take(), span["spanId"].take());
    assert_eq!((trace.as_str().unwrap().len(), id.as_str().unwrap().len()), (32, 16));
    let expected = json!({
        "traceId": null, "spanId": null, "name": "page", "kind": 1,
        "startTimeUnixNano": "1767473859000000001", "endTimeUnixNano": "1767473860000000000",
        "attributes": [{"key": "a", "value": {"stringValue": "x"}}, {"key": "n", "value": {"intValue": "-1"}}],
        "status": {"code": 2, "message": "x"},
    });
    assert_eq!(span, expected);
}

#[test]
fn many_threads_lose_nothing_and_lines_stay_short_enough_for_readers() {
    let folder = Scratch::new("traces-many");
    let path = folder.path().join(FILE);
    let tracer = Tracer::open(&path).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let tracer = &tracer;
            scope.spawn(move || {
                let clock = VirtualClock::new(seed << 32);
                for _ in 0..2_000 {
                    with_span(&clock, "campaign", &"x".repeat(300), |span| tracer.record(span));
                }
            });
        }
    });
    tracer.finish();
    let ids: std::collections::HashSet<String> =
        spans(&path).iter().map(|span| span["spanId"].to_string()).collect();
    assert_eq!(ids.len(), 8_000);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.lines().all(|line| line.len() < 1 << 20));
    assert!(text.lines().count() < 100, "a line holds many spans");
}

#[test]
fn a_line_that_a_killed_process_left_unended_spoils_only_itself() {
    let folder = Scratch::new("traces-torn");
    let path = folder.path().join(FILE);
    std::fs::write(&path, "{\"resourceSpans\":[{\"reso").unwrap();
    for _ in 0..2 {
        let tracer = Tracer::open(&path).unwrap();
        with_span(&VirtualClock::new(2), "page", "x", |span| tracer.record(span));
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let whole: Vec<bool> = text.lines().map(|line| serde_json::from_str::<Json>(line).is_ok()).collect();
    assert_eq!(whole, [false, true, true]);
}

#[test]
fn a_file_that_cannot_be_opened_is_named_with_the_cause() {
    let error = Tracer::open(Path::new("/nonexistent/\u{1b}x/traces.jsonl")).err().unwrap();
    assert!(error.starts_with("--trace-file /nonexistent/\\u{1b}x/traces.jsonl: "), "{error}");
    assert!(error.contains("No such file"), "{error}");
}

#[test]
fn a_full_disk_stops_nobody() {
    let tracer = Tracer::open(Path::new("/dev/full")).unwrap();
    for _ in 0..1_000 {
        with_span(&VirtualClock::new(3), "page", "x", |span| tracer.record(span));
    }
    tracer.finish();
    with_span(&VirtualClock::new(3), "page", "too late", |span| tracer.record(span));
}

#[test]
fn what_a_disk_is_too_slow_for_is_left_out_and_counted() {
    let mut state = State::default();
    let span = vec![b'x'; 1 << 20];
    for _ in 0..40 {
        state.push(&span);
    }
    assert_eq!(state.left_out, 40 - 31);
    assert!(state.text.len() <= MOST_WAITING + LINE);
}

proptest! {
    #[test]
    fn any_text_comes_back_whole(text in "\\PC*|[\\x00-\\x1f\"\\\\]*") {
        with_span(&VirtualClock::new(4), &text, &text, |span| {
            let mut object = Vec::new();
            otlp::write(&mut object, span);
            let json: Json = serde_json::from_slice(&object).unwrap();
            assert_eq!(json["name"], *text);
            assert_eq!(json["attributes"][0]["value"]["stringValue"], *text);
            assert_eq!(json["status"]["message"], *text);
        });
    }
}
