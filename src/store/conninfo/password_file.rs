//! `PGPASSFILE` and `~/.pgpass` (PostgreSQL documentation, section 34.16): `host:port:database:user:password`.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::http::Secret;
use crate::settings_file;

/// The largest password file, in bytes.
pub(crate) const MOST_BYTES: usize = 1 << 20;

/// The passwords of one file. A file that is missing, no plain file or readable by others holds none, as in libpq.
pub(super) struct PasswordFile(Zeroizing<String>);

impl PasswordFile {
    /// Reads the file; a warning is logged when it exists and must be ignored.
    pub(super) fn read(path: &Path) -> Self {
        let shown = path.display();
        let nothing = Self(Zeroizing::default());
        let ignored = |why: &dyn fmt::Display| log::warn!("password file {shown} is ignored: {why}");
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return nothing,
            Err(error) => {
                ignored(&error);
                return nothing;
            }
        };
        // Asked of the opened file: the path may name another one a moment later.
        match file.metadata() {
            Ok(about) if !about.is_file() => ignored(&"it is not a plain file"),
            Ok(about) if about.mode() & 0o077 != 0 => {
                ignored(&format_args!("group or others may access it; chmod 600 {shown}"));
            }
            Ok(_) => match settings_file::read_opened(file, MOST_BYTES) {
                Ok(bytes) => return Self(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned())),
                Err(error) => ignored(&error),
            },
            Err(error) => ignored(&error),
        }
        nothing
    }

    /// The password of the first line that matches.
    pub(super) fn password(&self, host: &str, port: u16, dbname: &str, user: &str) -> Option<Secret> {
        let port = port.to_string();
        let wanted = [host, &port, dbname, user];
        self.0.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
            let mut rest = line;
            for expected in wanted {
                rest = match_field(rest, expected)?;
            }
            let (password, _) = unescape_field(rest);
            Some(Secret::new(password)).filter(|password| !password.reveal().is_empty())
        })
    }
}

/// What follows the first field of `line`, if the field is `expected` or `*`.
fn match_field<'a>(line: &'a str, expected: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let (field, rest) = unescape_field(line);
    rest.filter(|_| field == expected)
}

/// The field up to an unescaped colon, its escapes removed, and what follows the colon.
fn unescape_field(line: &str) -> (String, Option<&str>) {
    // As long as it can become, so that a password is never left behind by a reallocation.
    let mut field = String::with_capacity(line.len());
    let mut characters = line.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            ':' => return (field, Some(&line[at + 1..])),
            '\\' => field.push(characters.next().map_or('\\', |(_, escaped)| escaped)),
            _ => field.push(c),
        }
    }
    (field, None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(text: &str, host: &str) -> Option<String> {
        let file = PasswordFile(Zeroizing::new(text.into()));
        file.password(host, 5432, "sales", "al:ice").map(|secret| secret.reveal().to_owned())
    }

    #[test]
    fn the_first_line_that_matches_gives_the_password() {
        let text = "#db:*:*:*:comment\ndb:5433:*:*:port\ndb:5432:sales:bob:user\n\
                    db:5432:*:al\\:ice:first\ndb:*:*:*:second\n*:*:*:*:any";
        assert_eq!(find(text, "db").as_deref(), Some("first"));
        assert_eq!(find(text, "other").as_deref(), Some("any"));
    }

    #[test]
    fn escapes_work_in_every_field_and_the_password_ends_at_a_bare_colon() {
        assert_eq!(find(r"\:\:1:5432:sales:al\:ice:a\:b\\c", "::1").as_deref(), Some(r"a:b\c"));
        assert_eq!(find("*:*:*:*:secret:rest", "h").as_deref(), Some("secret"));
    }

    #[test]
    fn short_lines_and_empty_passwords_match_nothing() {
        for text in ["", "db", "db:5432:sales:al\\:ice", "db:5432:sales:al\\:ice:", ":::::", "*"] {
            assert_eq!(find(text, "db"), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "[*:a\\\\é#\\n ]{0,60}", host in "[*:aé]{0,3}") {
            let _ = find(&text, &host);
        }

        #[test]
        fn any_password_survives_escaping(password in "[^\\x00\\r\\n]{1,20}") {
            let escaped = password.replace('\\', r"\\").replace(':', r"\:");
            let line = format!("*:*:*:*:{escaped}");
            prop_assert_eq!(find(&line, "h"), Some(password));
        }
    }
}
