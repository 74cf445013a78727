//! When the next request may be sent: plain values without clock, lock or I/O. The account's state machine and the blocking
//! caller own them and tell them the time.

pub mod alone;
pub mod breaker;
pub mod concurrency;
pub(crate) mod lags;
pub(crate) mod learning;
pub mod ledger;
pub mod limiter;
pub mod pacing;
pub mod window;
