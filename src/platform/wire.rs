//! The platform's JSON, and nothing else: shapes as in the API's contract, checked strictly where silence would lose a
//! campaign.

use serde::{Deserialize, Serialize};
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
pub(super) struct ListAnswer {
    pub data: Vec<Box<RawValue>>,
    pub pagination: Pagination,
}

#[derive(Deserialize)]
pub(super) struct Pagination {
    pub has_more: bool,
    #[serde(default)]
    pub page: Option<serde_json::Number>,
    #[serde(default)]
    pub limit: Option<serde_json::Number>,
    #[serde(default)]
    pub total: Option<serde_json::Number>,
}

/// The body of `POST /api/campaigns/{id}/sync`.
#[derive(Serialize)]
pub(super) struct SyncBody<'a> {
    pub campaign_id: &'a str,
}

/// Its answer.
#[derive(Deserialize)]
pub(super) struct SyncAnswer {
    pub success: bool,
    #[serde(default)]
    pub campaign_id: Option<String>,
    #[serde(default)]
    pub message: Option<String>,
}

/// The shape of every error.
#[derive(Deserialize)]
pub(super) struct ErrorAnswer {
    #[serde(default)]
    pub error: Option<String>,
    #[serde(default)]
    pub message: Option<String>,
}
