//! Calling any unreliable API well. Knows nothing of campaigns, nor of Postgres.

pub mod clock;
pub mod rate_limit;
pub mod secret;

pub use clock::{Clock, Stop, SystemClock};
pub use rate_limit::RateLimit;
pub use secret::Secret;
