//! Looking for secrets in what the program says, in every dress they may wear.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Fails when one of `outputs` shows one of `secrets`: plain, escaped, percent-encoded, as bytes, or anywhere inside
/// something that was base64-encoded (as in an `Authorization: Basic` header).
#[track_caller]
pub fn assert_no_secret(outputs: &[&str], secrets: &[&str]) {
    for secret in secrets {
        assert!(secret.len() >= 6, "{secret:?} is too short to be told from chance");
        for output in outputs {
            let lower = output.to_lowercase();
            if let Some(form) = forms(secret).iter().find(|form| lower.contains(&form.to_lowercase())) {
                panic!("{secret:?} is shown as {form:?} in:\n{output}");
            }
        }
    }
}

fn forms(secret: &str) -> Vec<String> {
    let debug = format!("{secret:?}");
    let bytes = format!("{:?}", secret.as_bytes());
    let mut forms = vec![
        secret.to_owned(),
        debug[1..debug.len() - 1].to_owned(),
        utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string(),
        bytes[1..bytes.len() - 1].to_owned(),
        secret.bytes().map(|byte| format!("{byte:02x}")).collect(),
    ];
    for before in 0..3 {
        forms.push(encoded_after(&STANDARD, before, secret));
        forms.push(encoded_after(&URL_SAFE, before, secret));
    }
    forms
}

/// The characters of a base64 text that depend on `secret` alone, when `before` bytes (mod 3) stand in front of it.
fn encoded_after(engine: &impl Engine, before: usize, secret: &str) -> String {
    let text = engine.encode([&[0; 3][..before], secret.as_bytes()].concat());
    text[(before * 8).div_ceil(6)..(before + secret.len()) * 8 / 6].to_owned()
}
