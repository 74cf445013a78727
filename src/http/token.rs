//! The token cache: one token for all threads, fetched by one of them, replaced once for each time it is refused.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::lock::lock;
use super::secret::Secret;

/// A token is replaced this long before its end, or after nine tenths of its life, whichever is later.
const MARGIN: Duration = Duration::from_secs(60);
/// A shorter life than this cannot be planned with (an `expires_in` of 0, say): such a token is used until it is refused.
const SHORTEST_LIFE: Duration = Duration::from_secs(2);

/// An access token, ready to be sent.
#[derive(Debug)]
pub struct Token {
    /// The value of `Authorization`.
    pub authorization: Secret,
    /// Counts the account's tokens; a refusal names the one that was refused.
    pub generation: u64,
    /// When to replace it; none when only a refusal can tell.
    replace_at: Option<Instant>,
}

impl Token {
    /// A token that was given at `now`.
    #[must_use]
    pub fn new(text: &str, generation: u64, lifetime: Option<Duration>, now: Instant) -> Self {
        let replace_at = lifetime.filter(|life| *life >= SHORTEST_LIFE).map(|life| {
            let life = life.min(Duration::from_secs(10 * 365 * 86_400));
            now + life.saturating_sub(MARGIN).max(life.mul_f64(0.9))
        });
        Self { authorization: Secret::joined(&["Bearer ", text]), generation, replace_at }
    }

    /// The same under another number.
    #[must_use]
    pub fn numbered(&self, generation: u64) -> Self {
        Self { authorization: self.authorization.clone(), generation, replace_at: self.replace_at }
    }

    /// Whether it may be sent at `now`.
    #[must_use]
    pub fn good_at(&self, now: Instant) -> bool {
        self.replace_at.is_none_or(|at| now < at)
    }
}

/// A token as the server gave it.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The token's text.
    pub access_token: Secret,
    /// How long it is good for, when the server said so.
    pub lifetime: Option<Duration>,
}

/// A token as it is kept for several processes.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The token's text.
    pub access_token: Secret,
    /// Its generation.
    pub generation: u64,
    /// How long it is still good for, by the keeper's clock.
    pub remaining: Option<Duration>,
}

/// What to do when a token is needed.
#[derive(Debug)]
pub enum Turn {
    /// Another process has a good one.
    Use(Kept),
    /// Fetch one, then `keep` it.
    Fetch,
    /// Another process is fetching: ask again after this time.
    Wait(Duration),
}

/// The cache. Its lock is held while a token is fetched: that is the single flight, and the one place where a lock is
/// held over I/O; whoever needs a token at that time has nothing else to do.
pub struct TokenCache {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// The newest generation that was accepted: told with every answer.
    accepted: AtomicU64,
}

#[derive(Default)]
struct State {
    current: Option<Arc<Token>>,
    /// How many there were.
    fetched: u64,
}

impl TokenCache {
    /// An empty cache.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default(), accepted: AtomicU64::new(0) }
    }

    /// The token to send now; fetched by `fetch` when there is none, or it is about to end, or it was refused.
    ///
    /// # Errors
    /// Whatever `fetch` fails with.
    pub fn get<E>(&self, fetch: impl FnOnce() -> Result<Grant, E>) -> Result<Arc<Token>, E> {
        let mut state = lock(&self.state);
        if let Some(token) = state.current.as_ref().filter(|token| token.good_at(self.clock.now())) {
            return Ok(token.clone());
        }
        let grant = fetch()?;
        state.fetched += 1;
        let now = self.clock.now();
        let token = Arc::new(Token::new(grant.access_token.reveal(), state.fetched, grant.lifetime, now));
        state.current = Some(token.clone());
        Ok(token)
    }

    /// A request with this generation's token got a 401. The first to say so causes one fetch; the others, none.
    /// True when this very token was never accepted by anyone: a second fresh one would fare no better.
    pub fn refused(&self, generation: u64) -> bool {
        let mut state = lock(&self.state);
        if state.current.as_ref().is_some_and(|token| token.generation == generation) {
            state.current = None;
        }
        self.accepted.load(Ordering::Acquire) < generation
    }

    /// A request with this generation's token was accepted.
    pub fn accepted(&self, generation: u64) {
        if self.accepted.load(Ordering::Relaxed) < generation {
            self.accepted.fetch_max(generation, Ordering::AcqRel);
        }
    }

    /// Whether any token of these credentials was accepted.
    pub fn any_accepted(&self) -> bool {
        self.accepted.load(Ordering::Acquire) > 0
    }
}

/// The lifetime that a token answer tells: from `expires_in`, unless it is absent, negative or absurd.
#[must_use]
pub fn lifetime(expires_in: Option<f64>) -> Option<Duration> {
    Duration::try_from_secs_f64(expires_in?).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::http::clock::VirtualClock;

    struct Server {
        clock: Arc<VirtualClock>,
        cache: TokenCache,
        fetches: AtomicU32,
        lifetime: Option<Duration>,
    }

    impl Server {
        fn new(lifetime: Option<Duration>) -> Self {
            let clock = Arc::new(VirtualClock::new(1));
            let cache = TokenCache::new(clock.clone());
            Self { clock, cache, fetches: AtomicU32::new(0), lifetime }
        }

        fn get(&self) -> Arc<Token> {
            let fetched = self.cache.get(|| {
                let n = self.fetches.fetch_add(1, Ordering::SeqCst);
                Ok::<_, ()>(Grant { access_token: Secret::new(format!("t{n}")), lifetime: self.lifetime })
            });
            fetched.unwrap()
        }
    }

    #[test]
    fn a_hundred_refusals_of_one_token_cause_one_fetch() {
        let server = Server::new(Some(Duration::from_secs(3600)));
        let first = server.get();
        std::thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| {
                    server.cache.refused(first.generation);
                    assert_eq!(server.get().generation, first.generation + 1);
                });
            }
        });
        assert_eq!(server.fetches.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_token_is_replaced_before_its_end_and_not_much_earlier() {
        for (life, used) in [(3600, 3540), (100, 90), (10, 9)] {
            let server = Server::new(Some(Duration::from_secs(life)));
            let first = server.get().generation;
            server.clock.sleep(Duration::from_secs(used) - Duration::from_millis(1));
            assert_eq!(server.get().generation, first);
            server.clock.sleep(Duration::from_millis(2));
            assert_eq!(server.get().generation, first + 1);
        }
    }

    #[test]
    fn a_token_without_a_usable_lifetime_is_used_until_it_is_refused() {
        for expires_in in [None, Some(0.0), Some(0.5), Some(-7.0), Some(f64::NAN), Some(1e300)] {
            let server = Server::new(lifetime(expires_in));
            let first = server.get().generation;
            server.clock.sleep(Duration::from_secs(100_000));
            assert_eq!(server.get().generation, first);
        }
    }

    #[test]
    fn only_a_token_that_nobody_could_use_counts_as_refused_for_good() {
        let server = Server::new(None);
        let first = server.get();
        server.cache.accepted(first.generation);
        assert!(!server.cache.refused(first.generation));
        let second = server.get();
        assert!(server.cache.refused(second.generation));
    }

    #[test]
    fn the_token_is_not_shown() {
        let server = Server::new(None);
        assert!(!format!("{:?}", server.get()).contains("t0"));
    }
}
