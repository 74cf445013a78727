//! Whose part in which run: what every line of the log about it carries.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// An account, and its run as soon as there is one; cheap to clone, all clones know the same.
#[derive(Clone, Debug)]
pub struct Scope {
    account: Arc<str>,
    /// 0 while there is none: the database counts from 1.
    run: Arc<AtomicI64>,
}

impl Scope {
    /// An account before it has a run.
    #[must_use]
    pub fn new(account: &str) -> Self {
        Self { account: account.into(), run: Arc::default() }
    }

    /// The run was opened or joined.
    pub fn joined(&self, run_id: i64) {
        self.run.store(run_id, Ordering::Relaxed);
    }

    /// The account's name: the field `account`.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The run's number, if there is one: the field `run`.
    #[must_use]
    pub fn run(&self) -> Option<i64> {
        Some(self.run.load(Ordering::Relaxed)).filter(|run| *run != 0)
    }
}
