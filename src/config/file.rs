//! The config file: what flags and environment do not say, for cron, systemd and the shell alike. It holds no secret.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use toml::{Spanned, Value};

use super::setting::Given;
use super::toml_file::{Place, Unusable, read, shown};
use super::{ConfigError, value};
use crate::cli::meant;

/// The largest config file, in bytes.
pub(crate) const MOST_BYTES: usize = 64 << 10;
/// The file that counts for everybody on a machine.
const OF_THE_MACHINE: &str = "/etc/campaign-sync/config.toml";
/// Another file instead of the two default ones.
const VARIABLE: &str = "CAMPAIGN_SYNC_CONFIG";
const EXAMPLE: &str = "such as rate_limit = \"10/60s\"";

/// A key of the config file.
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// The flag that says the same, or the variable where there is no flag: what beats it.
    pub beaten_by: &'static str,
    /// An example, as TOML; for a key with a default, that.
    pub example: &'static str,
    /// What it is.
    pub about: &'static str,
}

const fn key(name: &'static str, beaten_by: &'static str, example: &'static str, about: &'static str) -> Key {
    Key { name, beaten_by, example, about }
}

/// Every key, as the sample file and the manual page show them.
pub const KEYS: [Key; 28] = [
    key("api_url", "--api-url", "\"https://ads.example.com\"", "API base address"),
    key("email", "AD_PLATFORM_EMAIL", "\"ads@example.com\"", "the account's email"),
    key(
        "password_file",
        "AD_PLATFORM_PASSWORD_FILE",
        "\"password\"",
        "a file whose only line is the password; a relative path begins at this file",
    ),
    key(
        "password_command",
        "AD_PLATFORM_PASSWORD_COMMAND",
        "\"pass show ad-platform\"",
        "a shell command that prints the password",
    ),
    key(
        "client_id",
        "--client-id",
        "\"nightly-sync\"",
        "sent as X-Client-Id; the platform keeps the rate limit by it",
    ),
    key("allow_http", "--allow-http", "false", "permit plain http to any host: credentials travel in clear"),
    key(
        "accounts",
        "--accounts",
        "\"/etc/campaign-sync/accounts.toml\"",
        "several accounts: the accounts file",
    ),
    key(
        "database_url",
        "DATABASE_URL",
        "\"postgres://sync@db.example.com/ads\"",
        "the database, without a password: that belongs in PGPASSFILE or the environment",
    ),
    key("schema", "--schema", "\"campaign_sync\"", "schema of the tables"),
    key("no_migrate", "--no-migrate", "false", "do not bring the schema up to date before a sync"),
    key("workers", "--workers", "16", "requests at once, 1 to 1024"),
    key("page_size", "--page-size", "10", "campaigns a page, 1 to 1000"),
    key(
        "rate_limit",
        "--rate-limit",
        "\"10/60s\"",
        "requests in any such time (default: learned from the platform)",
    ),
    key("timeout", "--timeout", "\"30s\"", "longest time for one request"),
    key("max_attempts", "--max-attempts", "5", "attempts at one campaign, 1 to 100"),
    key("give_up_after", "--give-up-after", "\"5m\"", "stop when nothing has succeeded for this long"),
    key("max_wait", "--max-wait", "\"15m\"", "stop when the platform asks to wait for longer"),
    key("deadline", "--deadline", "\"5h\"", "stop cleanly after this time (default: none)"),
    key(
        "max_run_age",
        "--max-run-age",
        "\"7d\"",
        "abandon an open run in which nothing has happened for this long",
    ),
    key(
        "max_removed",
        "--max-removed",
        "20",
        "most campaigns, in percent, that may be marked removed at once",
    ),
    key(
        "keep_history",
        "--keep-history",
        "\"400d\"",
        "keep what changed in campaigns for this long; \"0\": write down no changes",
    ),
    key("progress", "--progress", "\"auto\"", "progress on stderr: auto, always or never"),
    key("log_format", "--log-format", "\"text\"", "logs on stderr as text or json"),
    key("rust_log", "RUST_LOG", "\"info\"", "what is logged"),
    key(
        "metrics_file",
        "--metrics-file",
        "\"/var/lib/campaign-sync/metrics/sync.prom\"",
        "write metrics in Prometheus' text form to this file (default: none)",
    ),
    key(
        "trace_file",
        "--trace-file",
        "\"/var/log/campaign-sync/traces.jsonl\"",
        "write traces as OTLP JSON lines to this file (default: none)",
    ),
    key(
        "ssl_cert_file",
        "SSL_CERT_FILE",
        "\"/etc/ssl/certs/ca-certificates.crt\"",
        "certificates to trust for the API instead of the built-in ones",
    ),
    key(
        "proxy",
        "ALL_PROXY",
        "\"http://proxy.example.com:3128\"",
        "an http or https proxy on the way to an https API, without a password",
    ),
];

/// A value, where it stands: in which file, and at which byte.
type Found = (std::rc::Rc<Place>, usize, String);

/// The config file, or both of them: the user's beats the machine's, key by key.
#[derive(Debug, Default)]
pub struct ConfigFile {
    values: HashMap<&'static str, Found>,
}

impl ConfigFile {
    /// Reads the file that `--config` or `CAMPAIGN_SYNC_CONFIG` names, which must be there, or else the machine's and the
    /// user's, if they are there and may be read.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn read(
        named: Option<&str>,
        variables: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let mut whole = Self::default();
        let variable = || value(variables.into(), VARIABLE);
        let (source, path) = match (named, variable()) {
            (Some(path), _) => ("--config", PathBuf::from(path)),
            (None, Some(path)) => (VARIABLE, PathBuf::from(path)),
            (None, None) => {
                for path in std::iter::once(PathBuf::from(OF_THE_MACHINE)).chain(of_the_user(variables)) {
                    match read(&path, MOST_BYTES) {
                        Ok(text) => whole.add(&path, &text)?,
                        Err(Unusable::Unreadable(error)) if is_absent(&error) => {}
                        Err(unusable) => return Err(wrong(&shown(&path), &unusable)),
                    }
                }
                return Ok(whole);
            }
        };
        let name = format!("{source} \"{}\"", shown(&path));
        let text = read(&path, MOST_BYTES).map_err(|unusable| wrong(&name, &unusable))?;
        whole.add(&path, &text)?;
        Ok(whole)
    }

    /// What stands for the setting that this flag or variable gives.
    pub(super) fn given(&self, flag_or_variable: &str) -> Option<Given> {
        let (key, (place, at, text)) = self.find(flag_or_variable)?;
        Some(place.given(key, *at, text.clone()))
    }

    /// The folder of the file in which the setting stands.
    pub(super) fn folder(&self, flag_or_variable: &str) -> Option<&Path> {
        self.find(flag_or_variable).map(|(_, (place, _, _))| place.folder())
    }

    fn find(&self, flag_or_variable: &str) -> Option<(&'static str, &Found)> {
        let key = KEYS.iter().find(|key| key.beaten_by == flag_or_variable)?;
        Some((key.name, self.values.get(key.name)?))
    }

    fn add(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let place = std::rc::Rc::new(Place::new(path, text));
        let table: HashMap<Spanned<String>, Spanned<Value>> =
            toml::from_str(text).map_err(|error| place.malformed(&error, EXAMPLE))?;
        let mut table: Vec<_> = table.into_iter().collect();
        table.sort_by_key(|(name, _)| name.span().start);
        for (name, found) in table {
            let at = name.span().start;
            let Some(key) = KEYS.iter().find(|key| key.name == name.get_ref()) else {
                return Err(unknown(&place.line(at), name.get_ref()));
            };
            let text = match (found.into_inner(), key.example) {
                (Value::Boolean(on), "true" | "false") => on.to_string(),
                (Value::String(text), example) if example.starts_with('"') => text,
                (Value::Integer(number), example) if example.parse::<i64>().is_ok() => number.to_string(),
                _ => {
                    return Err(ConfigError(format!(
                        "{}: {} is of the wrong type; such as {} = {}",
                        place.line(at),
                        key.name,
                        key.name,
                        key.example
                    )));
                }
            };
            if text.is_empty() {
                return Err(ConfigError(format!(
                    "{}: {} is empty; such as {} = {}, or remove the line",
                    place.line(at),
                    key.name,
                    key.name,
                    key.example
                )));
            }
            if holds_password(key.name, &text) {
                return Err(secret(&place.line(at), key.name));
            }
            self.values.insert(key.name, (place.clone(), at, text));
        }
        Ok(())
    }
}

fn of_the_user(variables: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder =
        |name| value(variables.into(), name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let settings = folder("XDG_CONFIG_HOME").or_else(|| folder("HOME").map(|home| home.join(".config")))?;
    Some(settings.join("campaign-sync/config.toml"))
}

/// Whether a default file counts as not there: also for whoever may not look into its folder.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
    )
}

fn wrong(name: &str, unusable: &Unusable) -> ConfigError {
    ConfigError(format!("{name}: {}", unusable.cause(OF_THE_MACHINE, EXAMPLE)))
}

fn unknown(line: &str, name: &str) -> ConfigError {
    if ["password", "pgpassword", "token"].iter().any(|word| name.to_lowercase().contains(word)) {
        return secret(line, name);
    }
    let meant = meant(name, KEYS.iter().map(|key| key.name));
    let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    let known = if meant.is_empty() { format!("; there are {}", names.join(", ")) } else { meant };
    ConfigError(format!("{line}: there is no key {name:?}{known}"))
}

fn secret(line: &str, name: &str) -> ConfigError {
    ConfigError(format!(
        "{line}: {name}: a password must not stand in this file; use password_file or password_command, and PGPASSFILE for the database"
    ))
}

/// Whether an address has a password in it: before the `@` of a URL, or as a keyword of a connection string.
fn holds_password(key: &str, text: &str) -> bool {
    if !["database_url", "proxy"].contains(&key) {
        return false;
    }
    let address =
        text.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?']).next().unwrap_or(rest));
    let user = address.rsplit_once('@').map_or("", |(user, _)| user);
    user.contains(':') || text.to_lowercase().contains("password")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn file(text: &str) -> (Scratch, PathBuf) {
        let folder = Scratch::new("config");
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn parsed(text: &str) -> Result<ConfigFile, String> {
        let (_folder, path) = file(text);
        let read = ConfigFile::read(Some(path.to_str().unwrap()), &|_| None);
        read.map_err(|error| error.0.replace(path.to_str().unwrap(), "config.toml"))
    }

    #[test]
    fn the_sample_has_every_key_with_its_default_and_is_valid_without_the_signs() {
        let sample = include_str!("../units/config.toml");
        for key in &KEYS {
            let line = format!("#{} = {}\n", key.name, key.example);
            assert!(sample.contains(&line), "{line}");
        }
        let opened: String = sample
            .lines()
            .map(|line| line.strip_prefix('#').filter(|line| !line.starts_with(' ')).unwrap_or(""))
            .fold(String::new(), |text, line| text + line + "\n");
        assert_eq!(parsed(&opened).unwrap().values.len(), KEYS.len());
        assert_eq!(parsed(sample).unwrap().values.len(), 0);
    }

    #[test]
    fn errors_name_the_line_and_the_way_out() {
        for (text, said) in [
            ("\nworker = 3", "config.toml line 2: there is no key \"worker\"; did you mean workers?"),
            ("xyzzy = 3", "line 1: there is no key \"xyzzy\"; there are api_url"),
            ("workers = \"3\"", "line 1: workers is of the wrong type; such as workers = 16"),
            ("timeout = 30", "such as timeout = \"30s\""),
            ("timeout = \"\"", "timeout is empty"),
            ("[sync]\nworkers = 3", "there is no key \"sync\""),
            ("workers = 3\nworkers = 4", "line 2"),
            ("workers = ", "line 1"),
            ("\n\npassword = \"hunter2\"", "line 3: password: a password must not stand in this file"),
            ("PGPASSWORD = \"hunter2\"", "must not stand"),
            ("database_url = \"postgres://a:hunter2@b/c\"", "database_url: a password must not stand"),
            ("database_url = \"host=b password=hunter2\"", "must not stand"),
            ("proxy = \"http://a:hunter2@b:1\"", "must not stand"),
            ("timeout = \"hunter2", "line 1"),
        ] {
            let error = parsed(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
            assert!(!error.contains("hunter2") && error.lines().count() == 1, "{error}");
        }
        let (_folder, path) = file("\u{feff}workers = 3\r\n");
        assert!(ConfigFile::read(Some(path.to_str().unwrap()), &|_| None).is_ok());
        let missing = ConfigFile::read(Some("/nonexistent/config.toml"), &|_| None).unwrap_err().0;
        assert!(missing.contains("--config") && missing.contains("such as"), "{missing}");
    }

    #[test]
    fn a_file_that_others_may_change_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let (_folder, path) = file("workers = 3");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let error = ConfigFile::read(Some(path.to_str().unwrap()), &|_| None).unwrap_err().0;
        assert!(error.contains("chmod go-w"), "{error}");
    }

    #[test]
    fn the_users_file_is_found_and_a_missing_one_is_no_error() {
        let folder = Scratch::new("config-home");
        std::fs::create_dir(folder.path().join("campaign-sync")).unwrap();
        let home = |name: &str| (name == "XDG_CONFIG_HOME").then(|| folder.path().into());
        assert!(ConfigFile::read(None, &home).unwrap().given("--workers").is_none());
        std::fs::write(folder.path().join("campaign-sync/config.toml"), "workers = 3").unwrap();
        assert_eq!(ConfigFile::read(None, &home).unwrap().given("--workers").unwrap().text, "3");
        let named = |name: &str| (name == VARIABLE).then(|| "/dev/null".into()).or_else(|| home(name));
        assert!(
            ConfigFile::read(None, &named).unwrap().given("--workers").is_none(),
            "the one that is named counts alone"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_config_file_makes_it_panic_or_show_a_password(noise in "[a-z_=\"\\[\\]\n .0-9'\u{7}é]{0,40}") {
            if let Err(error) = parsed(&format!("password_command = \"echo hunter2\"\n{noise}")) {
                proptest::prop_assert!(!error.contains("hunter2"), "{}", error);
                proptest::prop_assert_eq!(error.lines().count(), 1);
                proptest::prop_assert!(!error.contains(char::is_control));
            }
        }
    }
}
