//! The engine: what waits is data, one thread decides.
//!
//! An [`account::Account`] is one account's part in its run, as a state machine without socket, SQL, clock, sleep, lock or
//! atomic: [`on`](account::Account::on) takes an event, [`advance`](account::Account::advance) gives the actions that can be
//! carried out now, and [`due`](account::Account::due) the time at which to look again. Workers make the calls, committers
//! carry out the commands to the database, and neither decides anything.

pub mod account;
mod calls;
pub mod judge;
mod listing;
pub mod pages;
mod recent;
mod storing;
mod syncing;
pub mod task;
mod token;

pub use calls::{Action, Answer, Call, Done, Event, News, Page, Room};
