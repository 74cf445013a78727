//! Copies every campaign of an unreliable, rate-limited ad platform into Postgres.

pub mod cli;
pub mod commands;
pub mod config;
pub mod http;
pub mod platform;
pub mod report;
pub mod store;
pub mod sync;
