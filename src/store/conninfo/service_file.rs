//! `PGSERVICE`: named sets of parameters in `pg_service.conf` (PostgreSQL documentation, section 34.17).

use std::path::{Path, PathBuf};

use super::ConninfoError;
use super::parameters::Settings;
use crate::settings_file;

/// The largest service file, in bytes.
pub(crate) const MOST_BYTES: usize = 1 << 20;

/// Adds the parameters of `service`, looked for in `files` in order; the first file that has it wins.
///
/// A file that `must_exist` and cannot be read is an error; any other is passed over.
pub(super) fn add_service(
    service: &str,
    files: &[(PathBuf, bool)],
    settings: &mut Settings,
) -> Result<(), ConninfoError> {
    for (path, must_exist) in files {
        let text = match settings_file::read(path, MOST_BYTES) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if *must_exist => {
                let path = path.display();
                return Err(ConninfoError::new(format!(
                    "service file {path}: {error}; correct PGSERVICEFILE"
                )));
            }
            Err(_) => continue,
        };
        if parse(&text, path, service, settings)? {
            return Ok(());
        }
    }
    let looked: Vec<_> = files.iter().map(|(path, _)| path.display().to_string()).collect();
    let (service, looked) = (service.escape_debug(), looked.join(", "));
    Err(ConninfoError::new(format!(
        "service \"{service}\" is defined nowhere; add a [{service}] to one of: {looked}"
    )))
}

/// Whether the text defines the service; its parameters are then in `settings`.
fn parse(text: &str, path: &Path, service: &str, settings: &mut Settings) -> Result<bool, ConninfoError> {
    let mut found = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if found {
                return Ok(true);
            }
            found = header.strip_prefix(service).is_some_and(|rest| rest.starts_with(']'));
            continue;
        }
        if !found {
            continue;
        }
        let source = format!("{}:{}", path.display(), number + 1);
        let Some((keyword, value)) = line.split_once('=') else {
            return Err(ConninfoError::new(format!("{source} is no key=value pair, e.g. host=localhost")));
        };
        match keyword {
            "service" | "servicefile" => {
                return Err(ConninfoError::new(format!(
                    "{source}: a service cannot name another; remove it"
                )));
            }
            _ => settings.add(keyword, value, &source)?,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "# ours\n[other]\nhost=wrong\n\n [sales]\n host=db.example\nport=6543\nhost=later\n[sales2]\nuser=no\n";

    fn read(text: &str, service: &str) -> Result<(bool, Settings), ConninfoError> {
        let mut settings = Settings::default();
        parse(text, Path::new("pg_service.conf"), service, &mut settings).map(|found| (found, settings))
    }

    #[test]
    fn a_service_gives_its_own_parameters_and_no_others() {
        let (found, settings) = read(TEXT, "sales").unwrap();
        assert!(found);
        assert_eq!(settings.get("host"), Some("db.example"));
        assert_eq!(settings.get("port"), Some("6543"));
        assert_eq!(settings.get("user"), None);
        assert!(!read(TEXT, "sale").unwrap().0);
    }

    #[test]
    fn a_fault_in_the_file_is_reported_by_line() {
        let fault = |text| read(text, "s").unwrap_err().to_string();
        assert!(fault("[s]\nhost\n").starts_with("pg_service.conf:2 is no key=value pair"));
        assert!(
            fault("[s]\nhots=x\n")
                .starts_with("pg_service.conf:2 has an unknown parameter hots; did you mean host?")
        );
        assert!(fault("[s]\nservice=x\n").contains("cannot name another"));
    }

    #[test]
    fn a_service_that_is_defined_nowhere_is_an_error_that_says_where_was_looked() {
        let files = [(PathBuf::from("/nonexistent/pg_service.conf"), false)];
        let error = add_service("sales", &files, &mut Settings::default()).unwrap_err().to_string();
        assert!(error.contains("\"sales\"") && error.contains("/nonexistent/pg_service.conf"), "{error}");
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "(\\[s\\]\n)?[ -~\\n\\[\\]=]{0,80}", service in "[s\\[\\]é]{0,3}") {
            let _ = read(&text, &service);
        }
    }
}
