//! The metrics file, replaced as a whole: whoever reads it sees the old one or the new one.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::Row;
use super::exposition::{Accounts, parse, render};
use crate::in_time::in_time;
use crate::report::text::visible;
use crate::report::whole_file::{folder_of, refuse_foreign_link, replace};

/// With many accounts, the file is not replaced more often than this, until the last is done.
const SELDOM: Duration = Duration::from_secs(2);
/// More than thousands of accounts have to say: such a file is not ours.
pub(crate) const MOST_BYTES: u64 = 64 << 20;
/// The longest wait for other processes that share the file.
pub(crate) const LONGEST_TURN: Duration = Duration::from_secs(5);
/// How often it is tried then.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// A disk that takes longer is gone.
const LONGEST_WRITE: Duration = Duration::from_secs(15);

/// Where metrics go. What goes wrong with it is said in the log; the sync is not affected.
pub struct MetricsFile {
    path: PathBuf,
    waiting: Vec<Row>,
    written: Option<Instant>,
    /// Its disk did not answer: it is not waited for again.
    gone: bool,
}

impl MetricsFile {
    /// Metrics for this file, of which only the name is looked at here.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), waiting: Vec::new(), written: None, gone: false }
    }

    /// An account's part is over.
    pub fn add(&mut self, row: Row, now: Instant) {
        self.waiting.push(row);
        if self.written.is_none_or(|at| now.saturating_duration_since(at) >= SELDOM) {
            self.written = Some(now);
            self.write();
        }
    }

    /// The command failed before it came to these accounts; if it does not even know which (none are named), it has failed
    /// for all that the file knows.
    pub fn fail(&mut self, exit_code: i32, accounts: &[String]) {
        self.waiting.extend(accounts.iter().map(|name| Row::failed(name, exit_code)));
        self.update(accounts.is_empty().then_some(exit_code));
    }

    /// An account has another name, or is there no more: its lines are changed, if the file is there.
    pub fn rename(&mut self, old: &str, new: Option<&str>) {
        let renamed = Some((old.to_owned(), new.map(str::to_owned)));
        self.bring(Update { path: self.path.clone(), rows: Vec::new(), failed: None, renamed });
    }

    /// Writes what was not written yet.
    pub fn write(&mut self) {
        if !self.waiting.is_empty() {
            self.update(None);
        }
    }

    fn update(&mut self, failed: Option<i32>) {
        let rows = std::mem::take(&mut self.waiting);
        self.bring(Update { path: self.path.clone(), rows, failed, renamed: None });
    }

    /// In a thread of its own, which a disk that is gone may keep. It must not log: this one may keep others from that.
    fn bring(&mut self, update: Update) {
        if self.gone {
            return;
        }
        let rest = if update.renamed.is_some() { "the database is" } else { "the sync itself is" };
        let its = update.clone();
        let (turn, written) = match in_time("metrics", LONGEST_WRITE, move || its.write()) {
            Ok(Some(told)) => told,
            Ok(None) => {
                self.gone = true;
                let cause = format!("its disk does not answer within {} s", LONGEST_WRITE.as_secs());
                (Turn::Free, Err(cause))
            }
            Err(_no_thread) => update.write(),
        };
        if matches!(turn, Turn::Late) {
            log::warn!(
                "{}: another process has its folder locked for more than {} s; metrics are written all the same, and what the other one writes at this moment may be lost",
                named(&self.path),
                LONGEST_TURN.as_secs()
            );
        }
        if let Err(cause) = written {
            log::error!("{}: metrics are not written: {cause}; {rest} not affected", named(&self.path));
        }
    }
}

/// What the file is to be told.
#[derive(Clone)]
struct Update {
    path: PathBuf,
    rows: Vec<Row>,
    /// All accounts that the file knows have failed with this exit code.
    failed: Option<i32>,
    /// An account that is there no more, and its new name.
    renamed: Option<(String, Option<String>)>,
}

/// Whether this process is the only one at the file.
enum Turn {
    /// It is, for as long as the value lives: the folder is locked.
    Own(#[allow(dead_code, reason = "it is locked until it is dropped")] File),
    /// The file system has no locks.
    Free,
    /// Somebody keeps it locked for too long.
    Late,
}

impl Update {
    fn write(self) -> (Turn, Result<(), String>) {
        let turn = self.turn();
        let written = self.write_in_turn();
        (turn, written)
    }

    fn write_in_turn(mut self) -> Result<(), String> {
        let mut accounts = self.read()?;
        if let Some((old, new)) = self.renamed {
            let Some(samples) = accounts.remove(&old) else { return Ok(()) };
            if let Some(new) = new {
                accounts.insert(new, samples);
            }
        }
        if let Some(exit_code) = self.failed {
            self.rows.extend(accounts.keys().map(|name| Row::failed(name, exit_code)));
            if self.rows.is_empty() {
                self.rows.push(Row::failed("default", exit_code));
            }
        }
        for row in &self.rows {
            let before = accounts.remove(&row.account).unwrap_or_default();
            accounts.insert(row.account.clone(), row.samples(&before));
        }
        replace(&self.path, render(&accounts).as_bytes()).map_err(|error| {
            format!("{error}; its folder has to be there, with room, for this user to write to")
        })
    }

    /// A lock on the folder: among the processes that share the file, reading and replacing it is one step. The file itself is
    /// another one after each.
    fn turn(&self) -> Turn {
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let Ok(folder) = File::open(folder_of(&path)) else { return Turn::Free };
        let begun = Instant::now();
        loop {
            match folder.try_lock() {
                Ok(()) => return Turn::Own(folder),
                Err(TryLockError::WouldBlock) if begun.elapsed() < LONGEST_TURN => thread::sleep(LOOK_AGAIN),
                Err(TryLockError::WouldBlock) => return Turn::Late,
                Err(TryLockError::Error(_)) => return Turn::Free,
            }
        }
    }

    fn read(&self) -> Result<Accounts, String> {
        refuse_foreign_link(&self.path).map_err(|error| error.to_string())?;
        let foreign = "what is there is no file of these metrics; name one of its own";
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Accounts::new()),
            Err(error) => return Err(error.to_string()),
            Ok(found) if !found.is_file() || found.len() > MOST_BYTES => return Err(foreign.into()),
            Ok(_) => {}
        }
        let bytes = fs::read(&self.path).map_err(|error| error.to_string())?;
        let text = std::str::from_utf8(&bytes).map_err(|_| foreign.to_owned())?;
        parse(text).map_err(|_| foreign.to_owned())
    }
}

fn named(path: &Path) -> String {
    format!("--metrics-file {}", visible(&path.to_string_lossy()))
}
