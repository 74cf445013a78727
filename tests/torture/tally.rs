//! How many faults of which kind were injected.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

/// Counts by kind, from any thread.
#[derive(Default)]
pub struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    pub fn count(&self, kind: &'static str) {
        self.add(kind, 1);
    }

    pub fn add(&self, kind: &'static str, times: u64) {
        if times > 0 {
            *self.0.lock().unwrap().entry(kind).or_default() += times;
        }
    }

    pub fn total(&self) -> u64 {
        self.0.lock().unwrap().values().sum()
    }

    pub fn merge(&self, other: &Self) {
        for (kind, times) in &*other.0.lock().unwrap() {
            self.add(kind, *times);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, times) in &*self.0.lock().unwrap() {
            writeln!(f, "  {times:>9}  {kind}")?;
        }
        Ok(())
    }
}
