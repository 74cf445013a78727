//! Copies every campaign of an unreliable, rate-limited ad platform into Postgres.

pub mod http;
pub mod platform;
pub mod store;
pub mod sync;
