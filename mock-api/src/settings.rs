//! What the server is to be like.

use std::time::Duration;

use crate::faults::Faults;

/// The credentials that the server takes, unless told otherwise.
pub const EMAIL: &str = "ads@example.com";
/// Their password; chosen so that no other text contains it by accident.
pub const PASSWORD: &str = "correct-horse-battery-staple";

/// All of the server's behaviour.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen; port 0 takes a free one.
    pub address: String,
    /// The accepted email.
    pub email: String,
    /// The accepted password.
    pub password: String,
    /// How many ordinary campaigns there are: `campaign_1` and so on.
    pub campaigns: u32,
    /// The numbers of those that are not listed, in rising order; asked for by name they are unknown (404).
    pub absent: Vec<u32>,
    /// Records listed after all others, as they are; a sync of any id in them succeeds.
    pub added: Vec<String>,
    /// Another number makes every ordinary record another, with the same id.
    pub revision: u32,
    /// Campaigns with odd ids and values besides, see [`crate::odd`].
    pub odd: bool,
    /// At most so many requests in any window of this length, for each client id.
    pub rate_limit: Option<(u32, Duration)>,
    /// How a 429, and the headers of other answers, tell of the limit.
    pub hint: Hint,
    /// What is added to the total that a page tells: this, and this times the page's number.
    pub total_off: (i64, i64),
    /// How long a sync takes.
    pub sync_latency: Duration,
    /// How long a list request takes.
    pub list_latency: Duration,
    /// Every so manieth list request is answered by 503; 0 for none.
    pub list_503_every: u32,
    /// How long a token is good for.
    pub token_lifetime: Duration,
    /// What a token answer says of that.
    pub expires_in: ExpiresIn,
    /// What goes wrong, and how often.
    pub faults: Faults,
    /// The seed of all chance.
    pub seed: u64,
    /// Whether every request is kept in the ledger, or only counted.
    pub full_ledger: bool,
}

/// What `expires_in` says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ExpiresIn {
    /// The truth.
    Honest,
    /// Nothing.
    Absent,
    /// This number.
    Fixed(f64),
}

/// Where a 429 says when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// `retry_after` in the body, always the window's length, as the reference server does.
    Body,
    /// `Retry-After` in seconds until a request would be accepted.
    Seconds,
    /// `Retry-After` as a date.
    Date,
    /// `RateLimit-Policy` and `RateLimit` on every answer.
    RateLimit,
    /// `X-RateLimit-*` on every answer, with a reset in seconds.
    XDelta,
    /// The same, with a reset since 1970.
    XEpoch,
    /// Nowhere.
    None,
}

impl Settings {
    /// The reference server, `scale` times as fast: 10 requests in 60 s, every 5th list 503, syncs of 2 s, 100 campaigns.
    #[must_use]
    pub fn faithful(scale: f64) -> Self {
        let scaled = |seconds: f64| Duration::from_secs_f64(seconds / scale);
        Self {
            rate_limit: Some((10, scaled(60.0))),
            sync_latency: scaled(2.0),
            list_503_every: 5,
            token_lifetime: scaled(3600.0),
            ..Self::fast(100)
        }
    }

    /// No limits, no latency.
    #[must_use]
    pub fn fast(campaigns: u32) -> Self {
        Self {
            address: "127.0.0.1:0".into(),
            email: EMAIL.into(),
            password: PASSWORD.into(),
            campaigns,
            absent: Vec::new(),
            added: Vec::new(),
            revision: 0,
            odd: false,
            rate_limit: None,
            hint: Hint::Body,
            total_off: (0, 0),
            sync_latency: Duration::ZERO,
            list_latency: Duration::ZERO,
            list_503_every: 0,
            token_lifetime: Duration::from_secs(3600),
            expires_in: ExpiresIn::Honest,
            faults: Faults::default(),
            seed: 1,
            full_ledger: true,
        }
    }

    /// Everything at once that still permits a run to come to its end.
    #[must_use]
    pub fn hostile(seed: u64, campaigns: u32) -> Self {
        Self {
            odd: true,
            sync_latency: Duration::from_millis(5),
            list_503_every: 5,
            token_lifetime: Duration::from_secs(2),
            rate_limit: Some((100, Duration::from_secs(1))),
            hint: Hint::Seconds,
            faults: Faults {
                // Together an eighth: seven attempts fail by chance alone once in millions.
                hang: (0.01, Duration::from_secs(3)),
                reset: 0.015,
                cut_body: 0.015,
                reset_in_body: 0.01,
                drip: (0.01, Duration::from_millis(1)),
                html: 0.015,
                other_json: 0.015,
                server_error: 0.02,
                endless_body: 0.005,
                endless_headers: 0.005,
                gzip_bomb: 0.005,
                on_tokens: true,
                revoke_every: 40,
                refused_every: 17,
                forbidden_every: 29,
                poisoned_every: 23,
                hanging_every: (53, Duration::from_secs(3)),
                repeated_page: 3,
                empty_page: 6,
                duplicates: true,
                ..Faults::default()
            },
            seed,
            ..Self::fast(campaigns)
        }
    }
}

/// SplitMix64: chance that is the same for the same numbers.
#[must_use]
pub fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The same as a number in `[0, 1)`.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn chance(seed: u64, n: u64) -> f64 {
    (mix(seed, n) >> 11) as f64 / (1u64 << 53) as f64
}
