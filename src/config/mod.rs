//! Flags, environment, config file and accounts file -> one validated [`Config`]. Flag beats environment beats config file
//! beats default, and what an account's table says beats them all for that account; an empty variable is unset.

mod accounts;
mod api_url;
mod duration;
mod file;
mod password;
mod proxy;
mod setting;
mod toml_file;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::accounts::Entry;
pub use self::accounts::is_account_name;
pub(crate) use self::accounts::there_is;
#[cfg(test)]
pub(crate) use self::accounts::{MOST_ACCOUNTS, MOST_BYTES as ACCOUNTS_FILE_BYTES};
#[cfg(test)]
pub(crate) use self::api_url::MOST_BYTES as ADDRESS_BYTES;
#[cfg(test)]
pub(crate) use self::file::MOST_BYTES as CONFIG_FILE_BYTES;
pub use self::file::{ConfigFile, KEYS, Key};
#[cfg(test)]
pub(crate) use self::password::MOST_BYTES as PASSWORD_BYTES;
pub use self::password::Password;
use self::setting::Source;
use crate::cli::Flags;
use crate::http::RateLimit;
use crate::http::agents::{Proxy, check_trusted_roots};
use crate::settings_file::{self, CERTIFICATES_BYTES};
use crate::store::SchemaName;

/// What stands behind the flags: the environment, passed in, so that tests need no real one, and the config file.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// Looks a variable up.
    pub variables: &'a dyn Fn(&str) -> Option<OsString>,
    /// The config file, if there is one.
    pub file: Option<&'a ConfigFile>,
}

impl<'a> From<&'a dyn Fn(&str) -> Option<OsString>> for Environment<'a> {
    fn from(variables: &'a dyn Fn(&str) -> Option<OsString>) -> Self {
        Self { variables, file: None }
    }
}

impl Environment<'_> {
    /// A variable's value, or what the config file says in its place.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<OsString> {
        let from_file = || self.file.and_then(|file| file.given(name)).map(|given| given.text.into());
        value(*self, name).or_else(from_file)
    }
}

/// Something is wrong with a setting: one line that names it, the cause, and a valid example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// When progress is shown on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// When stderr is a terminal.
    Auto,
    /// A bar on a terminal, plain lines elsewhere.
    Always,
    /// Never.
    Never,
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is shown, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// `--json`.
    pub json: bool,
    /// `--progress`.
    pub progress: Progress,
    /// `--log-format`.
    pub log_format: LogFormat,
    /// `--metrics-file`.
    pub metrics_file: Option<PathBuf>,
    /// `--trace-file`.
    pub trace_file: Option<PathBuf>,
    /// `NO_COLOR` is set.
    pub no_color: bool,
}

/// One set of credentials and how to use it.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its name; `default` when there is only one.
    pub name: String,
    /// The API's base address, without a slash at the end.
    pub api_url: String,
    /// The proxy on the way there.
    pub proxy: Option<Proxy>,
    /// For `/auth/token`.
    pub email: String,
    /// For `/auth/token`.
    pub password: Password,
    /// Where the two stand in the accounts file, for messages.
    pub credentials: Option<String>,
    /// Sent as `X-Client-Id`.
    pub client_id: Option<String>,
    /// The configured limit.
    pub rate_limit: Option<RateLimit>,
    /// Requests at once for this account, 1 to 1,024.
    pub workers: usize,
    /// Campaigns a page, 1 to 1,000.
    pub page_size: u32,
    /// The longest time for one request.
    pub timeout: Duration,
    /// Attempts at one campaign, 1 to 100.
    pub max_attempts: u32,
}

/// An account that cannot be worked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub error: ConfigError,
}

/// Everything that commands which call the platform need to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The accounts to work on: at least one, each name once.
    pub accounts: Vec<Account>,
    /// Accounts of the accounts file with a setting that is wrong: these cannot be worked on, the others can.
    pub broken: Vec<Broken>,
    /// How long nothing may succeed.
    pub give_up_after: Duration,
    /// The longest wait that the platform may ask for.
    pub max_wait: Duration,
    /// How long the command may take.
    pub deadline: Option<Duration>,
    /// An open run that is older is abandoned.
    pub max_run_age: Duration,
    /// The largest share, in percent, that may be marked as removed.
    pub max_removed: u8,
    /// How long changes of campaigns are kept; none when they are not written.
    pub keep_history: Option<Duration>,
    /// Whether an open run is abandoned on purpose.
    pub fresh: bool,
    /// Whether the schema is brought up to date.
    pub migrate: bool,
    /// PEM certificates to trust for the API instead of the built-in ones (`SSL_CERT_FILE`).
    pub trusted_roots: Option<Vec<u8>>,
}

impl Config {
    /// Reads what a command needs that calls the platform.
    ///
    /// # Errors
    /// The first setting that is wrong or missing.
    pub fn for_api(flags: &Flags, env: Environment<'_>) -> Result<Self, ConfigError> {
        let seconds = Duration::from_secs;
        let mut broken = Vec::new();
        let accounts = match accounts::chosen(flags, env)? {
            Some(entries) => {
                let mut accounts = Vec::new();
                for entry in &entries {
                    match account(flags, env, Some(entry)) {
                        Ok(account) => accounts.push(account),
                        Err(error) => broken.push(Broken { name: entry.name().to_owned(), error }),
                    }
                }
                if accounts.is_empty() {
                    return Err(broken.swap_remove(0).error);
                }
                accounts
            }
            None => {
                if let Some(unknown) = flags.only.iter().find(|name| *name != DEFAULT) {
                    return Err(ConfigError(format!(
                        "--only {unknown:?}: without --accounts FILE there is only the account {DEFAULT:?}"
                    )));
                }
                vec![account(flags, env, None)?]
            }
        };
        let optional = |flag, given| Source::new(flag, "", given).duration(env);
        let max_removed = Source::new("--max-removed", "", &flags.max_removed).number(env, 0..=100, 20)?;
        Ok(Self {
            accounts,
            broken,
            give_up_after: optional("--give-up-after", &flags.give_up_after)?.unwrap_or(seconds(300)),
            max_wait: optional("--max-wait", &flags.max_wait)?.unwrap_or(seconds(900)),
            deadline: optional("--deadline", &flags.deadline)?,
            max_run_age: optional("--max-run-age", &flags.max_run_age)?.unwrap_or(seconds(7 * 86_400)),
            max_removed: u8::try_from(max_removed).unwrap_or(20),
            keep_history: keep_history(flags, env)?,
            fresh: flags.fresh,
            migrate: !Source::is_on("--no-migrate", flags.no_migrate, env),
            trusted_roots: trusted_roots(env)?,
        })
    }

    /// The accounts that the accounts file or `--only` names, for commands that only look at the database and need no
    /// credentials; empty without both: all that the database knows.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn account_names(flags: &Flags, env: Environment<'_>) -> Result<Vec<String>, ConfigError> {
        let mut names: Vec<String> = match accounts::chosen(flags, env)? {
            Some(entries) => entries.iter().map(|entry| entry.name().to_owned()).collect(),
            None => flags.only.clone(),
        };
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Whether there is an accounts file.
    ///
    /// # Errors
    /// When its name is no text.
    pub fn has_accounts_file(flags: &Flags, env: Environment<'_>) -> Result<bool, ConfigError> {
        Ok(Source::new("--accounts", "CAMPAIGN_SYNC_ACCOUNTS", &flags.accounts).find(env)?.is_some())
    }

    /// How many runs `runs` shows.
    ///
    /// # Errors
    /// When it is no such number.
    pub fn runs_shown(flags: &Flags, env: Environment<'_>) -> Result<i64, ConfigError> {
        Source::new("--limit", "", &flags.limit).number(env, 1..=MAX_RUNS_SHOWN, 20).map(i64::from)
    }

    /// The schema of our tables, if it is set.
    ///
    /// # Errors
    /// When it can be none.
    pub fn schema(flags: &Flags, env: Environment<'_>) -> Result<Option<SchemaName>, ConfigError> {
        Source::new("--schema", "CAMPAIGN_SYNC_SCHEMA", &flags.schema).parsed(
            env,
            "a schema's name of at most 63 bytes, of letters, digits, _ and -, not beginning with pg_, such as campaign_sync",
            SchemaName::new,
        )
    }

    /// The account of a command that takes one at a time.
    ///
    /// # Errors
    /// When there are several: names them.
    pub fn one_account(&self) -> Result<&Account, ConfigError> {
        match (&self.accounts[..], &self.broken[..]) {
            ([only], []) => Ok(only),
            (several, broken) => {
                let names = several.iter().map(|account| &account.name);
                let names: Vec<_> = names
                    .chain(broken.iter().map(|broken| &broken.name))
                    .map(|name| format!("{name:?}"))
                    .collect();
                Err(ConfigError(format!(
                    "--accounts: this command takes one account at a time; choose by --only NAME one of {}",
                    names.join(", ")
                )))
            }
        }
    }
}

/// The longest email, in bytes: RFC 5321 allows 254.
pub(crate) const EMAIL_BYTES: usize = 1_000;
/// The account's name without an accounts file.
pub(crate) const DEFAULT: &str = "default";
/// The most runs that `runs` shows.
pub(crate) const MAX_RUNS_SHOWN: u32 = 10_000;

fn account(flags: &Flags, env: Environment<'_>, entry: Option<&Entry>) -> Result<Account, ConfigError> {
    let file = |key| entry.and_then(|entry| entry.given(key));
    let rate_limit = Source::new("--rate-limit", "AD_PLATFORM_RATE_LIMIT", &flags.rate_limit)
        .or_file(file("rate_limit"))
        .parsed(env, "requests in a duration, such as 10/60s", duration::rate_limit)?;
    let client_id = Source::new("--client-id", "AD_PLATFORM_CLIENT_ID", &flags.client_id)
        .or_file(file("client_id"))
        .parsed(env, "1 to 256 visible ASCII characters, such as nightly-sync", client_id)?;
    let page_size = Source::new("--page-size", "CAMPAIGN_SYNC_PAGE_SIZE", &flags.page_size)
        .or_file(file("page_size"))
        .number(env, 1..=1000, 10)?;
    let timeout = Source::new("--timeout", "", &flags.timeout).or_file(file("timeout")).duration(env)?;
    let api_url = api_url(flags, env, entry)?;
    Ok(Account {
        name: entry.map_or(DEFAULT, Entry::name).to_owned(),
        proxy: proxy::proxy(env, &api_url)?,
        api_url,
        email: email(env, entry)?,
        client_id,
        rate_limit,
        workers: workers(flags, env, entry)?,
        page_size,
        timeout: timeout.unwrap_or(Duration::from_secs(30)),
        max_attempts: Source::new("--max-attempts", "", &flags.max_attempts).number(env, 1..=100, 5)?,
        credentials: entry.map(Entry::credentials),
        password: match entry {
            Some(entry) => entry.password(env)?,
            None => password::password(env)?,
        },
    })
}

fn keep_history(flags: &Flags, env: Environment<'_>) -> Result<Option<Duration>, ConfigError> {
    let kept = Source::new("--keep-history", "CAMPAIGN_SYNC_KEEP_HISTORY", &flags.keep_history).parsed(
        env,
        "a duration such as 400d or 24h, or 0 to turn it off",
        |text| if text == "0" { Some(None) } else { duration::duration(text).map(Some) },
    )?;
    Ok(kept.unwrap_or(Some(Duration::from_secs(400 * 86_400))))
}

fn workers(flags: &Flags, env: Environment<'_>, entry: Option<&Entry>) -> Result<usize, ConfigError> {
    let number = Source::new("--workers", "CAMPAIGN_SYNC_WORKERS", &flags.workers)
        .or_file(entry.and_then(|entry| entry.given("workers")))
        .number(env, 1..=1024, 16)?;
    Ok(usize::try_from(number).unwrap_or(16))
}

fn api_url(flags: &Flags, env: Environment<'_>, entry: Option<&Entry>) -> Result<String, ConfigError> {
    let source = Source::new("--api-url", "AD_PLATFORM_API_URL", &flags.api_url)
        .or_file(entry.and_then(|entry| entry.given("api_url")));
    let Some(given) = source.find(env)? else {
        return Err(ConfigError(
            "no API address: set --api-url or AD_PLATFORM_API_URL, such as https://ads.example.com".into(),
        ));
    };
    // The address itself is shown only once it is known to hold no credentials.
    let allow_http = Source::is_on("--allow-http", flags.allow_http, env);
    api_url::checked(&given.text, allow_http).map_err(|cause| ConfigError(format!("{}: {cause}", given.name)))
}

fn email(env: Environment<'_>, entry: Option<&Entry>) -> Result<String, ConfigError> {
    let name = "AD_PLATFORM_EMAIL";
    let source = Source::new("", name, &None).or_file(entry.and_then(|entry| entry.given("email")));
    let Some(given) = source.find(env)? else {
        return Err(ConfigError(format!("no email: set {name}, such as ads@example.com")));
    };
    // Not shown: with a colon it may be an email and a password.
    let fits = (1..=EMAIL_BYTES).contains(&given.text.len());
    if !fits || given.text.contains(|c: char| c == ':' || c.is_control()) {
        return Err(ConfigError(format!(
            "{}: must be an email of at most {EMAIL_BYTES} bytes without colon and control characters, such as ads@example.com",
            given.name
        )));
    }
    Ok(given.text)
}

fn client_id(text: &str) -> Option<String> {
    let fits = (1..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.to_owned())
}

fn trusted_roots(env: Environment<'_>) -> Result<Option<Vec<u8>>, ConfigError> {
    let Some(path) = env.variable("SSL_CERT_FILE") else { return Ok(None) };
    let wrong = |cause: &dyn fmt::Display| {
        ConfigError(format!(
            "SSL_CERT_FILE={}: cannot read certificates: {cause}; such as /etc/ssl/certs/ca-certificates.crt",
            path.to_string_lossy().escape_debug()
        ))
    };
    let pem = settings_file::read(Path::new(&path), CERTIFICATES_BYTES).map_err(|error| wrong(&error))?;
    check_trusted_roots(&pem).map_err(|error| wrong(&error))?;
    Ok(Some(pem.to_vec()))
}

impl Output {
    /// Reads how results, progress and logs are shown.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn read(flags: &Flags, env: Environment<'_>) -> Result<Self, ConfigError> {
        let progress =
            Source::new("--progress", "", &flags.progress).parsed(env, "auto, always or never", |text| {
                match text {
                    "auto" => Some(Progress::Auto),
                    "always" => Some(Progress::Always),
                    "never" => Some(Progress::Never),
                    _ => None,
                }
            })?;
        let log_format = Source::new("--log-format", "", &flags.log_format).parsed(
            env,
            "text or json",
            |text| match text {
                "text" => Some(LogFormat::Text),
                "json" => Some(LogFormat::Json),
                _ => None,
            },
        )?;
        let unasked = if flags.quiet { Progress::Never } else { Progress::Auto };
        Ok(Self {
            json: flags.json,
            progress: progress.unwrap_or(unasked),
            log_format: log_format.unwrap_or(LogFormat::Text),
            metrics_file: Self::metrics_file(flags, env)?,
            trace_file: file(env, "--trace-file", &flags.trace_file, "/var/log/campaign-sync/traces.jsonl")?,
            no_color: value(env, "NO_COLOR").is_some(),
        })
    }

    /// `--metrics-file` alone, for those who tell of an error in anything else.
    ///
    /// # Errors
    /// When it can be no file.
    pub fn metrics_file(flags: &Flags, env: Environment<'_>) -> Result<Option<PathBuf>, ConfigError> {
        file(env, "--metrics-file", &flags.metrics_file, "/var/lib/node_exporter/campaign_sync.prom")
    }
}

/// A file to write to.
fn file(
    env: Environment<'_>,
    flag: &'static str,
    given: &Option<String>,
    example: &str,
) -> Result<Option<PathBuf>, ConfigError> {
    Source::new(flag, "", given).parsed(env, &format!("a file's path, such as {example}"), |text| {
        (!text.is_empty() && !text.ends_with('/') && !text.contains('\0')).then(|| PathBuf::from(text))
    })
}

/// A variable's value, unless it is empty.
fn value(environment: Environment<'_>, name: &str) -> Option<OsString> {
    if name.is_empty() {
        return None;
    }
    (environment.variables)(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod accounts_tests;
#[cfg(test)]
mod tests;
