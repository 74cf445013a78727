//! All that is particular to this ad platform: its endpoints, its wire types, and what makes a campaign valid.

pub mod answers;
mod api;
mod campaign;
mod wire;

pub use api::{Api, CallError, Exchange, ListedPage, PageNumber, SyncReply};
pub use campaign::{Campaign, Invalid, Listed, MAX_ID_BYTES, read_record};
