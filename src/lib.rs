//! Copies every campaign of an unreliable, rate-limited ad platform into Postgres: complete, exactly once in effect,
//! resumable, from one machine or many.
//!
//! # What happens to a campaign
//!
//! 1. The *lister* (`sync::lister`) fetches the page that shows it ([`platform`] says what a page and a campaign are). The
//!    page's campaigns become *tasks* together with the run's next page, in one statement (`sql/add_pages/`). After a
//!    crash both are there, or neither. A process that is alone on its run hands the tasks out first and holds the commit
//!    back for a moment (`sync::pages`): what is finished by then is stored with it and never becomes a row in the queue.
//! 2. A process holds the task: its own lister's at once, others by claiming (`sql/claim.sql`). The hold is a *lease* that
//!    belongs to the process and lives by its heartbeat (`sync::keeper`, [`store::leases`]).
//! 3. The *pump* waits until a request may be sent ([`http::limiter`], [`http::concurrency`], [`http::health`]) and gives
//!    the task to the *crew*, a rayon pool of fixed size (`sync::crew`), which makes one attempt ([`platform::Api`]) with
//!    the account's token ([`http::token`]). What comes of it is decided in one place (`sync::decision`): it is done, comes
//!    back later, or becomes a *dead letter* with its reason.
//! 4. The *writer* (`sync::writer`) commits the pages, and results in batches: the task is deleted, and only if it was still
//!    held by this process under this attempt number, the campaign is stored, in one statement (`sql/complete/`). That
//!    makes the effect exactly once.
//! 5. When the last page is in and no task is left, whoever sees it first closes the *run*, and marks what a complete
//!    listing no longer showed.
//!
//! # Where things are
//!
//! `main` → [`commands`] → [`cli`], [`config`], [`sync`], [`report`]; `sync` → [`platform`], [`store`], [`http`];
//! `platform` → `http`; nothing goes back up. All may use [`scope`] (whose part it is, for the log), [`foreign`],
//! [`settings_file`], `in_time` (a timeout for what has none) and `own_machine` (its limits and shortages). Time, sleep and chance come in through [`http::Clock`]. All SQL is in `sql/`
//! and is called from [`store`] only. There every statement names its tables as `campaign_sync.table`; [`store::Client`] puts
//! another schema in place of it where the installation is elsewhere. [`config`] takes the schema's name from `store`.
//!
//! # The next engine
//!
//! With the feature `next-engine`, which no build for users has, there is also the `engine` that is to replace [`sync`]: what
//! waits is data there, and one thread decides for any number of accounts. Its rules are a state machine without I/O, which
//! `tests/simulation` plays on virtual time (`make simulate`); `rate` has its limits as plain values, `store::command` its
//! commands to the database and `store::execute` carries them out. Its scheduler, workers, committers and heartbeat run
//! (`tests/commands.rs`); no command uses them yet.
//!
//! # Sessions and poolers
//!
//! No statement relies on anything that a database session remembers: no named prepared statements, no advisory lock
//! beyond a transaction, no `SET`, no temporary table. Statements are prepared unnamed: parsed, typed and bound in one
//! round trip. So the program runs behind PgBouncer in transaction mode.
//!
//! # What is promised
//!
//! [`threat_model`] says what an attacker can and cannot do, [`limits`] what bounds every queue, buffer, wait and retry; each
//! line of both names its test.

pub mod cli;
pub mod commands;
pub mod config;
#[cfg(all(doc, not(doctest)))]
pub mod docs;
#[cfg(feature = "next-engine")]
pub mod engine;
pub mod foreign;
pub mod http;
mod in_time;
pub mod limits;
pub mod own_machine;
pub mod platform;
#[cfg(feature = "next-engine")]
pub mod rate;
pub mod report;
pub mod scope;
#[cfg(test)]
mod scratch;
pub mod settings_file;
pub mod store;
pub mod sync;
pub mod threat_model;
pub mod version;
