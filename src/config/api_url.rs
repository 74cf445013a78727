//! The API's address: https, or http to this very machine; without credentials.

use std::net::IpAddr;

use ureq::http::Uri;

/// The longest address: with an id behind it, it has to fit into the first line of a request.
pub(crate) const MOST_BYTES: usize = 2_000;

/// The address with its scheme in lower case, and without a slash at its end.
pub(super) fn checked(text: &str, allow_http: bool) -> Result<String, String> {
    let example = "such as https://ads.example.com";
    if text.len() > MOST_BYTES {
        return Err(format!("must have at most {MOST_BYTES} bytes, {example}"));
    }
    if text.contains('@') {
        // Not shown: what stands before the sign may be a password.
        return Err(format!(
            "must hold no credentials, {example}; they belong in AD_PLATFORM_EMAIL and AD_PLATFORM_PASSWORD"
        ));
    }
    if text.contains(['?', '#']) {
        // Not shown either: a query may hold a key.
        return Err(format!("must have no query and no fragment, {example}"));
    }
    let uri: Uri = text.parse().map_err(|_| format!("{text:?} is no address; {example}"))?;
    let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host().filter(|host| !host.is_empty())) else {
        return Err(format!("{text:?} has no scheme or no host; {example}"));
    };
    if !has_possible_port(&uri) {
        return Err(format!(
            "{text:?}: a port is a number from 1 to 65535, as in https://ads.example.com:8443"
        ));
    }
    match scheme {
        "https" => {}
        "http" if allow_http || is_loopback(host) => {}
        "http" => {
            return Err(format!(
                "{text:?}: plain http to another machine sends the credentials in clear; use https, or --allow-http if that is what you want"
            ));
        }
        other => return Err(format!("{text:?}: {other} is not https; {example}")),
    }
    // In lower case, as what decides about TLS expects it.
    let rest = text.get(scheme.len()..).unwrap_or_default();
    Ok(format!("{scheme}{}", rest.trim_end_matches('/')))
}

/// Whether the address names a port that there can be, or none. For one that there cannot be, the parser knows none, and the
/// scheme's own would be asked: another server, with the credentials.
pub(super) fn has_possible_port(uri: &Uri) -> bool {
    let Some(authority) = uri.authority() else { return true };
    // Behind the credentials, of which a proxy's address may have some.
    let server = authority.as_str().rsplit('@').next().unwrap_or_default();
    match server.get(authority.host().len()..).unwrap_or_default() {
        "" => true,
        port => port
            .strip_prefix(':')
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse::<u16>().ok())
            .is_some_and(|port| port > 0),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}
