//! What goes wrong, drawn from the seed and the request's number, so that the same seed is the same bad day.

use std::time::Duration;

use crate::answers::{epoch, error, json};
use crate::ledger::Kind;
use crate::server::{Answer, Response};
use crate::settings::{Settings, chance, mix};

/// Faults; shares are between 0 and 1, drawn for each list or sync request that the limiter let in, at most one a request.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Requests that are never answered: closed after this time.
    pub hang: (f64, Duration),
    /// Connections reset (RST) without an answer.
    pub reset: f64,
    /// Answers whose connection closes inside the body. What was asked for is done.
    pub cut_body: f64,
    /// Answers whose connection is reset (RST) inside the body. What was asked for is done.
    pub reset_in_body: f64,
    /// Answers sent a byte at a time, with so long a pause after each. What was asked for is done.
    pub drip: (f64, Duration),
    /// Answers of HTML with status 200.
    pub html: f64,
    /// Answers of JSON of another shape, with status 200.
    pub other_json: f64,
    /// Answers 500, 502, 503 or 504.
    pub server_error: f64,
    /// Redirects to this address.
    pub redirect: Option<(f64, String)>,
    /// Answers of endless bodies.
    pub endless_body: f64,
    /// Answers of endless headers.
    pub endless_headers: f64,
    /// Answers of compressed bodies that grow without end, a hundredfold and more, into ever deeper JSON.
    pub gzip_bomb: f64,
    /// Token requests meet the faults above too.
    pub on_tokens: bool,
    /// The token is revoked with every so manieth request; 0 for never.
    pub revoke_every: u64,
    /// Syncs of every so manieth of the ordinary campaigns are refused: 404, 410 or `success: false`; 0 for none.
    pub refused_every: u32,
    /// Syncs of every so manieth are forbidden: 403; 0 for none.
    pub forbidden_every: u32,
    /// Syncs of every so manieth always fail with 500; 0 for none.
    pub poisoned_every: u32,
    /// Syncs of every so manieth are never answered, but closed after this time; 0 for none.
    pub hanging_every: (u32, Duration),
    /// Every page repeats its first record, and the last record of the page before.
    pub duplicates: bool,
    /// `has_more` is always true: the last page is served again and again.
    pub endless: bool,
    /// This page is served twice, the second time under the next number, and all after it one later; 0 for none.
    pub repeated_page: u64,
    /// This page is empty, though more follow: all from it on come one later; 0 for none.
    pub empty_page: u64,
    /// From this page on `has_more` is false, whatever follows; 0 for never.
    pub ends_early: u64,
    /// Answers whose word about when to come back makes no sense: a wait of a year, seconds that are milliseconds, nothing left
    /// until next year. Half of them do what was asked for.
    pub senseless_hint: f64,
    /// A page limit above this is not honoured; 0 for none.
    pub most_per_page: u32,
    /// Everything is answered by 503.
    pub outage: bool,
    /// Every connection is closed at its first request, without an answer.
    pub outage_closes: bool,
    /// Every sync is answered by 503.
    pub sync_outage: bool,
    /// Every list request is answered by 503.
    pub list_outage: bool,
}

/// What became of a request by chance.
pub(crate) enum Drawn {
    /// Nothing: it is answered as it should be.
    Nothing,
    /// This instead of an answer; nothing is done.
    Instead(Answer),
    /// It is done, but the answer is maimed.
    Maimed(fn(Response, Duration) -> Answer, Duration),
}

/// The fault of request `number`.
pub(crate) fn draw(settings: &Settings, number: u64, kind: Kind) -> Drawn {
    let faults = &settings.faults;
    if (faults.sync_outage && kind == Kind::Sync) || (faults.list_outage && kind == Kind::List) {
        return Drawn::Instead(error(503, "Service Unavailable", "Down for maintenance"));
    }
    let mut drawn = chance(settings.seed, number);
    let mut hit = |share: f64| {
        let hit = drawn >= 0.0 && drawn < share;
        drawn -= share;
        hit
    };
    if hit(faults.hang.0) {
        return Drawn::Instead(Answer::Silence(faults.hang.1));
    }
    if hit(faults.reset) {
        return Drawn::Instead(Answer::Reset);
    }
    if hit(faults.cut_body) {
        return Drawn::Maimed(|response, _| Answer::Cut { response, reset: false }, Duration::ZERO);
    }
    if hit(faults.reset_in_body) {
        return Drawn::Maimed(|response, _| Answer::Cut { response, reset: true }, Duration::ZERO);
    }
    if hit(faults.drip.0) {
        return Drawn::Maimed(|response, pause| Answer::Drip { response, pause }, faults.drip.1);
    }
    if hit(faults.html) {
        let body = b"<html><body>Under maintenance</body></html>".to_vec();
        return Drawn::Instead(Answer::Whole(Response {
            status: 200,
            body,
            html: true,
            ..Response::default()
        }));
    }
    if hit(faults.other_json) {
        return Drawn::Instead(json(200, "{\"ok\":true,\"data\":{}}"));
    }
    if hit(faults.server_error) {
        let status = [500, 502, 503, 504][usize::try_from(mix(settings.seed, number) % 4).unwrap_or(0)];
        return Drawn::Instead(error(status, "Error", "at /srv/app/index.js:42"));
    }
    if hit(faults.endless_body) {
        return Drawn::Instead(Answer::EndlessBody);
    }
    if hit(faults.endless_headers) {
        return Drawn::Instead(Answer::EndlessHeaders);
    }
    if hit(faults.gzip_bomb) {
        return Drawn::Instead(Answer::GzipBomb);
    }
    if hit(faults.senseless_hint) {
        return senseless(mix(settings.seed, number));
    }
    match &faults.redirect {
        Some((share, location)) if hit(*share) => Drawn::Instead(Answer::Whole(Response {
            status: 302,
            headers: vec![("Location", location.clone())],
            ..Response::default()
        })),
        _ => Drawn::Nothing,
    }
}

/// One of the senseless words about limits.
fn senseless(drawn: u64) -> Drawn {
    let refused = |status: u16, body: &str, headers: Vec<(&'static str, String)>| {
        Drawn::Instead(Answer::Whole(Response { status, headers, body: body.into(), ..Response::default() }))
    };
    let retry_after = |after: &str| vec![("Retry-After", after.to_owned())];
    match drawn % 8 {
        0 => refused(429, "{\"error\":\"Too Many Requests\"}", retry_after("30000000")),
        1 => refused(429, "{\"error\":\"Too Many Requests\",\"retry_after\":3600000}", Vec::new()),
        2 => refused(503, "{\"error\":\"Service Unavailable\"}", retry_after("30000000")),
        3 => refused(429, "{\"error\":\"Too Many Requests\",\"retry_after\":0}", retry_after("0")),
        _ => Drawn::Maimed(
            |mut response, _| {
                response.headers.push(("X-RateLimit-Limit", "10".into()));
                response.headers.push(("X-RateLimit-Remaining", "0".into()));
                response.headers.push(("X-RateLimit-Reset", (epoch() + 31_536_000).to_string()));
                Answer::Whole(response)
            },
            Duration::ZERO,
        ),
    }
}
