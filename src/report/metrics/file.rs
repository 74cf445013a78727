//! The metrics file, replaced as a whole: whoever reads it sees the old one or the new one.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Row;
use super::exposition::{Accounts, parse, render};
use crate::report::text::visible;

/// With many accounts, the file is not replaced more often than this, until the last is done.
const SELDOM: Duration = Duration::from_secs(2);
/// More than thousands of accounts have to say: such a file is not ours.
const MOST_BYTES: u64 = 64 << 20;
/// A file that was to become the metrics file and is older belongs to a process that was killed: writing takes moments.
const STALE: Duration = Duration::from_secs(600);
/// For everybody to read, whatever the umask: the collector runs as another user.
const MODE: u32 = 0o644;

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
        replace(&self.path, render(&accounts).as_bytes()).map_err(|error| error.to_string())
    }

    fn read(&self) -> Result<Accounts, String> {
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

/// Writes a file beside it first, and gives that its name when all of it is on the disk.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    // A link stays a link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    remove_stale(folder, name);
    let fresh = folder.join(fresh_name(name));
    let written = write_whole(&fresh, text).and_then(|()| fs::rename(&fresh, &path));
    if written.is_err() {
        let _most_likely_never_made = fs::remove_file(&fresh);
        return written;
    }
    // The name is on the disk too; a folder that cannot be synced still has it.
    let _not_everywhere = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(text)?;
    file.sync_all()
}

/// `.NAME.….tmp`: nothing that a collector of `*.prom` would read.
fn fresh_name(name: &OsStr) -> OsString {
    let mut fresh = prefix(name);
    fresh.push(format!("{:016x}.tmp", RandomState::new().hash_one(std::process::id())));
    fresh
}

fn prefix(name: &OsStr) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    prefix
}

/// Tidies up after processes that were killed while they wrote.
fn remove_stale(folder: &Path, name: &OsStr) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let prefix = prefix(name);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let bytes = name.as_encoded_bytes();
        let ours = bytes.starts_with(prefix.as_encoded_bytes()) && bytes.ends_with(b".tmp");
        let age = entry.metadata().and_then(|found| found.modified()).ok().and_then(|at| at.elapsed().ok());
        if ours && age.is_some_and(|age| age > STALE) {
            let _somebody_else_did = fs::remove_file(entry.path());
        }
    }
}
