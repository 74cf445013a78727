//! The metrics file, replaced as a whole: whoever reads it sees the old one or the new one.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Row;
use super::exposition::{Accounts, parse, render};
use crate::report::text::visible;
use crate::report::whole_file::{refuse_foreign_link, replace};

/// With many accounts, the file is not replaced more often than this, until the last is done.
const SELDOM: Duration = Duration::from_secs(2);
/// More than thousands of accounts have to say: such a file is not ours.
pub(crate) const MOST_BYTES: u64 = 64 << 20;
/// Where metrics go. What goes wrong with it is said in the log; the sync is not affected.
pub struct MetricsFile {
    path: PathBuf,
    waiting: Vec<Row>,
    written: Option<Instant>,
}

impl MetricsFile {
    /// Metrics for this file, of which only the name is looked at here.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), waiting: Vec::new(), written: None }
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
        let mut names = accounts.to_vec();
        if names.is_empty() {
            names.extend(self.read().unwrap_or_default().into_keys());
        }
        if names.is_empty() {
            names.push("default".to_owned());
        }
        self.waiting.extend(names.iter().map(|name| Row::failed(name, exit_code)));
        self.write();
    }

    /// Writes what was not written yet.
    pub fn write(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if let Err(cause) = self.try_write() {
            let path = visible(&self.path.to_string_lossy());
            log::error!(
                "--metrics-file {path}: metrics are not written: {cause}; the sync itself is not affected"
            );
        }
        self.waiting.clear();
    }

    fn try_write(&self) -> Result<(), String> {
        let mut accounts = self.read()?;
        for row in &self.waiting {
            let before = accounts.remove(&row.account).unwrap_or_default();
            accounts.insert(row.account.clone(), row.samples(&before));
        }
        replace(&self.path, render(&accounts).as_bytes()).map_err(|error| {
            format!("{error}; its folder has to be there, with room, for this user to write to")
        })
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
