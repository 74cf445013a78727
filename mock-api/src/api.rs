//! The platform's endpoints, faithful or not.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::ledger::{Kind, Ledger, Seen, most_in_window};
use crate::limiter::{Standing, Windows};
use crate::odd::{self, Fate};
use crate::server::{Answer, Handler, Request, Response};
use crate::settings::{ExpiresIn, Hint, Settings, chance, mix};

/// The server's state.
pub(crate) struct Api {
    settings: RwLock<Arc<Settings>>,
    odd: Vec<(String, String, Fate)>,
    started: Instant,
    state: Mutex<State>,
    requests: AtomicU64,
    syncs: AtomicU64,
    lists: AtomicU64,
    expected: String,
}

#[derive(Default)]
struct State {
    windows: Windows,
    seen: Vec<Seen>,
    refused: u64,
    tokens: Vec<Token>,
}

struct Token {
    text: String,
    ends: Duration,
    revoked: bool,
}

/// Where a request stands before its endpoint is asked.
struct Entry {
    token: u64,
    authorized: bool,
    standing: Option<Standing>,
}

impl Api {
    pub fn new(settings: Settings) -> Self {
        let expected =
            format!("Basic {}", base64(format!("{}:{}", settings.email, settings.password).as_bytes()));
        Self {
            settings: RwLock::new(Arc::new(settings)),
            odd: odd::records(),
            started: Instant::now(),
            state: Mutex::default(),
            requests: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            lists: AtomicU64::new(0),
            expected,
        }
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut settings));
    }

    pub fn revoke_tokens(&self) {
        for token in &mut self.state().tokens {
            token.revoked = true;
        }
    }

    pub fn ledger(&self) -> Ledger {
        let settings = self.settings();
        let state = self.state();
        let mut ledger = Ledger {
            requests: state.seen.clone(),
            total: self.requests.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            lists: self.lists.load(Relaxed),
            refused: state.refused,
            tokens: state.tokens.len() as u64,
            most_in_window: 0,
        };
        drop(state);
        if let Some((_, window)) = settings.rate_limit {
            let mut clients: Vec<&str> = ledger.requests.iter().map(|seen| seen.client.as_str()).collect();
            clients.sort_unstable();
            clients.dedup();
            ledger.most_in_window = clients
                .into_iter()
                .map(|client| {
                    let counted = |seen: &&Seen| seen.counted && seen.client == client;
                    let mut at: Vec<Duration> =
                        ledger.requests.iter().filter(counted).map(|seen| seen.at).collect();
                    at.sort();
                    most_in_window(&at, window)
                })
                .max()
                .unwrap_or(0);
        }
        ledger
    }

    /// What a correct client makes of each campaign in the end: by id, or by the raw record where it has none.
    pub fn fates(&self) -> Vec<(String, Fate)> {
        let settings = self.settings();
        let ordinary = (1..=settings.campaigns).map(|n| {
            let failing = every(n, settings.faults.refused_every) || every(n, settings.faults.poisoned_every);
            (format!("campaign_{n}"), if failing { Fate::DeadLetter } else { Fate::Row })
        });
        let odd = if settings.odd { self.odd.as_slice() } else { &[] };
        let named = |(id, raw, fate): &(String, String, Fate)| {
            (if id.is_empty() { raw.clone() } else { id.clone() }, *fate)
        };
        ordinary.chain(odd.iter().map(named)).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, request: &Request<'_>, settings: &Settings, number: u64) -> Entry {
        let now = request.arrived - self.started;
        let sent = request.authorization.strip_prefix("Bearer ").unwrap_or_default();
        let mut state = self.state();
        if settings.faults.revoke_every > 0 && number.is_multiple_of(settings.faults.revoke_every) {
            for token in &mut state.tokens {
                token.revoked = true;
            }
        }
        let found = state.tokens.iter().rposition(|token| token.text == sent);
        let authorized = found.is_some_and(|at| now < state.tokens[at].ends && !state.tokens[at].revoked);
        let standing = match settings.rate_limit {
            Some((limit, window)) if authorized => {
                Some(state.windows.arrive(request.client, now, limit, window))
            }
            _ => None,
        };
        if standing.is_some_and(|standing| !standing.accepted) {
            state.refused += 1;
        }
        Entry { token: found.map_or(0, |at| at as u64 + 1), authorized, standing }
    }

    fn record(
        &self,
        request: &Request<'_>,
        settings: &Settings,
        kind: Kind,
        subject: &str,
        entry: &Entry,
        answer: &Answer,
    ) {
        if !settings.full_ledger {
            return;
        }
        let status = match answer {
            Answer::Whole(response) => response.status,
            Answer::Cut(_) | Answer::Silence(_) | Answer::Endless => 0,
        };
        self.state().seen.push(Seen {
            at: request.arrived - self.started,
            kind,
            subject: subject.to_owned(),
            client: request.client.to_owned(),
            status,
            token: entry.token,
            key: request.idempotency_key.to_owned(),
            counted: entry.standing.is_some_and(|standing| standing.accepted),
        });
    }

    fn token(&self, request: &Request<'_>, settings: &Settings) -> Answer {
        if request.authorization != self.expected {
            return error(401, "Unauthorized", "Invalid credentials");
        }
        let mut state = self.state();
        let text = format!(
            "token-{:016x}-{}",
            mix(settings.seed, state.tokens.len() as u64 + 1_000_000),
            state.tokens.len()
        );
        state.tokens.push(Token {
            text: text.clone(),
            ends: (request.arrived - self.started) + settings.token_lifetime,
            revoked: false,
        });
        drop(state);
        let expires_in = match settings.expires_in {
            ExpiresIn::Honest => format!(",\"expires_in\":{}", settings.token_lifetime.as_secs_f64()),
            ExpiresIn::Absent => String::new(),
            ExpiresIn::Fixed(number) => format!(",\"expires_in\":{number}"),
        };
        json(
            200,
            format!(
                "{{\"access_token\":\"{text}\",\"token_type\":\"Bearer\"{expires_in},\"issued_at\":{}}}",
                epoch()
            ),
        )
    }

    fn list(&self, query: &str, settings: &Settings) -> Answer {
        let number = self.lists.fetch_add(1, Relaxed) + 1;
        if settings.list_503_every > 0 && number.is_multiple_of(u64::from(settings.list_503_every)) {
            return error(503, "Service Unavailable", "Try again later");
        }
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
        };
        let page = parameter("page").unwrap_or(1).max(1);
        let mut limit = parameter("limit").unwrap_or(10).clamp(1, 1000);
        if settings.faults.most_per_page > 0 {
            limit = limit.min(u64::from(settings.faults.most_per_page));
        }
        json(200, self.page(settings, page, limit))
    }

    fn page(&self, settings: &Settings, page: u64, limit: u64) -> Vec<u8> {
        let odd = if settings.odd { self.odd.len() as u64 } else { 0 };
        let total = u64::from(settings.campaigns) + odd;
        let last_page = total.div_ceil(limit).max(1);
        let shown = if settings.faults.endless { page.min(last_page) } else { page };
        let from = (shown - 1) * limit;
        let to = (from + limit).min(total);
        let mut places: Vec<u64> = (from..to.max(from)).collect();
        if settings.faults.duplicates && !places.is_empty() {
            places.push(places[0]);
            if from > 0 {
                places.insert(0, from - 1);
            }
        }
        let mut out = Vec::with_capacity(places.len() * 200 + 128);
        out.extend_from_slice(b"{\"data\":[");
        for (i, place) in places.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            self.write_record(settings, *place, &mut out);
        }
        let more = settings.faults.endless || to < total;
        let _infallible = write!(
            out,
            "],\"pagination\":{{\"page\":{page},\"limit\":{limit},\"total\":{total},\"has_more\":{more}}}}}"
        );
        out
    }

    fn write_record(&self, settings: &Settings, place: u64, out: &mut Vec<u8>) {
        if let Some(place) = place.checked_sub(u64::from(settings.campaigns)) {
            if let Some((_, raw, _)) = self.odd.get(usize::try_from(place).unwrap_or(usize::MAX)) {
                out.extend_from_slice(raw.as_bytes());
            }
            return;
        }
        let n = place + 1;
        let chance = mix(settings.seed, n);
        let _infallible = write!(
            out,
            "{{\"id\":\"campaign_{n}\",\"name\":\"Campaign {n}\",\"status\":\"{}\",\"budget\":{}.{:02},\"impressions\":{},\"clicks\":{},\"conversions\":{},\"created_at\":\"2026-01-{:02}T{:02}:09:09.000Z\"}}",
            ["active", "paused", "ended"][usize::try_from(chance % 3).unwrap_or(0)],
            n * 100,
            chance % 100,
            chance % 100_000,
            chance % 1_000,
            chance % 100,
            chance % 28 + 1,
            chance % 24,
        );
    }

    fn sync(&self, request: &Request<'_>, id: &str, settings: &Settings) -> Answer {
        let asked: Option<String> = serde_json::from_slice::<serde_json::Value>(request.body)
            .ok()
            .and_then(|body| body.get("campaign_id")?.as_str().map(str::to_owned));
        if asked.as_deref() != Some(id) {
            return error(400, "Bad Request", "campaign_id does not match the path");
        }
        let number = id.strip_prefix("campaign_").and_then(|n| n.parse::<u32>().ok());
        let known = match number {
            Some(n) => n >= 1 && n <= settings.campaigns,
            None => settings.odd && self.odd.iter().any(|(odd, ..)| odd == id),
        };
        if !known {
            return error(404, "Not Found", "No such campaign");
        }
        if let Some(n) = number {
            if every(n, settings.faults.poisoned_every) {
                return error(500, "Internal Server Error", "at /srv/app/sync.js:17");
            }
            if every(n, settings.faults.refused_every) {
                return match n % 3 {
                    0 => error(404, "Not Found", "Campaign was deleted"),
                    1 => error(410, "Gone", "Campaign is gone"),
                    _ => json(
                        200,
                        format!(
                            "{{\"success\":false,\"campaign_id\":{},\"message\":\"Not syncable\"}}",
                            quoted(id)
                        ),
                    ),
                };
            }
        }
        self.syncs.fetch_add(1, Relaxed);
        let body = format!(
            "{{\"success\":true,\"campaign_id\":{},\"synced_at\":\"2026-01-04T03:09:09.000Z\",\"message\":\"Campaign synced\"}}",
            quoted(id)
        );
        Answer::Whole(Response {
            status: 200,
            body: body.into_bytes(),
            after: settings.sync_latency,
            ..Response::default()
        })
    }

    fn limited(&self, request: &Request<'_>, settings: &Settings, number: u64) -> Answer {
        let (path, query) = request.path.split_once('?').unwrap_or((request.path, ""));
        let id = path
            .strip_prefix("/api/campaigns/")
            .and_then(|rest| rest.strip_suffix("/sync"))
            .filter(|id| !id.contains('/'));
        let (kind, subject) = match id {
            Some(id) => (Kind::Sync, percent_decoded(id)),
            None => (Kind::List, query.to_owned()),
        };
        let entry = self.enter(request, settings, number);
        let answer = if !entry.authorized {
            error(401, "Unauthorized", "Missing, unknown or expired token")
        } else if entry.standing.is_some_and(|standing| !standing.accepted) {
            refusal(settings, &entry)
        } else if let Some(fault) = fault(settings, number, kind) {
            fault
        } else {
            match kind {
                Kind::Sync => self.sync(request, &subject, settings),
                _ => self.list(query, settings),
            }
        };
        let answer = with_limit_headers(answer, settings, &entry);
        self.record(request, settings, kind, &subject, &entry, &answer);
        answer
    }
}

impl Handler for Api {
    fn answer(&self, request: &Request<'_>) -> Answer {
        let settings = self.settings();
        let number = self.requests.fetch_add(1, Relaxed) + 1;
        let path = request.path.split('?').next().unwrap_or_default();
        let is_sync = path.strip_prefix("/api/campaigns/").is_some_and(|rest| rest.ends_with("/sync"));
        let nobody = Entry { token: 0, authorized: false, standing: None };
        if settings.faults.outage && path != "/ledger" {
            let answer = error(503, "Service Unavailable", "Down");
            self.record(request, &settings, Kind::Other, path, &nobody, &answer);
            return answer;
        }
        let (kind, answer) = match (request.method, path) {
            ("POST", "/auth/token") => (Kind::Token, self.token(request, &settings)),
            ("GET", "/api/campaigns") => return self.limited(request, &settings, number),
            ("POST", _) if is_sync => return self.limited(request, &settings, number),
            ("GET", "/health") => {
                let up = self.started.elapsed().as_secs_f64();
                (
                    Kind::Other,
                    json(200, format!("{{\"status\":\"ok\",\"timestamp\":{},\"uptime\":{up}}}", epoch())),
                )
            }
            ("GET", "/api/error") => {
                (Kind::Other, json(500, "{\"error\":\"Error\",\"stack\":\"Error: at /srv/app/index.js:42\"}"))
            }
            // Not of the contract: what the server saw, for tests and the curious.
            ("GET", "/ledger") => {
                let mut ledger = self.ledger();
                if !request.path.contains("full=1") {
                    ledger.requests.clear();
                }
                return json(200, serde_json::to_vec(&ledger).unwrap_or_default());
            }
            _ => (Kind::Other, error(404, "Not Found", "No such endpoint")),
        };
        self.record(request, &settings, kind, path, &nobody, &answer);
        answer
    }
}

/// The fault that is drawn for this request, if any. A request that was let in by the limiter counts all the same.
fn fault(settings: &Settings, number: u64, kind: Kind) -> Option<Answer> {
    let faults = &settings.faults;
    if faults.sync_outage && kind == Kind::Sync {
        return Some(error(503, "Service Unavailable", "Syncs are down"));
    }
    let mut drawn = chance(settings.seed, number);
    let mut hit = |share: f64| {
        let hit = drawn < share;
        drawn -= share;
        hit
    };
    if hit(faults.hang.0) {
        return Some(Answer::Silence(faults.hang.1));
    }
    if hit(faults.reset) {
        return Some(Answer::Silence(Duration::ZERO));
    }
    if hit(faults.cut_body) {
        return Some(Answer::Cut(Response {
            status: 200,
            body: b"{\"success\":true,\"data\":[]}".to_vec(),
            ..Response::default()
        }));
    }
    if hit(faults.html) {
        let body = b"<html><body>Under maintenance</body></html>".to_vec();
        return Some(Answer::Whole(Response { status: 200, body, html: true, ..Response::default() }));
    }
    if hit(faults.other_json) {
        return Some(json(200, "{\"ok\":true,\"data\":{}}"));
    }
    if hit(faults.server_error) {
        let status = [500, 502, 503, 504][usize::try_from(mix(settings.seed, number) % 4).unwrap_or(0)];
        return Some(error(status, "Error", "at /srv/app/index.js:42"));
    }
    if hit(faults.endless_body) {
        return Some(Answer::Endless);
    }
    let (share, location) = faults.redirect.as_ref()?;
    hit(*share).then(|| {
        Answer::Whole(Response {
            status: 302,
            headers: vec![("Location", location.clone())],
            ..Response::default()
        })
    })
}

fn refusal(settings: &Settings, entry: &Entry) -> Answer {
    let window = settings.rate_limit.map_or(Duration::ZERO, |(_, window)| window);
    let reset = entry.standing.map_or(window, |standing| standing.reset);
    let whole = reset.as_secs_f64().ceil();
    let (in_body, headers) = match settings.hint {
        Hint::Body => (format!(",\"retry_after\":{}", window.as_secs_f64()), Vec::new()),
        Hint::Seconds => (String::new(), vec![("Retry-After", format!("{whole}"))]),
        Hint::Date => (
            String::new(),
            vec![
                ("Retry-After", http_date(SystemTime::now() + Duration::from_secs_f64(whole))),
                ("Date", http_date(SystemTime::now())),
            ],
        ),
        Hint::RateLimit | Hint::XDelta | Hint::XEpoch | Hint::None => (String::new(), Vec::new()),
    };
    let body = format!("{{\"error\":\"Too Many Requests\",\"message\":\"Rate limit exceeded\"{in_body}}}");
    Answer::Whole(Response { status: 429, headers, body: body.into_bytes(), ..Response::default() })
}

/// Headers of the forms that stand on every answer to a request that counts.
fn with_limit_headers(answer: Answer, settings: &Settings, entry: &Entry) -> Answer {
    let (Some((limit, window)), Some(standing)) = (settings.rate_limit, entry.standing) else {
        return answer;
    };
    let Answer::Whole(mut response) = answer else { return answer };
    let reset = standing.reset.as_secs_f64().ceil();
    let (remaining, seconds) = (standing.remaining, window.as_secs_f64());
    match settings.hint {
        Hint::RateLimit => {
            response.headers.push(("RateLimit-Policy", format!("\"default\";q={limit};w={seconds}")));
            response.headers.push(("RateLimit", format!("\"default\";r={remaining};t={reset}")));
        }
        Hint::XDelta | Hint::XEpoch => {
            let from = if settings.hint == Hint::XEpoch { epoch() } else { 0 };
            response.headers.push(("X-RateLimit-Limit", limit.to_string()));
            response.headers.push(("X-RateLimit-Remaining", remaining.to_string()));
            response.headers.push((
                "X-RateLimit-Reset",
                (Duration::from_secs(from) + Duration::from_secs_f64(reset)).as_secs().to_string(),
            ));
        }
        Hint::Body | Hint::Seconds | Hint::Date | Hint::None => {}
    }
    Answer::Whole(response)
}

fn every(n: u32, nth: u32) -> bool {
    nth > 0 && n.is_multiple_of(nth)
}

fn json(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    Answer::Whole(Response { status, body: body.into(), ..Response::default() })
}

fn error(status: u16, error: &str, message: &str) -> Answer {
    json(status, format!("{{\"error\":\"{error}\",\"message\":\"{message}\"}}"))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

fn epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn http_date(time: SystemTime) -> String {
    let seconds =
        time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
    let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).unwrap_or_default()
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let word =
            three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let sextet = (word >> (18 - 6 * place)) & 63;
            out.push(if place <= three.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_encoded_as_the_rfc_says() {
        let expected = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (text, encoded) in expected {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
    }

    #[test]
    fn ids_are_decoded() {
        assert_eq!(percent_decoded("a%2Fb%20c%"), "a/b c%");
    }
}
