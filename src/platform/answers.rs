//! What the platform's answers say: from bytes that anybody may have made to values, or to a reason without a foreign word
//! too many.

use super::api::{CallError, SyncReply};
pub use super::listing::page;
use super::wire::{ErrorAnswer, SyncAnswer, Text, TokenAnswer};
use crate::foreign::one_line;
use crate::http::retry::Cause;
use crate::http::secret::Secret;
use crate::http::token::{Grant, lifetime};

/// The longest access token: servers take no header lines that are much longer, and our own buffer has 16 KiB.
pub const MOST_TOKEN_BYTES: usize = 8 << 10;
/// A larger total is no number of campaigns but a mistake, and taken for none.
pub const MOST_TOTAL: i64 = 1_000_000_000_000;
/// The longest piece of the platform's words in a message of ours, in characters.
pub(crate) const MESSAGE_CHARACTERS: usize = 200;

/// Reads the answer of `POST /auth/token`.
///
/// # Errors
/// When it is not what the contract says.
pub fn grant(body: &[u8]) -> Result<Grant, CallError> {
    let answer: TokenAnswer = parse(body)?;
    let access_token = Secret::new(answer.access_token);
    let text = access_token.reveal();
    if text.is_empty() || text.bytes().any(|byte| !(0x21..0x7f).contains(&byte)) {
        return Err(unparsable("the access token has characters that no header can hold".into()));
    }
    if text.len() > MOST_TOKEN_BYTES {
        let length = text.len();
        return Err(unparsable(format!(
            "the access token has {length} bytes, more than the {MOST_TOKEN_BYTES} that a header can hold"
        )));
    }
    let expires_in = answer.expires_in.and_then(|value| value.as_f64());
    Ok(Grant { access_token, lifetime: lifetime(expires_in) })
}

/// Reads the answer to a sync of the campaign `id`; `secrets` are not repeated.
///
/// # Errors
/// As above, and when the platform says that it did not succeed.
pub fn sync_reply(body: &[u8], id: &str, secrets: &[&Secret]) -> Result<SyncReply, CallError> {
    let answer: SyncAnswer = parse(body)?;
    if !answer.success {
        let said = answer.message.map(|Text(said)| told(&said, secrets));
        let message = said.map_or_else(String::new, |said| format!(": {said}"));
        return Err(CallError::Refused {
            status: 200,
            message: format!("the platform says success: false{message}"),
        });
    }
    match answer.campaign_id {
        Some(Text(other)) if other != id => {
            Err(unparsable(format!("the answer is about another campaign, {}", told(&other, secrets))))
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
pub fn refusal(status: u16, body: &[u8], secrets: &[&Secret]) -> String {
    let said =
        serde_json::from_slice::<ErrorAnswer>(body).ok().and_then(|answer| answer.message.or(answer.error));
    match said {
        Some(said) => format!("the platform answered {status}: {}", told(&said, secrets)),
        None => format!("the platform answered {status}"),
    }
}

/// A text of the platform's for a message: one short line, without our secrets, should it repeat them. Of a secret in two
/// words, as in `Bearer …`, the second counts.
pub(super) fn told(text: &str, secrets: &[&Secret]) -> String {
    let mut told = text.to_owned();
    for secret in secrets {
        let secret = secret.reveal();
        let secret =
            ["Bearer ", "Basic "].iter().find_map(|word| secret.strip_prefix(word)).unwrap_or(secret);
        if !secret.is_empty() {
            told = told.replace(secret, "[redacted]");
        }
    }
    one_line(&told, MESSAGE_CHARACTERS)
}

pub(super) fn unparsable(message: String) -> CallError {
    CallError::Retry { cause: Cause::Unparsable, hint: None, message }
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
        let message = refusal(400, br#"{"message": "bad token hunter2, sorry"}"#, &[&token]);
        assert_eq!(message, "the platform answered 400: bad token [redacted], sorry");
    }
}
