//! The connection parameters that libpq knows (PostgreSQL 18 documentation, section 34.1.2), what this program
//! does with each, and the values collected for one connection.

use std::collections::BTreeMap;
use std::fmt;

use super::ConninfoError;
use crate::http::Secret;

/// What becomes of a parameter.
enum Use {
    /// It is read by `Conninfo`.
    Read,
    /// Whatever its value, it would change nothing here.
    Ignored,
    /// Only these values are harmless; any other asks for something that cannot be given.
    Only(&'static [&'static str], &'static str),
}

use Use::{Ignored, Only, Read};

struct Parameter {
    keyword: &'static str,
    /// The environment variable, or nothing.
    variable: &'static str,
    treatment: Use,
}

const fn parameter(keyword: &'static str, variable: &'static str, treatment: Use) -> Parameter {
    Parameter { keyword, variable, treatment }
}

const NO_GSS: &str = "GSSAPI is not supported; remove it or set it to disable";
const NO_CRL: &str = "certificate revocation lists are not supported; remove it";
const NO_OAUTH: &str = "OAuth is not supported; use a password or a client certificate";
const NO_PASSPHRASE: &str = "encrypted private keys are not supported; give a key without a passphrase";
const NO_SCRAM_KEYS: &str = "pass-through SCRAM keys are not supported; give a password";

const PARAMETERS: &[Parameter] = &[
    parameter("service", "PGSERVICE", Read),
    parameter("servicefile", "PGSERVICEFILE", Read),
    parameter("user", "PGUSER", Read),
    parameter("password", "PGPASSWORD", Read),
    parameter("passfile", "PGPASSFILE", Read),
    parameter("dbname", "PGDATABASE", Read),
    parameter("host", "PGHOST", Read),
    parameter("hostaddr", "PGHOSTADDR", Read),
    parameter("port", "PGPORT", Read),
    parameter("connect_timeout", "PGCONNECT_TIMEOUT", Read),
    parameter("options", "PGOPTIONS", Read),
    parameter("application_name", "PGAPPNAME", Read),
    parameter("fallback_application_name", "", Read),
    parameter("target_session_attrs", "PGTARGETSESSIONATTRS", Read),
    parameter("keepalives", "", Read),
    parameter("keepalives_idle", "", Read),
    parameter("keepalives_interval", "", Read),
    parameter("keepalives_count", "", Read),
    parameter("tcp_user_timeout", "", Read),
    parameter("sslmode", "PGSSLMODE", Read),
    parameter("sslnegotiation", "PGSSLNEGOTIATION", Read),
    parameter("sslrootcert", "PGSSLROOTCERT", Read),
    parameter("sslcert", "PGSSLCERT", Read),
    parameter("sslkey", "PGSSLKEY", Read),
    parameter("sslsni", "PGSSLSNI", Read),
    parameter("channel_binding", "PGCHANNELBINDING", Read),
    // The hosts are tried in the order given: correct, only not balanced.
    parameter("load_balance_hosts", "PGLOADBALANCEHOSTS", Ignored),
    // rustls neither compresses nor speaks anything older than TLS 1.2.
    parameter("sslcompression", "PGSSLCOMPRESSION", Ignored),
    parameter(
        "ssl_min_protocol_version",
        "PGSSLMINPROTOCOLVERSION",
        Only(&["TLSv1", "TLSv1.1", "TLSv1.2"], "the oldest version spoken is always TLSv1.2; use that"),
    ),
    parameter(
        "ssl_max_protocol_version",
        "PGSSLMAXPROTOCOLVERSION",
        Only(&["TLSv1.3"], "the newest version spoken is always TLSv1.3; remove it"),
    ),
    parameter(
        "sslcertmode",
        "PGSSLCERTMODE",
        Only(&["allow"], "only allow is supported; leave sslcert out to send no certificate"),
    ),
    parameter("sslpassword", "", Only(&[], NO_PASSPHRASE)),
    parameter("sslcrl", "PGSSLCRL", Only(&[], NO_CRL)),
    parameter("sslcrldir", "PGSSLCRLDIR", Only(&[], NO_CRL)),
    parameter("sslkeylogfile", "", Only(&[], "TLS keys are never written to a file; remove it")),
    // These matter only when the server asks for GSSAPI, which then fails with its own message.
    parameter("krbsrvname", "PGKRBSRVNAME", Ignored),
    parameter("gsslib", "PGGSSLIB", Ignored),
    parameter("gssdelegation", "PGGSSDELEGATION", Ignored),
    parameter("gssencmode", "PGGSSENCMODE", Only(&["disable", "prefer"], NO_GSS)),
    parameter(
        "requirepeer",
        "PGREQUIREPEER",
        Only(&[], "the peer of a Unix socket cannot be checked here; use TLS with sslmode=verify-full"),
    ),
    parameter(
        "require_auth",
        "PGREQUIREAUTH",
        Only(&[], "it cannot be enforced here; use channel_binding=require or sslmode=verify-full"),
    ),
    parameter(
        "client_encoding",
        "PGCLIENTENCODING",
        Only(&["auto", "utf8", "UTF8", "utf-8", "UTF-8"], "the client's encoding is always UTF8; remove it"),
    ),
    parameter(
        "replication",
        "",
        Only(&["false", "off", "no", "0"], "replication connections run no statements; remove it"),
    ),
    parameter(
        "min_protocol_version",
        "PGMINPROTOCOLVERSION",
        Only(&["3.0"], "protocol 3.0 is spoken; use 3.0"),
    ),
    parameter("max_protocol_version", "PGMAXPROTOCOLVERSION", Ignored),
    parameter("scram_client_key", "", Only(&[], NO_SCRAM_KEYS)),
    parameter("scram_server_key", "", Only(&[], NO_SCRAM_KEYS)),
    parameter("oauth_issuer", "", Only(&[], NO_OAUTH)),
    parameter("oauth_client_id", "", Only(&[], NO_OAUTH)),
    parameter("oauth_client_secret", "", Only(&[], NO_OAUTH)),
    parameter("oauth_scope", "", Only(&[], NO_OAUTH)),
    parameter("authtype", "", Ignored),
    parameter("tty", "", Ignored),
];

/// Every parameter that may come from the environment: keyword and variable.
pub(super) fn variables() -> impl Iterator<Item = (&'static str, &'static str)> {
    PARAMETERS.iter().filter(|p| !p.variable.is_empty()).map(|p| (p.keyword, p.variable))
}

/// The values found so far. The first source to name a parameter wins, so sources are added strongest first.
#[derive(Default)]
pub(super) struct Settings(BTreeMap<&'static str, Setting>);

/// One value and where it came from; the value is kept secret because it may be, or contain, a password.
struct Setting {
    value: Secret,
    origin: String,
}

impl Settings {
    /// Adds one value read from `source` (as in "DATABASE_URL"), unless an earlier source has set it.
    pub(super) fn add(&mut self, keyword: &str, value: &str, source: &str) -> Result<(), ConninfoError> {
        let Some(known) = PARAMETERS.iter().find(|p| p.keyword == keyword) else {
            return Err(unknown(keyword, source));
        };
        let origin = if known.variable == source { source.into() } else { format!("{source}: {keyword}") };
        if value.contains('\0') {
            return Err(ConninfoError::new(format!("{origin} contains a zero byte; remove it")));
        }
        if let Only(harmless, cure) = known.treatment
            && !value.is_empty()
            && !harmless.contains(&value)
            && !self.0.contains_key(known.keyword)
        {
            return Err(ConninfoError::new(format!("{origin} cannot be honoured: {cure}")));
        }
        self.0.entry(known.keyword).or_insert_with(|| Setting { value: Secret::new(value.into()), origin });
        Ok(())
    }

    /// As `add`, but an empty value is as good as none: a later source may set it.
    pub(super) fn add_unless_empty(
        &mut self,
        keyword: &str,
        value: &str,
        source: &str,
    ) -> Result<(), ConninfoError> {
        if value.is_empty() { Ok(()) } else { self.add(keyword, value, source) }
    }

    /// A value that was set, and not to the empty text, which means the default as it does for libpq.
    pub(super) fn get(&self, keyword: &str) -> Option<&str> {
        self.0.get(keyword).map(|s| s.value.reveal()).filter(|value| !value.is_empty())
    }

    /// Where a value came from, for messages: a variable, or a source and a keyword.
    pub(super) fn origin(&self, keyword: &'static str) -> &str {
        self.0.get(keyword).map_or(keyword, |s| &s.origin)
    }

    /// An error about a value: names the setting and the value, and says what would be right.
    pub(super) fn invalid(&self, keyword: &'static str, right: impl fmt::Display) -> ConninfoError {
        let value = self.get(keyword).unwrap_or_default();
        // A quote or blank that is missing in the text may have made a password part of this value.
        if value.contains("pass") || value.contains(['@', '=', '\'', '"']) || value.contains("://") {
            return ConninfoError::new(format!(
                "{} holds what may be another setting: {right}",
                self.origin(keyword)
            ));
        }
        let value: String = value.chars().take(60).collect();
        ConninfoError::new(format!("{} is \"{}\": {right}", self.origin(keyword), value.escape_debug()))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

fn unknown(keyword: &str, source: &str) -> ConninfoError {
    // Anything that does not look like a keyword may be a piece of a password, and is not shown.
    let plausible = keyword.len() <= 40
        && keyword.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_')
        && !keyword.is_empty();
    if !plausible {
        let cure = "percent-encode it in a URL, quote values with blanks in a key=value text";
        return ConninfoError::new(format!("{source} has a parameter whose name is no name; {cure}"));
    }
    let nearest =
        PARAMETERS.iter().map(|p| p.keyword).min_by_key(|known| distance(known, keyword)).unwrap_or("host");
    ConninfoError::new(format!("{source} has an unknown parameter {keyword}; did you mean {nearest}?"))
}

/// Levenshtein's distance, for the suggestion.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_parameter_is_named_with_the_nearest_right_one() {
        let error = Settings::default().add("ssl_mode", "require", "DATABASE_URL").unwrap_err().to_string();
        assert_eq!(error, "DATABASE_URL has an unknown parameter ssl_mode; did you mean sslmode?");
    }

    #[test]
    fn a_name_that_may_be_part_of_a_password_is_not_shown() {
        let error = Settings::default().add("hunter2!", "x", "DATABASE_URL").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_unless_its_value_is_harmless() {
        let mut settings = Settings::default();
        assert!(settings.add("gssencmode", "prefer", "PGGSSENCMODE").is_ok());
        let error = settings.add("sslcrl", "/etc/crl.pem", "PGSSLCRL").unwrap_err().to_string();
        assert!(error.starts_with("PGSSLCRL cannot be honoured: certificate revocation lists"), "{error}");
        assert!(settings.add("krbsrvname", "anything", "PGKRBSRVNAME").is_ok());
    }

    #[test]
    fn the_first_source_wins() {
        let mut settings = Settings::default();
        settings.add("host", "a", "DATABASE_URL").unwrap();
        settings.add("host", "b", "PGHOST").unwrap();
        assert_eq!(settings.get("host"), Some("a"));
        assert_eq!(settings.origin("host"), "DATABASE_URL: host");
    }
}
