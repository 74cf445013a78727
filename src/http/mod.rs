//! Calling any unreliable API well. Knows nothing of campaigns, nor of Postgres.

pub mod agents;
pub(crate) mod budget;
pub mod client;
pub mod clock;
mod coding;
pub mod connections;
mod gather;
pub(crate) mod hex;
pub mod hints;
pub(crate) mod lock;
pub mod rate_limit;
mod resolver;
pub mod retry;
pub mod secret;
pub mod spread;
pub mod stats;
pub mod tls_fault;
pub mod token;
pub mod trace_context;

pub use clock::{Clock, Stop, SystemClock};
pub use rate_limit::RateLimit;
pub use secret::Secret;
