//! The connections to all platforms together: no more than the open files of this process leave room for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::own_machine::{Shortage, open_files};

/// Open files that are left to others: 20 connections to the database with 4 each, files, look-ups, signals.
pub(crate) const RESERVED: usize = 128;
/// Connections that stand idle, of all accounts together, where the open files permit.
pub(crate) const MOST_IDLE: usize = 1_024;

static OPEN: AtomicUsize = AtomicUsize::new(0);

/// The right to one connection, for as long as the value lives.
#[derive(Debug)]
pub(super) struct Permit(());

impl Permit {
    /// One more, if there is room.
    pub fn take() -> Result<Self, Shortage> {
        static MOST: OnceLock<usize> = OnceLock::new();
        let most = *MOST.get_or_init(|| most(open_files()));
        if OPEN.fetch_add(1, Ordering::Relaxed) < most {
            return Ok(Self(()));
        }
        OPEN.fetch_sub(1, Ordering::Relaxed);
        Err(Shortage::of_files(format_args!("{most} connections to the platform are open")))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connections for so many open files; some, where there are hardly any.
fn most(open_files: usize) -> usize {
    open_files.saturating_sub(RESERVED).max(open_files / 4).max(2)
}

/// How many may stand idle where the process has room for `wanted` of them: half of all may, so that those of one host do not
/// keep another from having any.
#[must_use]
pub fn idle(wanted: usize) -> usize {
    kept(open_files(), wanted)
}

fn kept(open_files: usize, wanted: usize) -> usize {
    MOST_IDLE.min(most(open_files) / 2).min(wanted).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_leave_room_for_those_in_use() {
        for (open_files, wanted, expected) in [
            (65_536, 18, 18),
            (65_536, 5_000, 1_024),
            (1_024, 18, 18),
            (1_024, 5_000, 448),
            (24, 18, 3),
            (usize::MAX, 0, 1),
        ] {
            assert_eq!(kept(open_files, wanted), expected, "{open_files} {wanted}");
        }
        for open_files in [16, 24, 64, 256, 1_024, 65_536] {
            assert!((2..open_files).contains(&most(open_files)), "{open_files}");
        }
        assert_eq!(most(1_024), 896);
    }
}
