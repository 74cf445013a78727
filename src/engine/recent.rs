//! The ids of the last pages, to tell repetitions without asking the database; a page repeats its neighbours, if any.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, RandomState};

/// Ids that are remembered; the oldest is forgotten first, and the database knows it.
pub const REMEMBERED: usize = 16_384;

/// As hashes of 128 bits by two random keys: a collision would hide a campaign.
#[derive(Default)]
pub struct RecentIds {
    keys: (RandomState, RandomState),
    order: VecDeque<(u64, u64)>,
    known: HashSet<(u64, u64)>,
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
