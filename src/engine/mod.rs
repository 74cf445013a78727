//! The engine: what waits is data, one thread decides.
//!
//! An [`account::Account`] is one account's part in its run, as a state machine without socket, SQL, clock, sleep, lock or
//! atomic: [`on`](account::Account::on) takes an event, [`advance`](account::Account::advance) gives the actions that can be
//! carried out now, and [`due`](account::Account::due) the time at which to look again. Workers make the calls, committers
//! carry out the commands to the database, and neither decides anything. The [`scheduler::Scheduler`] is the thread that owns
//! all accounts and hands out what they want done.

pub mod account;
mod agenda;
mod attempt;
mod attempts;
mod calls;
mod closing;
mod committers;
mod heartbeat;
mod holding;
pub mod job;
mod journal;
mod lister;
mod listing;
mod login;
mod open;
mod opening;
mod orders;
mod outstanding;
pub mod pages;
mod places;
pub mod scheduler;
mod standstill;
mod storing;
mod syncing;
pub mod task;
#[cfg(test)]
mod tests;
mod token;
mod turns;
mod watch;
mod workers;

#[cfg(test)]
pub(crate) use account::MAX_HELD;
pub use calls::{Action, Answer, Asked, Call, Done, Event, Failure, News, Page, Room, Told};
#[cfg(test)]
pub(crate) use holding::MAX_RETAKEN;
#[cfg(test)]
pub(crate) use lister::{MAX_PAGES, MAX_UNCOMMITTED};
#[cfg(test)]
pub(crate) use scheduler::MAX_RECORDS_HELD;
