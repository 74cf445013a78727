//! The platform's JSON, and nothing else: shapes as in the API's contract, checked strictly where silence would lose a
//! campaign.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// The answer of `POST /auth/token`.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    pub access_token: String,
    #[serde(default)]
    pub expires_in: Option<serde_json::Value>,
}

/// The answer of `GET /api/campaigns`. Without any of these fields it is no listing, and never an empty page.
#[derive(Deserialize)]
pub(super) struct ListAnswer<'a> {
    #[serde(deserialize_with = "records")]
    pub data: Vec<Box<RawValue>>,
    #[serde(borrow)]
    pub pagination: Pagination<'a>,
}

/// The most records on a page, whatever was asked for: as many ordinary ones as the largest body holds. Without it, a body
/// of empty records would take many times its size in memory.
pub const MOST_RECORDS: usize = 100_000;

fn records<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Box<RawValue>>, D::Error> {
    struct Records;
    impl<'de> Visitor<'de> for Records {
        type Value = Vec<Box<RawValue>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST_RECORDS} records")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<Self::Value, A::Error> {
            let mut read = Vec::new();
            while let Some(record) = records.next_element()? {
                if read.len() == MOST_RECORDS {
                    return Err(Error::invalid_length(MOST_RECORDS + 1, &self));
                }
                read.push(record);
            }
            Ok(read)
        }
    }
    deserializer.deserialize_seq(Records)
}

/// Each as it stood there: what a field means is said in `listing`.
#[derive(Default, Deserialize)]
pub(super) struct Pagination<'a> {
    #[serde(default, borrow, deserialize_with = "as_it_is")]
    pub has_more: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "as_it_is")]
    pub page: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "as_it_is")]
    pub limit: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "as_it_is")]
    pub total: Option<Cow<'a, str>>,
}

fn as_it_is<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'a, str>>, D::Error> {
    let raw = Option::<&'a RawValue>::deserialize(deserializer)?;
    Ok(raw.map(|raw| Cow::Borrowed(raw.get())))
}

/// The body of `POST /api/campaigns/{id}/sync`.
#[derive(Serialize)]
pub(super) struct SyncBody<'a> {
    pub campaign_id: &'a str,
}

/// Its answer.
#[derive(Deserialize)]
pub(super) struct SyncAnswer<'a> {
    pub success: bool,
    #[serde(default, borrow)]
    pub campaign_id: Option<Text<'a>>,
    #[serde(default, borrow)]
    pub message: Option<Text<'a>>,
}

/// A text that is copied only where it has escapes.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// The shape of every error.
#[derive(Deserialize)]
pub(super) struct ErrorAnswer {
    #[serde(default)]
    pub error: Option<String>,
    #[serde(default)]
    pub message: Option<String>,
}
