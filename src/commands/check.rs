//! `check`: a line for each thing that has to work, whether it does or not.

use std::io::Write;
use std::time::Duration;

use super::set_up::{self, Context};
use super::{Failure, written};
use crate::calling::Caller;
use crate::cli::Flags;
use crate::config::{Account, Config, Environment};
use crate::platform::{Listed, read_record};
use crate::report::log;
use crate::report::text::visible;
use crate::store::Store;
use crate::store::schema::{self, Found, SchemaState};
use crate::sync::{Ending, most_serious};

/// How long a database is waited for.
const LONGEST: Duration = Duration::from_secs(10);
/// How long a turn under the rate limit is waited for; more than any wait of our own between two attempts (20 s).
const LONGEST_TURN: Duration = Duration::from_secs(30);

pub(super) fn run(
    flags: &Flags,
    environment: Environment<'_>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let config = Config::for_api(flags, environment).map_err(Failure::usage)?;
    let mut findings = Findings { stdout, account: None, codes: Vec::new() };
    let several = config.accounts.len() + config.broken.len() > 1;
    for account in &config.accounts {
        findings.account = several.then(|| account.name.clone());
        check_account(&config, account, &mut findings);
    }
    for broken in &config.broken {
        findings.account = Some(broken.name.clone());
        findings.failed(Failure::usage(&broken.error));
    }
    findings.account = None;
    match set_up::store(flags, environment, "default", &Context::new(), patience(LONGEST, &config)) {
        Ok(store) => match store.run(|client, _| {
            let found = schema::find(client)?;
            let lacking = match found.state {
                SchemaState::Current => schema::missing_grants(client)?,
                _ => Vec::new(),
            };
            Ok((found, lacking))
        }) {
            Ok((found, lacking)) => {
                if check_database(&found, &lacking, &mut findings) {
                    check_writes(&store, &found, &mut findings);
                }
            }
            Err(error) => findings.failed(set_up::from_store(error)),
        },
        Err(failure) => findings.failed(failure),
    }
    Ok(most_serious(findings.codes))
}

/// What was found, told at once: what works on stdout, what does not on stderr.
struct Findings<'a> {
    stdout: &'a mut dyn Write,
    account: Option<String>,
    codes: Vec<i32>,
}

impl Findings<'_> {
    fn passed(&mut self, what: &str, found: &str) {
        let prefix = self.account.as_ref().map_or_else(String::new, |name| visible(name) + ": ");
        self.codes.push(written(self.stdout, &format!("ok  {prefix}{what}: {found}\n")));
    }

    fn failed(&mut self, failure: Failure) {
        log::conclude(self.account.as_deref(), None, &failure.message);
        self.codes.push(failure.code);
    }

    fn refused(&mut self, message: String) {
        self.failed(Failure::usage(format!("database: {message}")));
    }
}

/// Each step needs the one before.
fn check_account(config: &Config, account: &Account, findings: &mut Findings<'_>) {
    let patience = patience(account.timeout, config);
    let impatient =
        Config { give_up_after: patience, max_wait: LONGEST_TURN.min(config.max_wait), ..config.clone() };
    let caller = match set_up::caller(&impatient, account, &Context::new()) {
        Ok(caller) => caller,
        Err(failure) => return findings.failed(failure),
    };
    findings.passed("configuration", &format!("{} as {}", account.api_url, account.email));
    if let Err(message) = caller.check_api() {
        let message = format!("API: {message}; is {} the platform's address, and is it up?", account.api_url);
        return findings.failed(Failure { code: 5, message });
    }
    findings.passed("API", "it answers");
    if caller.check_credentials().is_err() {
        return findings.failed(ended(&caller, "credentials"));
    }
    findings.passed("credentials", "accepted");
    check_listing(account, &caller, findings);
}

/// Fetches one page as sync does, and reads it.
fn check_listing(account: &Account, caller: &Caller, findings: &mut Findings<'_>) {
    let Ok(page) = caller.list_first_page(i32::try_from(account.page_size).unwrap_or(10)) else {
        return match caller.ending() {
            // It is told to wait: that says nothing of the page.
            Some(Ending::WaitTooLong { .. }) if caller.counts().rate_limited() > 0 => {
                findings.passed("listing", "not tried: the rate limit is used up just now");
            }
            _ => findings.failed(ended(caller, "listing")),
        };
    };
    let listed = page.records.len() + page.broken.len();
    let readable = page.records.iter().filter(|raw| matches!(read_record(raw), Listed::Valid(_))).count();
    if listed > 0 && readable == 0 {
        return findings.failed(Failure {
            code: 5,
            message: format!(
                "listing: none of the {listed} records of its first page is a campaign; is {} the platform's address?",
                account.api_url
            ),
        });
    }
    findings.passed("listing", &format!("{readable} of {listed} records of its first page are campaigns"));
}

fn ended(caller: &Caller, what: &str) -> Failure {
    match caller.ending() {
        Some(ending) => {
            let failure = Failure::from(ending);
            // What is said of credentials begins with that word.
            let message = match what {
                "credentials" => failure.message,
                _ => format!("{what}: {}", failure.message),
            };
            Failure { message, ..failure }
        }
        None => Failure { code: 5, message: format!("{what}: no answer") },
    }
}

/// A check is to answer soon, not to wait for better times.
fn patience(timeout: Duration, config: &Config) -> Duration {
    timeout.min(config.give_up_after)
}

/// What the database says of itself; true when nothing of it is wrong.
fn check_database(found: &Found, lacking: &[String], findings: &mut Findings<'_>) -> bool {
    let before = findings.codes.len();
    let (survey, schema) = (&found.survey, &found.schema);
    if let Some(message) = schema::wrong_encoding(survey) {
        findings.refused(message);
    }
    if survey.standby || survey.read_only {
        let cure = if survey.standby {
            "it is a standby: name the primary, or set target_session_attrs=read-write"
        } else {
            "see default_transaction_read_only of database, role and PGOPTIONS"
        };
        let message = format!("database: {} is read-only for role {} ({cure})", survey.database, survey.role);
        findings.failed(Failure { code: 5, message });
    }
    for hidden in survey.within(schema.as_str()).filter(|found| found.row_security) {
        findings.refused(format!(
            "row-level security hides rows of table {}.{} from role {}: ALTER TABLE … DISABLE ROW LEVEL SECURITY, or use a \
             role with BYPASSRLS",
            hidden.schema, hidden.name, survey.role
        ));
    }
    if !lacking.is_empty() {
        findings.refused(format!("the role may not do all that sync does: {}", lacking.join("; ")));
    }
    match &found.state {
        SchemaState::Foreign(message) => findings.refused(message.clone()),
        SchemaState::Behind(_) => {
            if let Some(message) = schema::may_not_create(found) {
                findings.refused(message);
            }
        }
        SchemaState::Current => {}
    }
    findings.codes.len() == before
}

/// Tries whether it takes writes and has room for some.
fn check_writes(store: &Store, found: &Found, findings: &mut Findings<'_>) {
    let writes = match store.run(|client, _| schema::try_to_write(client)) {
        Ok(true) => "takes writes",
        Ok(false) => "writes not tried: that needs the TEMPORARY privilege",
        Err(error) => return findings.failed(set_up::from_store(error)),
    };
    if let Some(note) = &found.note {
        findings.passed("database", note);
    }
    let state = match &found.state {
        SchemaState::Behind(missing) => format!(
            "{missing} migration(s) to apply: campaign-sync migrate, or sync, does it as a role that may create tables"
        ),
        _ => "up to date".into(),
    };
    findings.passed("database", &format!("reachable, {writes}, schema {}: {state}", found.schema));
}
