//! Copies every campaign of an unreliable, rate-limited ad platform into Postgres: complete, exactly once in effect,
//! resumable, from one machine or many.
//!
//! # What happens to a campaign
//!
//! What waits is data, and one thread decides: the [`engine`]'s scheduler owns the state of every account, gives calls to
//! workers and commands to committers, and is told what came of them.
//!
//! 1. The *lister* (`engine::lister`) has the page fetched that shows it ([`platform`] says what a page and a campaign are).
//!    The page's campaigns become *tasks* together with the run's next page, in one statement (`sql/add_pages.sql`). After a
//!    crash both are there, or neither. A process that is alone on its run hands the tasks out first and holds the commit
//!    back for a moment (`engine::pages`): what is finished by then is stored with it and never becomes a row in the queue.
//! 2. A process holds the task: its own lister's at once, others by claiming (`sql/claim.sql`). The hold is a *lease* that
//!    belongs to the process and lives by its heartbeat (`engine::heartbeat`, [`store::leases`]).
//! 3. The task waits in the *ready queue* until a request may be sent ([`rate`]: limiter, concurrency, breaker). A *worker*,
//!    one of a rayon pool of fixed size (`engine::workers`), makes one attempt ([`platform::Api`]). What comes of it is decided
//!    by one pure function (`sync::decision`): it is done, comes back later, or becomes a *dead letter* with its reason.
//! 4. A *committer* (`engine::committers`, [`store::execute`]) stores the pages, and results in batches (`engine::storing`):
//!    the task is deleted, and only if it was still held by this process under this attempt number, the campaign is stored,
//!    in one statement (`sql/complete.sql`). That makes the effect exactly once.
//! 5. When the last page is in and no task is left, whoever sees it first closes the *run*, and marks what a complete
//!    listing no longer showed.
//!
//! # Where to look
//!
//! | question | file |
//! |---|---|
//! | what happens on a 429? | `sync/decision.rs` (`refused_by_limit`), `rate/limiter/answers.rs` (`observe`) |
//! | when is a campaign a dead letter? | `sync/decision.rs` (`failed`, `refused`), `engine/syncing.rs` |
//! | what is written in one commit? | `engine/pages.rs` (`rows`), `engine/storing.rs` (`commit`) |
//! | what if the database refuses a row? | `store/salvage.rs` |
//! | who decides that the run is over? | `engine/storing.rs` (`close`), `store/closing.rs` |
//! | who may have how many workers? | `engine/places.rs` |
//! | who works on an account that several processes have? | `store/execute.rs` (`open`), `engine/scheduler.rs` (`is_elsewhere`, `help_more`) |
//! | how does a process help another? | `engine/storing.rs` (`claim`), [`store::leases`] |
//!
//! # Words
//!
//! account: one set of credentials · run: one pass over an account · task: one campaign of one run · lister: who reads the
//! pages · ready queue: tasks in hand that are not in flight · worker: makes calls · committer: carries out commands to the
//! database · lease: the right to what a process holds, kept by its heartbeat · attempt number: the task's fencing token ·
//! dead letter: what failed permanently · quota: a rate limit and what is used of it · gate: closed while a 429 lasts · hint:
//! the platform's word on when to come back · breaker: lets one trial through while nothing succeeds · lot: pages that are
//! committed together
//!
//! # Where things are
//!
//! `main` → [`commands`] → [`cli`], [`config`], [`engine`], [`calling`], [`report`]; `engine` → [`sync`], [`rate`], [`platform`],
//! [`store`], [`http`]; [`calling`] (the blocking caller of the commands that store nothing) → `sync`, `rate`, `platform`, `http`;
//! `platform` → `http`; nothing goes back up. [`sync`] has what all of them share of an attempt: its decision, trace and ending.
//! All may use [`scope`] (whose part it is, for the log), [`foreign`], [`settings_file`], `in_time` (a timeout for what has none)
//! and `own_machine` (its limits and shortages). Time, sleep and chance come in through [`http::Clock`]. All SQL is in `sql/` and
//! [`store`]. There every statement names its tables as `campaign_sync.table`; [`store::Client`] puts another schema in place of
//! it where the installation is elsewhere. [`config`] takes the schema's name from `store`.
//!
//! The engine's rules are a state machine without I/O, which `tests/simulation` plays on virtual time (`make simulate`);
//! [`store::command`] has its commands to the database as values, and `tests/promises/commands.rs` holds [`store::execute`] to the
//! simulator's model of them.
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

pub mod calling;
pub mod cli;
pub mod commands;
pub mod config;
#[cfg(all(doc, not(doctest)))]
pub mod docs;
pub mod engine;
pub mod foreign;
pub mod http;
mod in_time;
pub mod limits;
pub mod own_machine;
pub mod platform;
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
