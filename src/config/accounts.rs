//! The accounts file: TOML, one `[[account]]` table each.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;

use super::setting::Given;
use super::toml_file::{Place, read, shown};
use super::{ConfigError, Environment, Flags, Password, Source, password};
use crate::cli::meant;

/// Thousands of accounts fit.
pub(crate) const MOST_BYTES: usize = 4 << 20;
/// The most accounts of one process: each has some seven threads of its own, and systemd and others stop a service at some
/// thousands of them.
pub(crate) const MOST_ACCOUNTS: usize = 10_000;
const EXAMPLE: &str = "such as [[account]] name = \"north\", api_url = \"https://ads.example.com\", \
    email = \"ads@example.com\", password_env = \"NORTH_PASSWORD\"";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    account: Vec<Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: Spanned<String>,
    api_url: Option<Spanned<String>>,
    email: Option<Spanned<String>>,
    /// Refused, with an explanation; what it holds is never kept.
    password: Option<Spanned<IgnoredAny>>,
    password_env: Option<Spanned<String>>,
    password_file: Option<Spanned<String>>,
    password_command: Option<Spanned<String>>,
    client_id: Option<Spanned<String>>,
    rate_limit: Option<Spanned<String>>,
    workers: Option<Spanned<i64>>,
    page_size: Option<Spanned<i64>>,
    timeout: Option<Spanned<String>>,
    enabled: Option<bool>,
}

/// One account as the file has it.
pub(super) struct Entry {
    place: std::rc::Rc<Place>,
    /// The variables with the passwords of all accounts in the file.
    variables: Arc<[String]>,
    table: Table,
}

impl Entry {
    pub fn name(&self) -> &str {
        self.table.name.get_ref()
    }

    /// What the file says of a key, if anything.
    pub fn given(&self, key: &str) -> Option<Given> {
        let table = &self.table;
        let text = |value: &Option<Spanned<String>>| {
            value.as_ref().map(|value| (value.span().start, value.get_ref().clone()))
        };
        let number = |value: &Option<Spanned<i64>>| {
            value.as_ref().map(|value| (value.span().start, value.get_ref().to_string()))
        };
        let value = match key {
            "api_url" => text(&table.api_url),
            "email" => text(&table.email),
            "client_id" => text(&table.client_id),
            "rate_limit" => text(&table.rate_limit),
            "timeout" => text(&table.timeout),
            "workers" => number(&table.workers),
            "page_size" => number(&table.page_size),
            _ => None,
        };
        value.map(|(at, text)| self.place.given(key, at, text))
    }

    /// The password, from the one source that the file names. The name of a variable is not shown: people put the password
    /// itself there by mistake.
    pub fn password(&self, environment: Environment<'_>) -> Result<Password, ConfigError> {
        let table = &self.table;
        let mut sources: Vec<_> = [
            ("password_env", &table.password_env),
            ("password_file", &table.password_file),
            ("password_command", &table.password_command),
        ]
        .into_iter()
        .filter_map(|(key, value)| value.as_ref().map(|value| (key, value)))
        .collect();
        // In the file's order, so that a second one is the one that is named.
        sources.sort_by_key(|(_, value)| value.span().start);
        let (key, value) = match sources[..] {
            [only] => only,
            [] => {
                return Err(ConfigError(format!(
                    "{}: account {:?} has no password: add password_env = \"NORTH_PASSWORD\", password_file or password_command",
                    self.place.line(table.name.span().start),
                    self.name()
                )));
            }
            [(one, _), (other, value), ..] => {
                return Err(ConfigError(format!(
                    "{}: account {:?} has {one} and {other}; keep only one of them, such as password_env = \"NORTH_PASSWORD\"",
                    self.place.line(value.span().start),
                    self.name()
                )));
            }
        };
        let name = format!("{}: {key}", self.place.line(value.span().start));
        let known = match key {
            "password_env" => match super::value(environment, value.get_ref()) {
                Some(password) => password::text(&name, password),
                None => Err(ConfigError(format!(
                    "{name}: the variable that it names is not set; it must be a variable's name, such as NORTH_PASSWORD"
                ))),
            },
            "password_file" => {
                password::private_file(&name, self.place.folder(), value.get_ref(), environment)
            }
            _ => {
                let (line, hidden) = (value.get_ref().into(), self.variables.clone());
                return Ok(Password::Command { source: name, line, hidden });
            }
        };
        known.map(Password::Known)
    }
}

impl Entry {
    /// Where the account's credentials stand, for messages.
    pub fn credentials(&self) -> String {
        let table = &self.table;
        let given = [
            ("password_env", &table.password_env),
            ("password_file", &table.password_file),
            ("password_command", &table.password_command),
        ];
        let source = given.into_iter().find_map(|(key, value)| Some((key, value.as_ref()?.span().start)));
        let (key, at) = source.unwrap_or(("password", table.name.span().start));
        format!("email and {key} of account {:?} ({})", self.name(), self.place.line(at))
    }
}

/// The accounts to work on, or nothing without an accounts file.
///
/// The file is whole and its names are unique, whatever `--only` chooses.
pub(super) fn chosen(flags: &Flags, environment: Environment<'_>) -> Result<Option<Vec<Entry>>, ConfigError> {
    let source = Source::new("--accounts", "CAMPAIGN_SYNC_ACCOUNTS", &flags.accounts);
    let Some(given) = source.find(environment)? else { return Ok(None) };
    let wrong = |cause: String| ConfigError(format!("{}: {cause}", given.shown));
    if given.text.is_empty() {
        return Err(wrong("must be a file's path, such as /etc/campaign-sync/accounts.toml".into()));
    }
    let path = Path::new(&given.text);
    let text = read(path, MOST_BYTES)
        .map_err(|unusable| wrong(unusable.cause("/etc/campaign-sync/accounts.toml", EXAMPLE)))?;
    let entries = parse(path, &text)?;
    let known: Vec<&str> = entries.iter().map(Entry::name).collect();
    if let Some(unknown) = flags.only.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(ConfigError(format!(
            "--only {unknown:?}: no such account; {}",
            there_is(unknown, &known)
        )));
    }
    let wanted = |entry: &Entry| flags.only.is_empty() || flags.only.iter().any(|name| name == entry.name());
    let disabled = |entry: &Entry| entry.table.enabled == Some(false);
    if let Some(off) = entries.iter().find(|entry| !flags.only.is_empty() && wanted(entry) && disabled(entry))
    {
        return Err(ConfigError(format!(
            "--only {:?}: this account has enabled = false in {}; set enabled = true to use it",
            off.name(),
            shown(path)
        )));
    }
    let chosen: Vec<Entry> = entries.into_iter().filter(|entry| wanted(entry) && !disabled(entry)).collect();
    if chosen.is_empty() {
        return Err(wrong(format!("it has no enabled account; {EXAMPLE}")));
    }
    if chosen.len() > MOST_ACCOUNTS {
        return Err(wrong(format!(
            "{} accounts are more than the {MOST_ACCOUNTS} that one process works on; use several files, or --only NAME",
            chosen.len()
        )));
    }
    Ok(Some(chosen))
}

/// Whether an account may have this name.
#[must_use]
pub fn is_account_name(name: &str) -> bool {
    (1..=200).contains(&name.len()) && !name.contains(char::is_control)
}

/// So many accounts are named to who asks for one that is not there.
const NAMED: usize = 10;

/// Which accounts there are, and the one that was meant, for who asks for one that is not there.
pub(crate) fn there_is(unknown: &str, names: &[&str]) -> String {
    let mut quoted: Vec<String> = names.iter().take(NAMED).map(|name| format!("{name:?}")).collect();
    if quoted.is_empty() {
        quoted.push("none yet".into());
    }
    let more = match names.len() {
        all if all > NAMED => format!(" and {} more", all - NAMED),
        _ => String::new(),
    };
    format!("there is {}{more}{}", quoted.join(", "), meant(unknown, names.iter().copied()))
}

fn parse(path: &Path, text: &str) -> Result<Vec<Entry>, ConfigError> {
    let place = std::rc::Rc::new(Place::new(path, text));
    let file: File = toml::from_str(text).map_err(|error| place.malformed(&error, EXAMPLE))?;
    let mut lines: HashMap<String, String> = HashMap::new();
    for table in &file.account {
        let (name, at) = (table.name.get_ref(), place.line(table.name.span().start));
        if let Some(password) = &table.password {
            return Err(ConfigError(format!(
                "{}: a password must not stand in this file; name its place instead, such as password_env = \"NORTH_PASSWORD\", password_file or password_command",
                place.line(password.span().start)
            )));
        }
        if !is_account_name(name) {
            return Err(ConfigError(format!(
                "{at}: name = {name:?}: must be 1 to 200 bytes without control characters, such as \"north\""
            )));
        }
        if let Some(before) = lines.insert(name.clone(), at.clone()) {
            return Err(ConfigError(format!(
                "{at}: name = {name:?} is already used, at {before}; give each account its own, such as {:?}",
                format!("{name}-2")
            )));
        }
    }
    let variables = file.account.iter().filter_map(|table| table.password_env.as_ref());
    let variables: Arc<[String]> = variables.map(|name| name.get_ref().clone()).collect();
    let entry = |table| Entry { place: place.clone(), variables: variables.clone(), table };
    Ok(file.account.into_iter().map(entry).collect())
}
