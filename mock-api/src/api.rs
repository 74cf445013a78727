//! The platform's endpoints, faithful or not.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::answers::{epoch, error, json, quoted, refusal, seconds, with_limit_headers};
use crate::campaigns::{self, Campaigns, Misfortune, Page, Served};
use crate::encoding::{base64, percent_decoded};
use crate::faults::{Drawn, draw};
use crate::ledger::{Kind, Ledger, Seen};
use crate::limiter::{Standing, Windows};
use crate::odd::Fate;
use crate::server::{Answer, Handler};
use crate::settings::{ExpiresIn, Settings, mix};
use crate::wire::Request;

/// The largest page, whatever is asked for.
const MOST_PER_PAGE: u64 = 1000;

/// The server's state.
pub(crate) struct Api {
    settings: RwLock<Arc<Settings>>,
    campaigns: Campaigns,
    started: Instant,
    state: Mutex<State>,
    requests: AtomicU64,
    syncs: AtomicU64,
    lists: AtomicU64,
    /// Until when, in nanoseconds since the start, an outage lasts.
    outage_ends: AtomicU64,
}

#[derive(Default)]
struct State {
    windows: Windows,
    seen: Vec<Seen>,
    served: Served,
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
    at: Duration,
    token: u64,
    authorized: bool,
    standing: Option<Standing>,
}

/// The body of a sync.
#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow)]
    campaign_id: Cow<'a, str>,
}

impl Api {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings: RwLock::new(Arc::new(settings)),
            campaigns: Campaigns::new(),
            started: Instant::now(),
            state: Mutex::default(),
            requests: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            lists: AtomicU64::new(0),
            outage_ends: AtomicU64::new(0),
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

    pub fn outage_for(&self, duration: Duration) {
        let ends = self.started.elapsed().saturating_add(duration).as_nanos();
        self.outage_ends.store(u64::try_from(ends).unwrap_or(u64::MAX), Relaxed);
    }

    pub fn served(&self) -> Served {
        self.state().served.clone()
    }

    pub fn misfortune(&self, id: &str) -> Option<Misfortune> {
        let settings = self.settings();
        campaigns::misfortune(&settings, campaigns::number(&settings, id)?)
    }

    pub fn fates(&self) -> Vec<(String, Fate)> {
        self.campaigns.fates(&self.settings())
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
        ledger.requests.sort_by_key(|seen| seen.at);
        ledger.most_in_window = settings.rate_limit.map_or(0, |(_, window)| ledger.most_within(window));
        ledger
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the token, then at the limit. The time is taken under the lock, so the windows see it rise.
    fn enter(&self, request: &Request<'_>, settings: &Settings, number: u64) -> Entry {
        let sent = request.authorization.strip_prefix("Bearer ").unwrap_or_default();
        let mut state = self.state();
        let at = self.started.elapsed();
        if settings.faults.revoke_every > 0 && number.is_multiple_of(settings.faults.revoke_every) {
            state.tokens.iter_mut().for_each(|token| token.revoked = true);
        }
        let found = state.tokens.iter().rposition(|token| token.text == sent);
        let authorized = found.is_some_and(|n| at < state.tokens[n].ends && !state.tokens[n].revoked);
        let standing = match settings.rate_limit {
            Some((limit, window)) if authorized => {
                Some(state.windows.arrive(request.client, at, limit, window))
            }
            _ => None,
        };
        state.refused += u64::from(standing.is_some_and(|standing| !standing.accepted));
        Entry { at, token: found.map_or(0, |n| n as u64 + 1), authorized, standing }
    }

    /// A request that needs no token, as the ledger sees it.
    fn passer_by(&self) -> Entry {
        Entry { at: self.started.elapsed(), token: 0, authorized: false, standing: None }
    }

    fn record(
        &self,
        request: &Request<'_>,
        kind: Kind,
        subject: &str,
        entry: &Entry,
        answer: &Answer,
        success: bool,
    ) {
        let status = match answer {
            Answer::Whole(response) | Answer::Drip { response, .. } => response.status,
            _ => 0,
        };
        self.state().seen.push(Seen {
            at: entry.at,
            kind,
            subject: subject.to_owned(),
            client: request.client.to_owned(),
            status,
            token: entry.token,
            key: request.idempotency_key.to_owned(),
            traceparent: request.traceparent.to_owned(),
            credentials: !request.authorization.is_empty(),
            success: success && status == 200,
            counted: entry.standing.is_some_and(|standing| standing.accepted),
        });
    }

    fn token(&self, request: &Request<'_>, settings: &Settings) -> (Answer, bool) {
        let credentials = format!("{}:{}", settings.email, settings.password);
        let sent = request.authorization.strip_prefix("Basic ");
        if sent != Some(base64(credentials.as_bytes()).as_str()) {
            return (error(401, "Unauthorized", "Invalid credentials"), false);
        }
        let mut state = self.state();
        let nth = state.tokens.len();
        let text = format!("token-{:016x}-{nth}", mix(settings.seed, nth as u64 + 1_000_000));
        let ends = self.started.elapsed() + settings.token_lifetime;
        state.tokens.push(Token { text: text.clone(), ends, revoked: false });
        drop(state);
        let expires_in = match settings.expires_in {
            ExpiresIn::Honest => format!(",\"expires_in\":{}", seconds(settings.token_lifetime)),
            ExpiresIn::Absent => String::new(),
            ExpiresIn::Fixed(number) => format!(",\"expires_in\":{number}"),
        };
        let body = format!(
            "{{\"access_token\":\"{text}\",\"token_type\":\"Bearer\"{expires_in},\"issued_at\":{}}}",
            epoch()
        );
        (json(200, body), true)
    }

    fn list(&self, query: &str, settings: &Settings) -> (Answer, bool) {
        let number = self.lists.fetch_add(1, Relaxed) + 1;
        if settings.list_503_every > 0 && number.is_multiple_of(u64::from(settings.list_503_every)) {
            return (error(503, "Service Unavailable", "Try again later"), false);
        }
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
        };
        let most = match settings.faults.most_per_page {
            0 => MOST_PER_PAGE,
            most => u64::from(most).min(MOST_PER_PAGE),
        };
        let page = Page {
            number: parameter("page").unwrap_or(1).max(1),
            limit: parameter("limit").unwrap_or(10).clamp(1, most),
        };
        let body = if settings.full_ledger {
            self.campaigns.page(settings, page, Some(&mut self.state().served))
        } else {
            self.campaigns.page(settings, page, None)
        };
        (later(json(200, body), settings.list_latency), true)
    }

    fn sync(&self, request: &Request<'_>, id: &str, settings: &Settings) -> (Answer, bool) {
        let asked = serde_json::from_slice::<Asked<'_>>(request.body);
        if !asked.is_ok_and(|asked| asked.campaign_id == id) {
            return (error(400, "Bad Request", "campaign_id does not match the path"), false);
        }
        let number = campaigns::number(settings, id);
        if number.is_none() && !self.campaigns.knows_besides(settings, id) {
            return (error(404, "Not Found", "No such campaign"), false);
        }
        if let Some(misfortune) = number.and_then(|n| campaigns::misfortune(settings, n)) {
            return (unfortunate(settings, misfortune, id), false);
        }
        self.syncs.fetch_add(1, Relaxed);
        let body = format!(
            "{{\"success\":true,\"campaign_id\":{},\"synced_at\":\"2026-01-04T03:09:09.000Z\",\"message\":\"Campaign synced\"}}",
            quoted(id)
        );
        (later(json(200, body), settings.sync_latency), true)
    }

    /// A request that needs a token and counts under the limit.
    fn limited(
        &self,
        request: &Request<'_>,
        target: &Target<'_>,
        settings: &Settings,
        number: u64,
    ) -> Answer {
        let entry = self.enter(request, settings, number);
        let (answer, success) = match entry.standing {
            _ if !entry.authorized => {
                (error(401, "Unauthorized", "Missing, unknown or expired token"), false)
            }
            Some(standing) if !standing.accepted => (refusal(settings, standing), false),
            _ => maimed(draw(settings, number, target.kind), || match target.kind {
                Kind::Sync => self.sync(request, &target.subject, settings),
                _ => self.list(&target.subject, settings),
            }),
        };
        let answer = with_limit_headers(answer, settings, entry.standing);
        if settings.full_ledger {
            self.record(request, target.kind, &target.subject, &entry, &answer, success);
        }
        answer
    }

    /// A request that is free.
    fn free(&self, request: &Request<'_>, target: &Target<'_>, settings: &Settings, number: u64) -> Answer {
        let entry = self.passer_by();
        let (answer, success) = match target.kind {
            Kind::Token if settings.faults.on_tokens => {
                maimed(draw(settings, number, Kind::Token), || self.token(request, settings))
            }
            Kind::Token => self.token(request, settings),
            _ if (request.method, &*target.subject) == ("GET", "/health") => {
                let up = entry.at.as_secs_f64();
                (json(200, format!("{{\"status\":\"ok\",\"timestamp\":{},\"uptime\":{up}}}", epoch())), true)
            }
            _ if (request.method, &*target.subject) == ("GET", "/api/error") => {
                (json(500, "{\"error\":\"Error\",\"stack\":\"Error: at /srv/app/index.js:42\"}"), false)
            }
            _ => (error(404, "Not Found", "No such endpoint"), false),
        };
        if settings.full_ledger {
            self.record(request, target.kind, &target.subject, &entry, &answer, success);
        }
        answer
    }

    /// Not of the contract: what the server saw, for tests and the curious.
    fn shown_ledger(&self, query: &str) -> Answer {
        let mut ledger = self.ledger();
        if query != "full=1" {
            ledger.requests.clear();
        }
        json(200, serde_json::to_vec(&ledger).unwrap_or_default())
    }

    fn is_down(&self, settings: &Settings) -> bool {
        let ends = self.outage_ends.load(Relaxed);
        let for_now = ends > 0 && self.started.elapsed() < Duration::from_nanos(ends);
        for_now || settings.faults.outage || settings.faults.outage_closes
    }
}

impl Handler for Api {
    fn answer(&self, request: &Request<'_>) -> Answer {
        let settings = self.settings();
        let (path, query) = request.path.split_once('?').unwrap_or((request.path, ""));
        if (request.method, path) == ("GET", "/ledger") {
            return self.shown_ledger(query);
        }
        let number = self.requests.fetch_add(1, Relaxed) + 1;
        let target = Target::of(request.method, path, query);
        if self.is_down(&settings) {
            let answer = match settings.faults.outage_closes {
                true => Answer::Silence(Duration::ZERO),
                false => error(503, "Service Unavailable", "Down"),
            };
            if settings.full_ledger {
                self.record(request, target.kind, &target.subject, &self.passer_by(), &answer, false);
            }
            return answer;
        }
        match target.kind {
            Kind::List | Kind::Sync => self.limited(request, &target, &settings, number),
            Kind::Token | Kind::Other => self.free(request, &target, &settings, number),
        }
    }
}

/// What a request is for.
struct Target<'a> {
    kind: Kind,
    /// The campaign's id, the listing's query, or else the path.
    subject: Cow<'a, str>,
}

impl<'a> Target<'a> {
    fn of(method: &str, path: &'a str, query: &'a str) -> Self {
        let synced =
            || path.strip_prefix("/api/campaigns/")?.strip_suffix("/sync").filter(|id| !id.contains('/'));
        let (kind, subject) = match method {
            "GET" if path == "/api/campaigns" => (Kind::List, Cow::Borrowed(query)),
            "POST" if path == "/auth/token" => (Kind::Token, Cow::Borrowed(path)),
            "POST" => {
                synced().map_or((Kind::Other, Cow::Borrowed(path)), |id| (Kind::Sync, percent_decoded(id)))
            }
            _ => (Kind::Other, Cow::Borrowed(path)),
        };
        Self { kind, subject }
    }
}

/// What chance leaves of an answer, and whether it is still a success.
fn maimed(drawn: Drawn, answer: impl FnOnce() -> (Answer, bool)) -> (Answer, bool) {
    match drawn {
        Drawn::Nothing => answer(),
        Drawn::Instead(instead) => (instead, false),
        Drawn::Maimed(maim, pause) => match answer() {
            (Answer::Whole(response), success) => (maim(response, pause), success),
            other => other,
        },
    }
}

/// What a sync of a campaign answers that can never be synced.
fn unfortunate(settings: &Settings, misfortune: Misfortune, id: &str) -> Answer {
    match misfortune {
        Misfortune::NotFound => error(404, "Not Found", "Campaign was deleted"),
        Misfortune::Gone => error(410, "Gone", "Campaign is gone"),
        Misfortune::Forbidden => error(403, "Forbidden", "Campaign belongs to another account"),
        Misfortune::Poisoned => error(500, "Internal Server Error", "at /srv/app/sync.js:17"),
        Misfortune::Hanging => Answer::Silence(settings.faults.hanging_every.1),
        Misfortune::Refused => {
            let id = quoted(id);
            json(200, format!("{{\"success\":false,\"campaign_id\":{id},\"message\":\"Not syncable\"}}"))
        }
    }
}

fn later(answer: Answer, after: Duration) -> Answer {
    match answer {
        Answer::Whole(mut response) => {
            response.after = after;
            Answer::Whole(response)
        }
        other => other,
    }
}
