//! What the platform's answers say: from bytes that anybody may have made to values, or to a reason without a foreign word
//! too many.

use super::api::{CallError, ListedPage, SyncReply};
use super::wire::{ErrorAnswer, ListAnswer, SyncAnswer, TokenAnswer};
use crate::http::retry::Cause;
use crate::http::secret::Secret;
use crate::http::token::{Grant, lifetime};

/// Reads the answer of `POST /auth/token`.
///
/// # Errors
/// When it is not what the contract says.
pub fn grant(body: &[u8]) -> Result<Grant, CallError> {
    let answer: TokenAnswer = parse(body)?;
    if answer.access_token.is_empty() || answer.access_token.bytes().any(|byte| !(0x21..0x7f).contains(&byte))
    {
        return Err(unparsable("the access token has characters that no header can hold".into()));
    }
    let expires_in = answer.expires_in.and_then(|value| value.as_f64());
    Ok(Grant { access_token: Secret::new(answer.access_token), lifetime: lifetime(expires_in) })
}

/// Reads the answer of `GET /api/campaigns`.
///
/// # Errors
/// As above.
pub fn page(body: &[u8]) -> Result<ListedPage, CallError> {
    let answer: ListAnswer = parse(body)?;
    let number = |value: Option<serde_json::Number>| value.and_then(|value| value.as_i64());
    Ok(ListedPage {
        records: answer.data,
        has_more: answer.pagination.has_more,
        page: number(answer.pagination.page),
        limit: number(answer.pagination.limit).filter(|limit| *limit >= 1),
        total: number(answer.pagination.total).filter(|total| *total >= 0),
    })
}

/// Reads the answer to a sync of the campaign `id`; `sent` are the credentials that went with it.
///
/// # Errors
/// As above, and when the platform says that it did not succeed.
pub fn sync_reply(body: &[u8], id: &str, sent: Option<&Secret>) -> Result<SyncReply, CallError> {
    let answer: SyncAnswer = parse(body)?;
    if !answer.success {
        let said = answer.message.map(|said| one_line(&without(&said, sent)));
        let message = said.map_or_else(String::new, |said| format!(": {said}"));
        return Err(CallError::Refused {
            status: 200,
            message: format!("the platform says success: false{message}"),
        });
    }
    match answer.campaign_id {
        Some(other) if other != id => {
            Err(unparsable(format!("the answer is about another campaign, {}", one_line(&other))))
        }
        _ => Ok(SyncReply),
    }
}

fn parse<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, CallError> {
    serde_json::from_slice(body).map_err(|error| {
        // serde_json quotes unknown or unexpected values: its category and place say enough, without foreign text.
        let what = match error.classify() {
            serde_json::error::Category::Data => "JSON of another shape than the contract's",
            serde_json::error::Category::Eof => "JSON that is cut short",
            _ => "no JSON",
        };
        unparsable(format!(
            "the platform answered with {what} (line {}, column {})",
            error.line(),
            error.column()
        ))
    })
}

/// What a 4xx says of itself, in one short line; a server that repeats our credentials is not repeated.
#[must_use]
pub fn refusal(status: u16, body: &[u8], sent: Option<&Secret>) -> String {
    let said =
        serde_json::from_slice::<ErrorAnswer>(body).ok().and_then(|answer| answer.message.or(answer.error));
    match said {
        Some(said) => format!("the platform answered {status}: {}", one_line(&without(&said, sent))),
        None => format!("the platform answered {status}"),
    }
}

/// A foreign text without the credentials that were sent, should it hold them.
fn without(text: &str, sent: Option<&Secret>) -> String {
    match sent.and_then(|sent| sent.reveal().split_once(' ')) {
        Some((_, credentials)) if !credentials.is_empty() => text.replace(credentials, "[redacted]"),
        _ => text.to_owned(),
    }
}

fn unparsable(message: String) -> CallError {
    CallError::Retry { cause: Cause::Unparsable, hint: None, message }
}

/// A foreign text for a message: at most 200 characters, none of them a control character.
pub(super) fn one_line(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_error_shows_nothing_of_its_body() {
        let error = parse::<SyncAnswer>(b"{\"success\": \"hunter2\"}").err().unwrap();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn a_server_that_repeats_our_token_is_not_repeated() {
        let token = Secret::new("Bearer hunter2".into());
        let message = refusal(400, br#"{"message": "bad token hunter2, sorry"}"#, Some(&token));
        assert_eq!(message, "the platform answered 400: bad token [redacted], sorry");
    }
}
