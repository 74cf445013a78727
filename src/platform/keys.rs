//! The key of a record that is no campaign, and what a record counts for.

use ring::digest::{SHA256, digest};

use super::{Campaign, Invalid};
use crate::http::hex::push_hex;

/// A record counts for one more with every so many bytes that it has, wherever records are counted for the memory they take.
const COUNTED_BYTES: usize = 4 << 10;

/// What a record of so many bytes counts for.
#[must_use]
pub fn weight_of(bytes: usize) -> usize {
    1 + bytes / COUNTED_BYTES
}

impl Campaign {
    /// The same for what is in hand of a record.
    #[must_use]
    pub fn weight(&self) -> usize {
        weight_of(self.name.len() + self.extra.len())
    }
}

/// The campaign's id, or, when there is none that could be a key, a name made of the record.
#[must_use]
pub fn key_of(invalid: &Invalid, raw: &str) -> String {
    invalid.id.clone().unwrap_or_else(|| name_of(raw))
}

/// A name made of the record.
#[must_use]
pub fn name_of(raw: &str) -> String {
    let hash = digest(&SHA256, raw.as_bytes());
    let mut name = String::from("sha256:");
    push_hex(&mut name, &hash.as_ref()[..16]);
    name
}
