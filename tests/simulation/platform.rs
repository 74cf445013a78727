//! A simulated platform: campaigns, tokens, a sliding window and faults, on virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use campaign_sync::engine::Page;
use campaign_sync::engine::pages::Record;
use campaign_sync::http::hints::Hints;
use campaign_sync::http::retry::Cause;
use campaign_sync::http::secret::Secret;
use campaign_sync::http::token::{Grant, Token};
use campaign_sync::platform::{CallError, Listed, read_record};
use serde_json::value::RawValue;

use super::chance::Chance;

#[derive(Clone, Debug)]
pub struct Settings {
    pub campaigns: usize,
    /// At most this many requests in any window of this length.
    pub limit: Option<(u32, Duration)>,
    /// Shares of requests that fail with 503, and that are never answered.
    pub failing: f64,
    pub hanging: f64,
    /// Campaigns whose syncs always fail with 500, and that are refused: every n-th; 0 for none.
    pub poisoned_every: usize,
    pub refused_every: usize,
    /// The token is revoked with every n-th request; 0 for never.
    pub revoke_every: u64,
    /// Everything fails between these moments since the start.
    pub outage: Option<(Duration, Duration)>,
    pub latency: Duration,
}

pub struct Platform {
    pub settings: Settings,
    start: Instant,
    records: Vec<String>,
    window: Vec<Instant>,
    pub tokens: u64,
    /// Those that were refused.
    pub refused_tokens: BTreeSet<u64>,
    revoked: u64,
    requests: u64,
    pub refused: u64,
    pub limited: u64,
    pub synced: BTreeMap<String, u32>,
}

/// What became of a request, and how long that took.
pub struct Outcome<T> {
    pub result: Result<T, CallError>,
    pub status: Option<u16>,
    pub hints: Hints,
    pub latency: Duration,
}

impl Platform {
    pub fn new(settings: Settings, start: Instant) -> Self {
        let record = |n| {
            format!(
                r#"{{"id":"c{n}","name":"n","status":"s","budget":1,"impressions":1,"clicks":1,"conversions":1,"created_at":"2026-01-04T03:09:09Z"}}"#
            )
        };
        Self {
            records: (1..=settings.campaigns).map(record).collect(),
            settings,
            start,
            window: Vec::new(),
            tokens: 0,
            refused_tokens: BTreeSet::new(),
            revoked: 0,
            requests: 0,
            refused: 0,
            limited: 0,
            synced: BTreeMap::new(),
        }
    }

    pub fn is_poisoned(&self, id: &str) -> bool {
        let n: usize = id[1..].parse().unwrap_or(1);
        let every = |every: usize| every > 0 && n.is_multiple_of(every);
        every(self.settings.poisoned_every) || every(self.settings.refused_every)
    }

    pub fn token(&mut self, now: Instant, chance: &mut Chance) -> Outcome<Grant> {
        let latency = self.settings.latency;
        if let Some(failed) = self.fault(now, chance, latency) {
            return failed;
        }
        self.tokens += 1;
        let grant = Grant { access_token: Secret::new(format!("t{}", self.tokens)), lifetime: None };
        Outcome { result: Ok(grant), status: Some(200), hints: Hints::default(), latency }
    }

    fn fault<T>(&mut self, now: Instant, chance: &mut Chance, latency: Duration) -> Option<Outcome<T>> {
        let since = now.saturating_duration_since(self.start);
        let down = self.settings.outage.is_some_and(|(from, to)| (from..to).contains(&since));
        if down || chance.hits(self.settings.failing) {
            let message = "the platform answered 503".to_owned();
            let result = Err(CallError::Retry { cause: Cause::ServerError, hint: None, message });
            return Some(Outcome { result, status: Some(503), hints: Hints::default(), latency });
        }
        if chance.hits(self.settings.hanging) {
            let message = "no answer within 30 s".to_owned();
            let result = Err(CallError::Retry { cause: Cause::Timeout, hint: None, message });
            return Some(Outcome {
                result,
                status: None,
                hints: Hints::default(),
                latency: Duration::from_secs(30),
            });
        }
        None
    }

    /// What all requests that count have in common.
    fn enter<T>(&mut self, token: &Token, now: Instant, chance: &mut Chance) -> Option<Outcome<T>> {
        self.requests += 1;
        if self.settings.revoke_every > 0 && self.requests.is_multiple_of(self.settings.revoke_every) {
            self.revoked = self.tokens;
        }
        let quick = self.settings.latency.min(Duration::from_millis(2));
        let number: u64 = token.authorization.reveal().trim_start_matches("Bearer t").parse().unwrap_or(0);
        if number <= self.revoked {
            self.refused_tokens.insert(number);
            let result = Err(CallError::Unauthorized);
            return Some(Outcome { result, status: Some(401), hints: Hints::default(), latency: quick });
        }
        if let Some((limit, window)) = self.settings.limit {
            self.window.retain(|at| *at + window > now);
            self.limited += 1;
            if self.window.len() >= limit as usize {
                self.refused += 1;
                let hints = Hints { retry_after: Some(window), ..Hints::default() };
                let result = Err(CallError::RateLimited { status: 429, hint: Some(window) });
                return Some(Outcome { result, status: Some(429), hints, latency: quick });
            }
            self.window.push(now);
        }
        let latency = self.settings.latency;
        self.fault(now, chance, latency)
    }

    pub fn page(
        &mut self,
        token: &Token,
        page: i64,
        page_size: i32,
        now: Instant,
        chance: &mut Chance,
    ) -> Outcome<Page> {
        if let Some(failed) = self.enter(token, now, chance) {
            return failed;
        }
        let size = page_size as usize;
        let from = ((page - 1).max(0) as usize * size).min(self.records.len());
        let to = (from + size).min(self.records.len());
        let records = self.records[from..to].iter().enumerate().filter_map(|(place, text)| {
            let raw = RawValue::from_string(text.clone()).ok()?;
            let Listed::Valid(campaign) = read_record(&raw) else { return None };
            let (payload, seq) = (Arc::from(text.as_str()), (from + place) as i64);
            Some(Record { campaign, payload, seq })
        });
        let result = Ok(Page {
            page,
            page_size,
            limit: Some(i64::from(page_size)),
            has_more: to < self.records.len(),
            total: Some(self.records.len() as i64),
            records: records.collect(),
            invalid: Vec::new(),
            moved: false,
            memory: None,
        });
        Outcome { result, status: Some(200), hints: Hints::default(), latency: self.settings.latency }
    }

    pub fn sync(&mut self, token: &Token, id: &str, now: Instant, chance: &mut Chance) -> Outcome<()> {
        if let Some(failed) = self.enter(token, now, chance) {
            return failed;
        }
        let n: usize = id[1..].parse().unwrap_or(1);
        let latency = self.settings.latency;
        if self.settings.poisoned_every > 0 && n.is_multiple_of(self.settings.poisoned_every) {
            let message = "the platform answered 500".to_owned();
            let result = Err(CallError::Retry { cause: Cause::ServerError, hint: None, message });
            return Outcome { result, status: Some(500), hints: Hints::default(), latency };
        }
        if self.settings.refused_every > 0 && n.is_multiple_of(self.settings.refused_every) {
            let result = Err(CallError::Refused { status: 404, message: "no such campaign".into() });
            return Outcome { result, status: Some(404), hints: Hints::default(), latency };
        }
        *self.synced.entry(id.to_owned()).or_default() += 1;
        Outcome { result: Ok(()), status: Some(200), hints: Hints::default(), latency }
    }
}
