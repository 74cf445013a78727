//! All that is particular to this ad platform: its endpoints, its wire types, and what makes a campaign valid.

pub mod answers;
mod api;
mod broken;
mod campaign;
pub mod endless;
mod keys;
mod listing;
mod wire;

pub use answers::{MOST_TOKEN_BYTES, MOST_TOTAL};
pub use api::{Api, CallError, Exchange, ListedPage, PageNumber, SyncReply};
pub use broken::{BASE64, Broken};
#[cfg(test)]
pub(crate) use broken::{LOOKS, LOOKS_ANYWAY};
pub use campaign::{Campaign, Invalid, Listed, MAX_ID_BYTES, MOST_RECORD_BYTES, read_record};
pub use keys::{key_of, name_of, weight_of};
pub use wire::MOST_RECORDS;
