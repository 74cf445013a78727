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

/// How many may stand idle for each of so many accounts, of which each wants `wanted`. Half of all may: those of one account
/// must not keep the others from having any.
#[must_use]
pub fn idle_for_each(accounts: usize, wanted: usize) -> usize {
    share(open_files(), accounts, wanted)
}

fn share(open_files: usize, accounts: usize, wanted: usize) -> usize {
    (MOST_IDLE.min(most(open_files) / 2) / accounts.max(1)).min(wanted).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_of_any_number_of_accounts_leave_room_for_those_in_use() {
        for (open_files, accounts, wanted, expected) in [
            (65_536, 1, 18, 18),
            (65_536, 1, 1_026, 1_024),
            (65_536, 20, 18, 18),
            (65_536, 500, 18, 2),
            (1_024, 1, 18, 18),
            (1_024, 500, 18, 1),
            (24, 1, 18, 3),
            (usize::MAX, 0, 18, 18),
        ] {
            assert_eq!(share(open_files, accounts, wanted), expected, "{open_files} {accounts} {wanted}");
        }
        for open_files in [16, 24, 64, 256, 1_024, 65_536] {
            assert!((2..open_files).contains(&most(open_files)), "{open_files}");
        }
        assert_eq!(most(1_024), 896);
    }
}
