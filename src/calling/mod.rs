//! The platform called by a command that stores nothing (`list`, `plan`, `check`): one account, one thread, each call with as many
//! attempts as it takes, and everything that waits waits here. The rules are the engine's: [`rate`](crate::rate) says when to send,
//! `sync::decision` what comes of an attempt.

mod caller;
mod calls;
mod conclude;
mod listing;

pub use caller::{Caller, Halt};
pub use listing::{Entry, Listing};
