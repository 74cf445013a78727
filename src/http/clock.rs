//! Time, sleep and randomness, passed in: so that everything that waits can be tested without waiting.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// What the rest of the program knows of time and chance.
pub trait Clock: Send + Sync {
    /// Monotonic time, for measuring and for deadlines.
    fn now(&self) -> Instant;
    /// The calendar's time, for dates that a server sends. May jump.
    fn wall(&self) -> SystemTime;
    /// Waits for `duration`; returns at once, or early, when a stop was requested.
    fn sleep(&self, duration: Duration);
    /// A number in `[0, 1)`, evenly distributed. Not for secrets.
    fn random(&self) -> f64;
}

/// A request to stop, shared by every thread: set once, never taken back; wakes whoever sleeps on it.
#[derive(Clone, Default)]
pub struct Stop {
    inner: Arc<StopInner>,
}

#[derive(Default)]
struct StopInner {
    /// Asked several times a request, by all threads; set only while `sleepers` is locked.
    requested: AtomicBool,
    sleepers: Mutex<()>,
    woken: Condvar,
}

impl Stop {
    /// A stop that nobody has requested yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests the stop and wakes all sleepers.
    pub fn request(&self) {
        let sleepers = self.inner.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.requested.store(true, Ordering::Release);
        drop(sleepers);
        self.inner.woken.notify_all();
    }

    /// Whether a stop was requested.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.inner.requested.load(Ordering::Acquire)
    }

    /// Waits for `duration` or for the request, whichever is first; true when a stop was requested.
    #[must_use]
    pub fn wait(&self, duration: Duration) -> bool {
        let sleepers = self.inner.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        let slept = self.inner.woken.wait_timeout_while(sleepers, duration, |()| !self.requested());
        drop(slept);
        self.requested()
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stop({})", self.requested())
    }
}

/// The machine's own clock; its sleeps end early when `stop` is requested.
#[derive(Debug)]
pub struct SystemClock {
    stop: Stop,
    random_state: AtomicU64,
}

impl SystemClock {
    /// A clock whose sleepers wake when `stop` is requested.
    #[must_use]
    pub fn new(stop: Stop) -> Self {
        // The hasher's keys are the standard library's only source of entropy: enough for jitter.
        Self { stop, random_state: AtomicU64::new(RandomState::new().hash_one(std::process::id())) }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep(&self, duration: Duration) {
        let _stopped = self.stop.wait(duration);
    }

    fn random(&self) -> f64 {
        unit_interval(self.random_state.fetch_add(WEYL, Ordering::Relaxed))
    }
}

/// The increment of SplitMix64 (Steele, Lea, Flood 2014): consecutive states give independent outputs.
const WEYL: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's output function, as a number in `[0, 1)` of 53 random bits.
#[allow(clippy::cast_precision_loss)]
fn unit_interval(state: u64) -> f64 {
    let mut z = state.wrapping_add(WEYL);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// A clock for tests: sleeping moves it on at once, chance is seeded.
#[cfg(test)]
pub(crate) struct VirtualClock {
    start: (Instant, SystemTime),
    elapsed: Mutex<Duration>,
    random_state: AtomicU64,
}

#[cfg(test)]
impl VirtualClock {
    /// A clock that stands at an arbitrary moment until somebody sleeps.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            start: (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_473_859)),
            elapsed: Mutex::new(Duration::ZERO),
            random_state: AtomicU64::new(seed),
        }
    }

    /// How long has been slept in all.
    pub(crate) fn elapsed(&self) -> Duration {
        *self.elapsed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        self.start.0 + self.elapsed()
    }

    fn wall(&self) -> SystemTime {
        self.start.1 + self.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        *self.elapsed.lock().unwrap_or_else(PoisonError::into_inner) += duration;
    }

    fn random(&self) -> f64 {
        unit_interval(self.random_state.fetch_add(WEYL, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_fill_the_unit_interval_evenly() {
        let clock = VirtualClock::new(7);
        let mut tenths = [0u32; 10];
        for _ in 0..10_000 {
            let x = clock.random();
            assert!((0.0..1.0).contains(&x));
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let tenth = (x * 10.0) as usize;
            tenths[tenth] += 1;
        }
        assert!(tenths.iter().all(|&n| (850..1150).contains(&n)), "{tenths:?}");
    }

    #[test]
    fn a_stop_ends_a_long_sleep() {
        let stop = Stop::new();
        let clock = SystemClock::new(stop.clone());
        let sleeper = std::thread::spawn(move || clock.sleep(Duration::from_secs(600)));
        stop.request();
        assert!(sleeper.join().is_ok());
        assert!(stop.requested());
    }
}
