//! `DATABASE_URL` in libpq's two forms: a URL, or `key=value` pairs (PostgreSQL documentation, section 34.1.1).
//!
//! No error repeats a piece of the text: where it is malformed, any piece may be part of a password.

use percent_encoding::percent_decode_str;

use super::ConninfoError;
use super::parameters::Settings;

const EXAMPLE: &str = "e.g. postgres://user@host:5432/database";
const ENCODE: &str = "percent-encode @ : / ? & and % inside user, password and database name";

/// Reads a connection string found in `source` into `settings`.
pub(super) fn parse(text: &str, source: &str, settings: &mut Settings) -> Result<(), ConninfoError> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        return parse_url(rest, source, settings);
    }
    if text.contains("://") && !text.contains('=') {
        return Err(malformed(source, format!("must begin with postgres:// or postgresql://, {EXAMPLE}")));
    }
    parse_pairs(text, source, settings)
}

fn malformed(source: &str, why: impl std::fmt::Display) -> ConninfoError {
    ConninfoError::new(format!("{source} {why}"))
}

fn parse_url(rest: &str, source: &str, settings: &mut Settings) -> Result<(), ConninfoError> {
    let decode = |part: &str| decode(part, source);

    // As libpq does: a user is named when an @ comes before the first slash.
    let before_slash = rest.find('/').map_or(rest, |slash| &rest[..slash]);
    let rest = if let Some(at) = before_slash.find('@') {
        let (user, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
        settings.add_unless_empty("user", &decode(user)?, source)?;
        settings.add_unless_empty("password", &decode(password)?, source)?;
        &rest[at + 1..]
    } else {
        rest
    };

    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    if address.contains('@') {
        return Err(malformed(source, format!("has an @ too many: {ENCODE}")));
    }
    let (hosts, dbname) = address.split_once('/').unwrap_or((address, ""));
    let (hosts, ports) = split_hosts(hosts, source)?;
    settings.add_unless_empty("host", &decode(&hosts)?, source)?;
    settings.add_unless_empty("port", &decode(&ports)?, source)?;
    settings.add_unless_empty("dbname", &decode(dbname)?, source)?;

    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((keyword, value)) = pair.split_once('=') else {
            return Err(malformed(source, format!("has a query parameter without =: {ENCODE}")));
        };
        let (keyword, value) = (decode(keyword)?, decode(value)?);
        if keyword == "ssl" && value == "true" {
            settings.add("sslmode", "require", source)?; // JDBC's spelling, which libpq takes too
        } else {
            settings.add(&keyword, &value, source)?;
        }
    }
    Ok(())
}

/// `a:1,[::1]:2,c` as the two lists `a,::1,c` and `1,2,`; ports are empty when none is given.
fn split_hosts(text: &str, source: &str) -> Result<(String, String), ConninfoError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for item in text.split(',') {
        let (host, port) = if let Some(bracketed) = item.strip_prefix('[') {
            let Some((address, port)) = bracketed.split_once(']') else {
                return Err(malformed(
                    source,
                    "has an IPv6 address without its closing bracket, e.g. [::1]:5432",
                ));
            };
            if !port.is_empty() && !port.starts_with(':') {
                return Err(malformed(source, "has something else than a port behind an IPv6 address"));
            }
            (address, port.strip_prefix(':').unwrap_or(""))
        } else {
            item.split_once(':').unwrap_or((item, ""))
        };
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed(source, format!("has a port that is no number ({EXAMPLE}; {ENCODE})")));
        }
        hosts.push(host);
        ports.push(port);
    }
    let none = ports.iter().all(|port| port.is_empty());
    Ok((hosts.join(","), if none { String::new() } else { ports.join(",") }))
}

fn decode(text: &str, source: &str) -> Result<String, ConninfoError> {
    let bytes = text.as_bytes();
    let well_formed = bytes.iter().enumerate().filter(|&(_, &b)| b == b'%').all(|(i, _)| {
        let digits = bytes.get(i + 1..i + 3).unwrap_or_default();
        digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit)
    });
    if !well_formed {
        return Err(malformed(
            source,
            "has a % that is not followed by two hexadecimal digits; write %25 for %",
        ));
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) if !decoded.contains('\0') => Ok(decoded.into_owned()),
        Ok(_) => Err(malformed(source, "has %00 in it, which Postgres cannot take; remove it")),
        Err(_) => Err(malformed(source, "is not UTF-8 once percent-decoded; encode it as UTF-8")),
    }
}

fn parse_pairs(text: &str, source: &str, settings: &mut Settings) -> Result<(), ConninfoError> {
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        if rest.peek().is_none() {
            return Ok(());
        }
        let mut keyword = String::new();
        while let Some(c) = rest.next_if(|&c| c != '=' && !c.is_ascii_whitespace()) {
            keyword.push(c);
        }
        while rest.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        if rest.next_if_eq(&'=').is_none() {
            let cure = "quote values with blanks, e.g. host=localhost password='two words'";
            return Err(malformed(
                source,
                format!("is neither a URL ({EXAMPLE}) nor key=value pairs: an = is missing; {cure}"),
            ));
        }
        while rest.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        let quoted = rest.next_if_eq(&'\'').is_some();
        let value = read_value(&mut rest, quoted);
        let Some(value) = value else {
            return Err(malformed(
                source,
                "has a quoted value without its closing quote; write \\' for a quote",
            ));
        };
        settings.add(&keyword, &value, source)?;
    }
}

/// The value up to its end; nothing when a quoted one has no end.
fn read_value(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, quoted: bool) -> Option<String> {
    let mut value = String::new();
    loop {
        match rest.next() {
            None if quoted => return None,
            None => return Some(value),
            Some('\'') if quoted => return Some(value),
            Some(c) if !quoted && c.is_ascii_whitespace() => return Some(value),
            Some('\\') => value.extend(rest.next()),
            Some(c) => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Settings {
        let mut settings = Settings::default();
        parse(text, "DATABASE_URL", &mut settings).unwrap();
        settings
    }

    fn refusal(text: &str) -> String {
        parse(text, "DATABASE_URL", &mut Settings::default()).unwrap_err().to_string()
    }

    #[test]
    fn a_url_may_hold_everything() {
        let settings = read(
            "postgresql://al%40ice:p%2Fw%3A@[::1]:5433,db2/sales%20eu?sslmode=require&options=-c%20a%3Db",
        );
        assert_eq!(settings.get("user"), Some("al@ice"));
        assert_eq!(settings.get("password"), Some("p/w:"));
        assert_eq!(settings.get("host"), Some("::1,db2"));
        assert_eq!(settings.get("port"), Some("5433,"));
        assert_eq!(settings.get("dbname"), Some("sales eu"));
        assert_eq!(settings.get("sslmode"), Some("require"));
        assert_eq!(settings.get("options"), Some("-c a=b"));
    }

    #[test]
    fn a_url_may_name_a_socket_directory_or_nothing_at_all() {
        assert_eq!(read("postgres://%2Fvar%2Frun%2Fpostgresql/db").get("host"), Some("/var/run/postgresql"));
        assert_eq!(read("postgres:///db?host=/tmp").get("host"), Some("/tmp"));
        assert_eq!(read("postgres://").get("host"), None);
        assert_eq!(read("postgres://h/d?ssl=true").get("sslmode"), Some("require"));
    }

    #[test]
    fn pairs_may_be_quoted_escaped_and_spaced() {
        let settings = read(r" host = db.example  password='it\'s \\ mine' user=a\ b dbname='' ");
        assert_eq!(settings.get("host"), Some("db.example"));
        assert_eq!(settings.get("password"), Some(r"it's \ mine"));
        assert_eq!(settings.get("user"), Some("a b"));
        assert_eq!(settings.get("dbname"), None);
    }

    #[test]
    fn what_is_malformed_is_refused_without_repeating_a_piece_of_it() {
        for text in [
            "postgres://user:hunter2/x@host/db",
            "postgres://user:1/hunter2@host/db",
            "postgres://user:x@hunter2@host/db",
            "postgres://user:hunter2%zz@host/db",
            "postgres://user:%00hunter2@host/db",
            "postgres://user:1/2?hunter2@host",
            "mysql://user:hunter2@host/db",
            "password=x hunter2",
            "password='hunter2",
            "password=my hunter2=x",
            "hunter2",
        ] {
            let error = refusal(text);
            assert!(!error.contains("hunter2") && error.starts_with("DATABASE_URL"), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(postgres://|postgresql://|)?[ -~é\\n]{0,60}") {
            let _ = parse(&text, "DATABASE_URL", &mut Settings::default());
        }

        #[test]
        fn any_password_survives_percent_encoding(password in "[^\\x00]{1,20}") {
            let encoded = percent_encoding::utf8_percent_encode(&password, percent_encoding::NON_ALPHANUMERIC);
            let settings = read(&format!("postgres://u:{encoded}@h/d"));
            prop_assert_eq!(settings.get("password"), Some(&*password));
        }

        #[test]
        fn any_password_survives_quoting(password in "[^\\x00]{1,20}") {
            let quoted = password.replace('\\', r"\\").replace('\'', r"\'");
            let settings = read(&format!("host=h password='{quoted}' user=u"));
            prop_assert_eq!(settings.get("password"), Some(&*password));
            prop_assert_eq!(settings.get("user"), Some("u"));
        }
    }
}
