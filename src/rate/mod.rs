//! When the next request may be sent: plain values without clock, lock or I/O. The account's state machine owns them and
//! tells them the time.

pub mod breaker;
pub mod concurrency;
pub mod limiter;
pub mod pacing;
