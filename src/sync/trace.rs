//! One account's trace: a span for the run, each page, campaign, attempt and commit. Whoever wants them is a [`Recorder`];
//! without one only the ids are made that every request carries as `traceparent`.

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Outcome;
use super::ending::Ending;
use super::spans::{Recorder, Span, Value};
use crate::http::Clock;
use crate::http::trace_context::{SpanId, TraceId, traceparent};
use crate::platform::{CallError, Exchange};
use crate::store::StoreError;

/// A step that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    id: SpanId,
    begun: Instant,
}

/// What an attempt is made for.
pub(crate) struct Purpose<'a> {
    /// The step it belongs to; none for the run.
    pub step: Option<Step>,
    /// Method and path, with `{id}` in place of what differs.
    pub name: &'static str,
    /// Counts the attempts for one purpose, from 1.
    pub number: u32,
    /// The campaign, if it is for one.
    pub campaign: Option<&'a str>,
}

/// One account's trace.
pub(crate) struct Trace {
    clock: Arc<dyn Clock>,
    id: TraceId,
    run: Step,
    /// The same moment on both clocks: spans are measured by the first and told by the second.
    epoch: (Instant, SystemTime),
    kept: Option<Kept>,
}

struct Kept {
    recorder: Arc<dyn Recorder>,
    account: String,
    base_url: String,
}

/// An attempt whose exchange is over, remembered until it is known what comes of it.
#[derive(Clone, Debug)]
pub(crate) struct Attempted {
    id: SpanId,
    seen: Seen,
}

#[derive(Clone, Debug)]
struct Seen {
    method: String,
    path: String,
    sent_at: Instant,
    answered_at: Instant,
    status: Option<u16>,
}

impl Trace {
    /// A trace that nobody keeps.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let now = clock.now();
        Self {
            id: TraceId::random(&*clock),
            run: Step { id: SpanId::random(&*clock), begun: now },
            epoch: (now, clock.wall()),
            kept: None,
            clock,
        }
    }

    /// Has it kept by `recorder`.
    pub fn keep(&mut self, recorder: Arc<dyn Recorder>, account: &str, base_url: &str) {
        self.kept = Some(Kept { recorder, account: account.to_owned(), base_url: base_url.to_owned() });
    }

    /// Its id.
    pub fn id(&self) -> TraceId {
        self.id
    }

    /// Whether somebody keeps it.
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Begins a step.
    pub fn begin(&self) -> Step {
        Step { id: SpanId::random(&*self.clock), begun: self.clock.now() }
    }

    /// Makes one attempt: `call` is given the value of `traceparent` and whom to tell of the exchange. What is remembered of
    /// it is for [`Self::attempted`].
    pub fn attempt<T>(
        &self,
        call: impl FnOnce(&str, &mut dyn FnMut(&Exchange<'_>)) -> Result<T, CallError>,
    ) -> (Result<T, CallError>, Option<Attempted>) {
        let id = SpanId::random(&*self.clock);
        let header = traceparent(self.id, id, self.kept.is_some());
        if self.kept.is_none() {
            return (call(&header, &mut |_| {}), None);
        }
        let mut seen = None;
        let called = call(&header, &mut |exchange| seen = Some(Seen::of(exchange)));
        (called, seen.map(|seen| Attempted { id, seen }))
    }

    /// It is known what an attempt came to, and what comes next.
    /// Names of attributes are those of OpenTelemetry's conventions for HTTP clients, where there is one.
    pub fn attempted(
        &self,
        attempted: Option<Attempted>,
        purpose: &Purpose<'_>,
        error: Option<&CallError>,
        next: Option<&dyn fmt::Display>,
    ) {
        let (Some(kept), Some(Attempted { id, seen })) = (&self.kept, attempted) else { return };
        let next = next.filter(|_| error.is_some()).map(ToString::to_string);
        let url = format!("{}{}", kept.base_url, seen.path);
        let (host, port, path) = parts_of(&url);
        let mut attributes = vec![
            ("http.request.method", Value::Text(&seen.method)),
            ("url.full", Value::Text(&url)),
            ("url.path", Value::Text(path)),
            ("server.address", Value::Text(host)),
            ("server.port", Value::Number(port)),
            ("campaign_sync.attempt", Value::Number(i64::from(purpose.number))),
        ];
        if purpose.number > 1 {
            attributes.push(("http.request.resend_count", Value::Number(i64::from(purpose.number - 1))));
        }
        if let Some(campaign) = purpose.campaign {
            attributes.push(("campaign_sync.campaign_id", Value::Text(campaign)));
        }
        if let Some(status) = seen.status {
            attributes.push(("http.response.status_code", Value::Number(i64::from(status))));
        }
        let cause = error.map(CallError::word);
        let status = seen.status.filter(|status| *status >= 400).map(|status| status.to_string());
        if let Some(cause) = cause {
            attributes.push(("error.type", Value::Text(status.as_deref().unwrap_or(cause))));
            attributes.push(("campaign_sync.cause", Value::Text(cause)));
        }
        if let Some(next) = &next {
            attributes.push(("campaign_sync.next", Value::Text(next)));
        }
        let parent = purpose.step.unwrap_or(self.run).id;
        let message = error.map(ToString::to_string);
        let span = Told { id, parent: Some(parent), name: purpose.name, client: true };
        self.tell(kept, span, (seen.sent_at, seen.answered_at), attributes, message.as_deref());
    }

    /// A page with so many records was listed, or could not be.
    pub fn page(&self, step: Step, page: i64, page_size: i32, listed: Result<usize, &'static str>) {
        let Some(kept) = &self.kept else { return };
        let mut attributes = vec![
            ("campaign_sync.page", Value::Number(page)),
            ("campaign_sync.page_size", Value::Number(i64::from(page_size))),
        ];
        if let Ok(records) = listed {
            attributes.push(("campaign_sync.records", Value::Number(signed(records))));
        }
        let told = Told { id: step.id, parent: Some(self.run.id), name: "page", client: false };
        self.tell(kept, told, (step.begun, self.clock.now()), attributes, listed.err());
    }

    /// A transaction has ended that stored so many of `what`.
    pub fn commit<T>(&self, step: Step, what: &'static str, rows: usize, committed: &Result<T, StoreError>) {
        let Some(kept) = &self.kept else { return };
        let attributes = vec![
            ("db.system.name", Value::Text("postgresql")),
            ("campaign_sync.table", Value::Text(what)),
            ("campaign_sync.rows", Value::Number(signed(rows))),
        ];
        let error = committed.as_ref().err().map(ToString::to_string);
        let told = Told { id: step.id, parent: Some(self.run.id), name: "commit", client: false };
        self.tell(kept, told, (step.begun, self.clock.now()), attributes, error.as_deref());
    }

    /// The account's part is over.
    pub fn run(&self, outcome: &Outcome) {
        let Some(kept) = &self.kept else { return };
        let mut attributes = vec![("campaign_sync.exit_code", Value::Number(outcome.exit_code().into()))];
        if let Some(run) = &outcome.run {
            attributes.extend([
                ("campaign_sync.run_id", Value::Number(run.run_id)),
                ("campaign_sync.state", Value::Text(&run.state)),
                ("campaign_sync.listed", Value::Number(run.listed)),
                ("campaign_sync.synced", Value::Number(run.synced)),
                ("campaign_sync.failed", Value::Number(run.failed)),
                ("campaign_sync.pending", Value::Number(outcome.pending)),
            ]);
        }
        let error = outcome.ending.as_ref().map(Ending::to_string);
        let told = Told { id: self.run.id, parent: None, name: "run", client: false };
        self.tell(kept, told, (self.run.begun, self.clock.now()), attributes, error.as_deref());
    }

    fn tell<'a>(
        &self,
        kept: &'a Kept,
        told: Told<'_>,
        (begun, ended): (Instant, Instant),
        mut attributes: Vec<(&'static str, Value<'a>)>,
        error: Option<&str>,
    ) {
        attributes.push(("campaign_sync.account", Value::Text(&kept.account)));
        kept.recorder.record(&Span {
            trace: self.id,
            id: told.id,
            parent: told.parent,
            name: told.name,
            client: told.client,
            begun: self.wall(begun),
            ended: self.wall(ended),
            attributes: &attributes,
            error,
        });
    }

    fn wall(&self, moment: Instant) -> SystemTime {
        let (instant, wall) = self.epoch;
        wall + moment.saturating_duration_since(instant)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({})", self.id)
    }
}

/// What a span is, before its times are known.
struct Told<'a> {
    id: SpanId,
    parent: Option<SpanId>,
    name: &'a str,
    client: bool,
}

impl Seen {
    fn of(exchange: &Exchange<'_>) -> Self {
        Self {
            method: exchange.method.as_str().to_owned(),
            path: exchange.path.to_owned(),
            sent_at: exchange.sent_at,
            answered_at: exchange.answered_at,
            status: exchange.status,
        }
    }
}

/// A campaign's way through this process, from its first attempt to its last. Told of when dropped, so that none is lost
/// however its way ends.
#[derive(Debug)]
pub(crate) struct CampaignSpan {
    trace: Arc<Trace>,
    step: Step,
    campaign: String,
    attempts: u32,
    end: End,
}

#[derive(Debug)]
enum End {
    Synced,
    Dead(&'static str, String),
    Left,
}

impl CampaignSpan {
    /// Begins one, if anybody wants it.
    pub fn begin(trace: &Arc<Trace>, campaign: &str) -> Option<Box<Self>> {
        trace.kept.as_ref()?;
        let (trace, campaign) = (trace.clone(), campaign.to_owned());
        Some(Box::new(Self { step: trace.begin(), trace, campaign, attempts: 0, end: End::Left }))
    }

    /// The step, and the number of the attempt that begins.
    pub fn attempt(&mut self) -> (Step, u32) {
        self.attempts += 1;
        (self.step, self.attempts)
    }

    /// The step, and how many attempts there were.
    pub fn step(&self) -> (Step, u32) {
        (self.step, self.attempts)
    }

    /// The platform has synced it.
    pub fn synced(&mut self) {
        self.end = End::Synced;
    }

    /// It failed for good.
    pub fn dead(&mut self, cause: &'static str, reason: &str) {
        self.end = End::Dead(cause, reason.to_owned());
    }
}

impl Drop for CampaignSpan {
    fn drop(&mut self) {
        let Some(kept) = &self.trace.kept else { return };
        let mut attributes = vec![
            ("campaign_sync.campaign_id", Value::Text(&self.campaign)),
            ("campaign_sync.attempts", Value::Number(i64::from(self.attempts))),
        ];
        let (outcome, error) = match &self.end {
            End::Synced => ("synced", None),
            End::Left => ("left", None),
            End::Dead(cause, reason) => {
                attributes.push(("campaign_sync.cause", Value::Text(cause)));
                ("dead_letter", Some(reason.as_str()))
            }
        };
        attributes.push(("campaign_sync.outcome", Value::Text(outcome)));
        let parent = Some(self.trace.run.id);
        let told = Told { id: self.step.id, parent, name: "campaign", client: false };
        self.trace.tell(kept, told, (self.step.begun, self.trace.clock.now()), attributes, error);
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Host, port and path of an address that is known to be one.
fn parts_of(url: &str) -> (&str, i64, &str) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let default = if scheme == "http" { 80 } else { 443 };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(default)),
        _ => (authority, default),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port, path.split('?').next().unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(parts_of("http://127.0.0.1:81/x/y?z=1"), ("127.0.0.1", 81, "/x/y"));
        assert_eq!(parts_of("https://ads.example.com/a"), ("ads.example.com", 443, "/a"));
        assert_eq!(parts_of("http://[::1]/a"), ("::1", 80, "/a"));
        assert_eq!(parts_of("http://[::1]:8080/a"), ("::1", 8080, "/a"));
    }
}
