//! What this machine gives the process: open files, threads, space in a file. When it gives no more, that says nothing of
//! the server that was to be called: such a failure is no attempt.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::SIGXFSZ;

/// Open files to ask for, where the hard limit permits: all that 500 accounts can use. More could slow down a password
/// command: some programs look at every file that they might have open.
pub const MOST_OPEN_FILES: u64 = 65_536;

/// Raises the soft limit of open files, usually 1,024, as far as anybody may. Where it cannot be raised, it stays.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(MOST_OPEN_FILES);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        let _stays_as_it_is = setrlimit(Resource::Nofile, limit);
    }
}

/// Has a file that may not grow any more (`ulimit -f`) be an error for whoever writes to it, and not the end of the process.
pub fn outlive_file_size_limit() {
    // A handler that does nothing but be there.
    let _ends_the_process_then = signal_hook::flag::register(SIGXFSZ, Arc::default());
}

/// How many files this process may have open at once.
pub fn open_files() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// This machine has no more of something; what, and how to have more of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage(String);

impl Shortage {
    /// Of open files, for the reason that the system gives or that is our own.
    pub fn of_files(cause: impl fmt::Display) -> Self {
        Self(format!(
            "this machine permits no more open files ({cause}): allow more (ulimit -n, LimitNOFILE= of a systemd unit) or use fewer by --workers"
        ))
    }

    /// Of threads.
    pub fn of_threads(cause: impl fmt::Display) -> Self {
        Self(format!(
            "this machine starts no thread ({cause}): allow more (ulimit -u, TasksMax= of a systemd unit) or use fewer by --workers"
        ))
    }

    /// Whether that is what an I/O error means.
    pub fn behind(error: &io::Error) -> Option<Self> {
        if let Some(known) = error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
            return Some(known.clone());
        }
        let files = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
        error.raw_os_error().filter(|number| files.contains(number)).map(|_| Self::of_files(error))
    }

    /// Says so, once for the whole process: whoever meets it waits and tries again.
    pub fn warn(&self) {
        static SAID: AtomicBool = AtomicBool::new(false);
        if !SAID.swap(true, Ordering::Relaxed) {
            log::warn!("{self}; trying again");
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Shortage {}

impl From<Shortage> for io::Error {
    fn from(shortage: Shortage) -> Self {
        Self::other(shortage)
    }
}

/// Whether so many files can be opened now: for those who would not say so themselves, or panic.
pub fn spare_files(count: usize) -> Result<(), Shortage> {
    let mut opened = Vec::with_capacity(count);
    while opened.len() < count {
        match File::open("/dev/null") {
            Ok(file) => opened.push(file),
            // A machine without that file says nothing of the others.
            Err(error) => return Shortage::behind(&error).map_or(Ok(()), Err),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_known_by_its_number_and_in_any_wrapping_and_nothing_else_is_one() {
        for number in [23, 24] {
            let shortage = Shortage::behind(&io::Error::from_raw_os_error(number)).unwrap();
            assert!(shortage.to_string().contains("ulimit -n"), "{shortage}");
            assert_eq!(Shortage::behind(&shortage.clone().into()), Some(shortage));
        }
        for number in [2, 11, 13, 99, 104, 111] {
            assert_eq!(Shortage::behind(&io::Error::from_raw_os_error(number)), None, "{number}");
        }
        assert_eq!(spare_files(3), Ok(()));
    }
}
