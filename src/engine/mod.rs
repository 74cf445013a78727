//! The engine: what waits is data, one thread decides.
//!
//! An [`account::Account`] is one account's part in its run, as a state machine without socket, SQL, clock, sleep, lock or
//! atomic: [`on`](account::Account::on) takes an event, [`advance`](account::Account::advance) gives the actions that can be
//! carried out now, and [`due`](account::Account::due) the time at which to look again. Workers make the calls, committers
//! carry out the commands to the database, and neither decides anything. The [`scheduler::Scheduler`] is the thread that owns
//! all accounts and hands out what they want done.

pub mod account;
mod calls;
mod committers;
mod heartbeat;
pub mod judge;
mod listing;
pub mod pages;
pub mod scheduler;
mod storing;
mod syncing;
pub mod task;
mod token;
mod workers;

pub use calls::{Action, Answer, Call, Done, Event, News, Page, Room};
