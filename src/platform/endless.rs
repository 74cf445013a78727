//! Whether a listing that goes on has an end: pages that repeat what was listed, and more campaigns than there can be.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

/// Ids that are remembered to tell repetitions without asking the database; a page repeats its neighbours, if any.
pub(crate) const REMEMBERED: usize = 16_384;
/// Pages in a row without one new record: the listing goes round in circles.
pub(crate) const BARREN_PAGES: usize = 2;
/// A listing longer than twice what the platform says, and this, has no end.
const UNTOLD: i64 = 10_000;
/// A listing that is longer than this has no end, whatever the platform says.
pub(crate) const LONGEST: i64 = 1_000_000_000;

/// Why a listing has no end, if so: `barren` pages in a row brought no new record, or `listed` campaigns are more than the
/// platform's `total` allows.
#[must_use]
pub fn endless(barren: usize, listed: i64, total: Option<i64>) -> Option<String> {
    if barren >= BARREN_PAGES {
        return Some(format!("{barren} pages in a row brought nothing new, and has_more is still true"));
    }
    if listed > LONGEST {
        return Some(format!("it has more than {LONGEST} campaigns"));
    }
    let total = total?;
    (listed > total.saturating_mul(2).saturating_add(UNTOLD))
        .then(|| format!("it has {listed} campaigns so far where the platform says {total}"))
}

/// Whether a listing goes round in circles, from where this process took it on. That the database knows a page already proves
/// nothing there: rows may be written ahead of the run's next page, and a crash may have taken that back. Only the platform's
/// own repetition counts; and the database's word where more was shown than [`RecentIds`] remembers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    barren: usize,
    shown: usize,
}

impl Round {
    /// After pages with records that [`RecentIds`] did not know, some of them new to the database or not: how many pages in a
    /// row repeat what was listed.
    pub fn barren(&mut self, pages: usize, records: usize, new: bool) -> usize {
        let repeats = records == 0 || self.shown >= REMEMBERED;
        self.shown = self.shown.saturating_add(records);
        self.barren = if new || !repeats { 0 } else { self.barren.saturating_add(pages) };
        self.barren
    }
}

/// The ids of the last pages, as hashes: a collision would hide a campaign, so the hashes are 128 bits, of two random keys.
#[derive(Default)]
pub struct RecentIds {
    keys: (RandomState, RandomState),
    order: VecDeque<(u64, u64)>,
    known: HashSet<(u64, u64), BuildHasherDefault<Hashed>>,
}

/// For what is a hash already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = self.0.rotate_left(8) ^ hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl RecentIds {
    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Remembers an id; false when it is known already.
    pub fn is_new(&mut self, id: &str) -> bool {
        let hash = (self.keys.0.hash_one(id), self.keys.1.hash_one(id));
        if !self.known.insert(hash) {
            return false;
        }
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(hash);
        true
    }
}

impl fmt::Debug for RecentIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ids", self.known.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_only_the_database_knows_are_no_circle_until_a_circle_is_longer_than_what_is_remembered() {
        let mut round = Round::default();
        for shown in (0..REMEMBERED).step_by(64) {
            assert_eq!(round.barren(1, 64, false), 0, "after {shown} records");
        }
        assert_eq!(round.barren(1, 64, true), 0, "what is new is new");
        assert_eq!(round.barren(1, 64, false), 1, "a circle of which the beginning is forgotten");
        assert_eq!(round.barren(1, 64, false), BARREN_PAGES);
    }

    #[test]
    fn pages_that_the_platform_repeats_are_a_circle_at_once() {
        let mut round = Round::default();
        assert_eq!(round.barren(1, 10, false), 0);
        assert_eq!(round.barren(1, 0, false), 1);
        assert_eq!(round.barren(1, 10, false), 0, "it goes on");
        assert_eq!(round.barren(2, 0, false), BARREN_PAGES);
    }

    #[test]
    fn a_listing_that_grows_beyond_all_reason_has_no_end() {
        for (listed, total, reason) in [
            (LONGEST, None, None),
            (LONGEST + 1, None, Some("more than 1000000000")),
            (30_000, Some(10_000), None),
            (30_001, Some(10_000), Some("30001 campaigns so far")),
            (30_001, Some(i64::MAX), None),
        ] {
            let said = endless(0, listed, total);
            assert_eq!(said.is_some(), reason.is_some(), "{listed} of {total:?}: {said:?}");
            assert!(said.unwrap_or_default().contains(reason.unwrap_or_default()));
        }
    }
}
