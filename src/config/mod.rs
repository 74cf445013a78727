//! Flags and environment -> one validated [`Config`]. Flag beats environment beats default; an empty variable is unset.

mod api_url;
mod duration;
mod password;

use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use crate::cli::Flags;
use crate::http::{RateLimit, Secret};

/// How the environment is looked up: passed in, so that tests need no real one.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// `--json`.
    pub json: bool,
    /// `--progress`.
    pub progress: Progress,
    /// `--log-format`.
    pub log_format: LogFormat,
}

/// One set of credentials and how to use it.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its name; `default` when there is only one.
    pub name: String,
    /// The API's base address, without a slash at the end.
    pub api_url: String,
    /// For `/auth/token`.
    pub email: String,
    /// For `/auth/token`.
    pub password: Secret,
    /// Sent as `X-Client-Id`.
    pub client_id: Option<String>,
    /// The configured limit.
    pub rate_limit: Option<RateLimit>,
    /// Campaigns a page, 1 to 1,000.
    pub page_size: u32,
    /// The longest time for one request.
    pub timeout: Duration,
}

/// Everything that commands which call the platform need to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The account.
    pub account: Account,
    /// Requests at once, 1 to 1,024.
    pub workers: usize,
    /// Attempts at one campaign, 1 to 100.
    pub max_attempts: u32,
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
    pub fn read(flags: &Flags, environment: Environment<'_>) -> Result<Self, ConfigError> {
        let setting = Setting { environment };
        let account = Account {
            name: "default".into(),
            api_url: setting.api_url(flags)?,
            email: setting.email()?,
            password: password::password(environment)?,
            client_id: setting.client_id(flags)?,
            rate_limit: setting.parsed(
                ("--rate-limit", "AD_PLATFORM_RATE_LIMIT", &flags.rate_limit),
                "requests in a duration, such as 10/60s",
                duration::rate_limit,
            )?,
            page_size: setting.number(
                ("--page-size", "CAMPAIGN_SYNC_PAGE_SIZE", &flags.page_size),
                1..=1000,
                10,
            )?,
            timeout: setting.duration("--timeout", &flags.timeout)?.unwrap_or(Duration::from_secs(30)),
        };
        let number = setting.number(("--workers", "CAMPAIGN_SYNC_WORKERS", &flags.workers), 1..=1024, 16)?;
        Ok(Self {
            account,
            workers: usize::try_from(number).unwrap_or(16),
            max_attempts: setting.number(("--max-attempts", "", &flags.max_attempts), 1..=100, 5)?,
            give_up_after: setting
                .duration("--give-up-after", &flags.give_up_after)?
                .unwrap_or(Duration::from_secs(300)),
            max_wait: setting.duration("--max-wait", &flags.max_wait)?.unwrap_or(Duration::from_secs(900)),
            deadline: setting.duration("--deadline", &flags.deadline)?,
            max_run_age: setting
                .duration("--max-run-age", &flags.max_run_age)?
                .unwrap_or(Duration::from_secs(86_400)),
            max_removed: u8::try_from(setting.number(
                ("--max-removed", "", &flags.max_removed),
                0..=100,
                20,
            )?)
            .unwrap_or(20),
            fresh: flags.fresh,
            migrate: !flags.no_migrate,
            trusted_roots: setting.trusted_roots()?,
        })
    }
}

impl Output {
    /// Reads how results, progress and logs are shown.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn read(flags: &Flags) -> Result<Self, ConfigError> {
        let setting = Setting { environment: &|_| None };
        let progress =
            setting.parsed(("--progress", "", &flags.progress), "auto, always or never", |text| {
                Some(match text {
                    "auto" => Progress::Auto,
                    "always" => Progress::Always,
                    "never" => Progress::Never,
                    _ => return None,
                })
            })?;
        let log_format = setting.parsed(("--log-format", "", &flags.log_format), "text or json", |text| {
            Some(match text {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return None,
            })
        })?;
        Ok(Self {
            json: flags.json,
            progress: progress.unwrap_or(Progress::Auto),
            log_format: log_format.unwrap_or(LogFormat::Text),
        })
    }
}

/// A variable's value, unless it is empty.
fn value(environment: Environment<'_>, name: &str) -> Option<OsString> {
    environment(name).filter(|value| !value.is_empty())
}

/// A setting's flag, its variable (or an empty name), and what the flag was given.
type Source<'a> = (&'static str, &'static str, &'a Option<String>);

struct Setting<'a> {
    environment: Environment<'a>,
}

impl Setting<'_> {
    /// The text of a setting, and what to call it in an error.
    fn text(&self, (flag, variable, given): Source<'_>) -> Result<Option<(String, String)>, ConfigError> {
        if let Some(text) = given {
            return Ok(Some((format!("{flag} {text:?}"), text.clone())));
        }
        if variable.is_empty() {
            return Ok(None);
        }
        let Some(value) = value(self.environment, variable) else { return Ok(None) };
        let text = value.into_string().map_err(|_| ConfigError(format!("{variable} ({flag}): not UTF-8")))?;
        Ok(Some((format!("{variable}={text:?} ({flag})"), text)))
    }

    fn parsed<T>(
        &self,
        source: Source<'_>,
        valid: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some((name, text)) = self.text(source)? else { return Ok(None) };
        parse(&text).map(Some).ok_or_else(|| ConfigError(format!("{name}: must be {valid}")))
    }

    fn duration(&self, flag: &'static str, given: &Option<String>) -> Result<Option<Duration>, ConfigError> {
        self.parsed((flag, "", given), "a duration such as 500ms, 30s, 5m or 1h", duration::duration)
    }

    fn number(
        &self,
        source: Source<'_>,
        range: std::ops::RangeInclusive<u32>,
        default: u32,
    ) -> Result<u32, ConfigError> {
        let valid = format!("a whole number from {} to {}, such as {default}", range.start(), range.end());
        let parse = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        Ok(self.parsed(source, &valid, parse)?.unwrap_or(default))
    }

    fn api_url(&self, flags: &Flags) -> Result<String, ConfigError> {
        let given = self.text(("--api-url", "AD_PLATFORM_API_URL", &flags.api_url))?;
        let Some((_, text)) = given else {
            return Err(ConfigError(
                "no API address: set --api-url or AD_PLATFORM_API_URL, such as https://ads.example.com"
                    .into(),
            ));
        };
        let name = if flags.api_url.is_some() { "--api-url" } else { "AD_PLATFORM_API_URL (--api-url)" };
        // The address itself is shown only once it is known to hold no credentials.
        api_url::checked(&text, flags.allow_http).map_err(|cause| ConfigError(format!("{name}: {cause}")))
    }

    fn email(&self) -> Result<String, ConfigError> {
        let name = "AD_PLATFORM_EMAIL";
        let Some(value) = value(self.environment, name) else {
            return Err(ConfigError(format!("no email: set {name}, such as ads@example.com")));
        };
        let email = value.into_string().map_err(|_| ConfigError(format!("{name}: not UTF-8")))?;
        if email.contains(|c: char| c == ':' || c.is_control()) {
            return Err(ConfigError(format!(
                "{name}: must have no colon and no control character, such as ads@example.com"
            )));
        }
        Ok(email)
    }

    fn client_id(&self, flags: &Flags) -> Result<Option<String>, ConfigError> {
        self.parsed(
            ("--client-id", "AD_PLATFORM_CLIENT_ID", &flags.client_id),
            "1 to 256 visible ASCII characters, such as nightly-sync",
            |text| {
                let fits =
                    (1..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
                fits.then(|| text.to_owned())
            },
        )
    }

    fn trusted_roots(&self) -> Result<Option<Vec<u8>>, ConfigError> {
        let Some(path) = value(self.environment, "SSL_CERT_FILE") else { return Ok(None) };
        let read = std::fs::read(&path);
        read.map(Some).map_err(|error| {
            ConfigError(format!(
                "SSL_CERT_FILE={}: cannot read certificates: {error}",
                path.to_string_lossy()
            ))
        })
    }
}

#[cfg(test)]
mod tests;
