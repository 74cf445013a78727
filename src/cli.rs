//! Every command and flag; nothing is computed here. Values stay texts, so that `config` can say what is wrong with them.

mod words;

use std::ffi::OsString;

use argh::{ArgsInfo, CommandInfoWithArgs, FromArgs};

use self::words::Misused;
pub(crate) use self::words::{meant, takes_value};
use crate::version;

/// What the user asked for.
#[derive(Debug)]
pub struct Command {
    /// Which command.
    pub name: CommandName,
    /// Its flags.
    pub flags: Flags,
}

/// The commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandName {
    /// List, sync and store every campaign.
    Sync,
    /// Print campaigns as JSON lines.
    List,
    /// Say what a run would take.
    Plan,
    /// Look at runs and the queue.
    Status,
    /// Put dead letters back and work them.
    Retry,
    /// Try configuration, credentials, API and database.
    Check,
    /// Bring the schema up to date.
    Migrate,
    /// Make a page with pictures of one run and those before it.
    Report,
    /// List past runs.
    Runs,
    /// List failed campaigns, or remove them.
    DeadLetters,
    /// Remove an account's rows.
    Forget,
    /// Give an account another name.
    Rename,
    /// Print a completion script for a shell.
    Completions,
    /// Say which program this is.
    Version,
}

/// All flags of all commands; those that a command does not have stay empty.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "each is documented where it is declared, below")]
pub struct Flags {
    pub api_url: Option<String>,
    pub client_id: Option<String>,
    pub accounts: Option<String>,
    pub only: Vec<String>,
    pub account: Vec<String>,
    pub workers: Option<String>,
    pub page_size: Option<String>,
    pub rate_limit: Option<String>,
    pub timeout: Option<String>,
    pub max_attempts: Option<String>,
    pub give_up_after: Option<String>,
    pub max_wait: Option<String>,
    pub deadline: Option<String>,
    pub max_run_age: Option<String>,
    pub max_removed: Option<String>,
    pub keep_history: Option<String>,
    pub progress: Option<String>,
    pub log_format: Option<String>,
    pub metrics_file: Option<String>,
    pub trace_file: Option<String>,
    pub run: Option<String>,
    pub name: Option<String>,
    pub names: Vec<String>,
    pub limit: Option<String>,
    pub cause: Vec<String>,
    pub purge: bool,
    pub yes: bool,
    pub html: Option<String>,
    pub shell: Option<String>,
    pub schema: Option<String>,
    pub fresh: bool,
    pub no_migrate: bool,
    pub allow_http: bool,
    pub json: bool,
    pub config: Option<String>,
    pub verbose: u8,
    pub failed: bool,
    pub watch: bool,
    pub exit_code: bool,
    pub quiet: bool,
    pub distributed: bool,
    pub id: Vec<String>,
}

/// The program is over before it began: help, version, or a usage error.
#[derive(Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0 or 2.
    pub code: i32,
    /// For stdout when the code is 0, else for stderr.
    pub text: String,
}

/// Declares a command's struct from groups of flags: argh has no way to share them.
macro_rules! command {
    ($(#[$meta:meta])* $name:ident: $($group:ident)*) => {
        command!(@ [$(#[$meta])* $name] [] $($group)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] api $($rest:ident)*) => {
        command!(@ [#[argh(note = "Credentials: AD_PLATFORM_EMAIL and AD_PLATFORM_PASSWORD (or _FILE, or _COMMAND). \
            SSL_CERT_FILE: certificates to trust, in PEM form. Durations are 500ms, 30s, 5m, 1h or 7d.")] $($head)*] [$($field)*
            ["API base address, such as https://ads.example.com [AD_PLATFORM_API_URL]", (option), api_url: Option<String>]
            ["sent as X-Client-Id; the rate limit is kept by it [AD_PLATFORM_CLIENT_ID]", (option), client_id: Option<String>]
            ["campaigns a page, 1 to 1000 (default 10) [CAMPAIGN_SYNC_PAGE_SIZE]", (option), page_size: Option<String>]
            ["requests in any such time, as 10/60s (default: learned from the platform) [AD_PLATFORM_RATE_LIMIT]", (option), rate_limit: Option<String>]
            ["longest time for one request (default 30s)", (option), timeout: Option<String>]
            ["stop when nothing has succeeded for this long (default 5m)", (option), give_up_after: Option<String>]
            ["stop when the platform asks to wait for longer (default 15m)", (option), max_wait: Option<String>]
            ["permit plain http to any host: credentials travel in clear", (switch), allow_http: bool]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] database $($rest:ident)*) => {
        command!(@ [#[argh(note = "Database: DATABASE_URL, or PGHOST, PGUSER, PGPASSWORD and the like, as libpq reads them.")]
            $($head)*] [$($field)*
            ["schema of the tables (default: campaign_sync, or where an installation is found) [CAMPAIGN_SYNC_SCHEMA]", (option), schema: Option<String>]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] accounts $($rest:ident)*) => {
        command!(@ [$($head)*] [$($field)*
            ["several accounts, as a TOML file with a table [[account]] for each [CAMPAIGN_SYNC_ACCOUNTS]", (option), accounts: Option<String>]
            ["only the account of this name; may be given several times", (option), only: Vec<String>]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] past $($rest:ident)*) => {
        command!(@ [$($head)*] [$($field)*
            ["most runs to show, 1 to 10000 (default 20)", (option), limit: Option<String>]
            ["the same as --only", (option), account: Vec<String>]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] letters $($rest:ident)*) => {
        command!(@ [$($head)*] [$($field)*
            ["only dead letters of this cause; may be given several times", (option), cause: Vec<String>]
            ["remove them, with the records that they hold; those of the open run stay", (switch), purge: bool]
            ["the same as --only", (option), account: Vec<String>]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] sure $($rest:ident)*) => {
        command!(@ [$($head)*] [$($field)*
            ["do it without asking", (switch), yes: bool]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] one $($rest:ident)*) => {
        command!(@ [$($head)*] [$($field)*
            ["the account's name, as status shows it", (positional), name: Option<String>]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] names $($rest:ident)*) => {
        command!(@ [$($head)*] [$($field)*
            ["the account's name, as status shows it, and its new one, which no account may have", (positional), names: Vec<String>]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] metrics $($rest:ident)*) => {
        command!(@ [$($head)*] [$($field)*
            ["change the account's lines in this metrics file as well (default: none)", (option), metrics_file: Option<String>]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] picture $($rest:ident)*) => {
        command!(@ [$($head)*] [$($field)*
            ["the run's number, as status shows it (default: the latest; of several accounts, an overview)", (positional), run: Option<String>]
            ["the file to write, such as run.html, or - for stdout", (option), html: Option<String>]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] shell $($rest:ident)*) => {
        command!(@ [$($head)*] [$($field)*
            ["bash, zsh or fish", (positional), shell: Option<String>]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] work $($rest:ident)*) => {
        command!(@ [#[argh(error_code(0, "every listed campaign is synced"), error_code(1, "internal error"),
            error_code(2, "usage or configuration"), error_code(3, "done, but some campaigns are dead letters"),
            error_code(4, "credentials refused"), error_code(5, "stopped before the end, run again to resume"),
            error_code(130, "interrupted by SIGINT, run again to resume"),
            error_code(143, "interrupted by SIGTERM, run again to resume"))] $($head)*] [$($field)*
            ["requests at once, 1 to 1024; adapts below that (default 16) [CAMPAIGN_SYNC_WORKERS]", (option), workers: Option<String>]
            ["attempts at one campaign, 1 to 100 (default 5)", (option), max_attempts: Option<String>]
            ["stop cleanly after this time; run again to resume (default: none)", (option), deadline: Option<String>]
            ["abandon an open run in which nothing has happened for this long and begin anew (default 7d)", (option), max_run_age: Option<String>]
            ["most campaigns, in percent, that may be marked removed at once (default 20)", (option), max_removed: Option<String>]
            ["keep what changed for this long, 0: write down no changes (default 400d) [CAMPAIGN_SYNC_KEEP_HISTORY]", (option), keep_history: Option<String>]
            ["progress on stderr: auto (on a terminal), always or never (default auto)", (option), progress: Option<String>]
            ["write metrics in Prometheus' text form to this file, also on failure (default: none)", (option), metrics_file: Option<String>]
            ["write traces as OTLP JSON lines to this file (default: none)", (option), trace_file: Option<String>]
            ["do not bring the schema up to date first", (switch), no_migrate: bool]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] distributed $($rest:ident)*) => {
        command!(@ [$($head)*] [$($field)*
            ["distribute the tables over the nodes of a Citus cluster by account; may be repeated", (switch), distributed: bool]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] fresh $($rest:ident)*) => {
        command!(@ [$($head)*] [$($field)*
            ["abandon an open run of any age and begin anew", (switch), fresh: bool]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] ids $($rest:ident)*) => {
        command!(@ [$($head)*] [$($field)*
            ["only the dead letter of this campaign; may be given several times", (option), id: Vec<String>]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] looking $($rest:ident)*) => {
        command!(@ [#[argh(note = "With --exit-code: 0 when every account is complete or being synced, 3 when campaigns have failed, \
            5 when a run has stopped or there was none; with several accounts 5 before 3 before 0.")] $($head)*] [$($field)*
            ["only accounts that a person has to look at", (switch), failed: bool]
            ["show it again every 2 s until it is interrupted", (switch), watch: bool]
            ["exit with a code that tells how the accounts stand", (switch), exit_code: bool]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] json $($rest:ident)*) => {
        command!(@ [$($head)*] [$($field)*
            ["results as JSON lines, one an account, also on failure", (switch), json: bool]
        ] $($rest)*);
    };
    (@ [$($head:tt)*] [$($field:tt)*] log $($rest:ident)*) => {
        command!(@ [$($head)*] [$($field)*
            ["logs on stderr as text or json (default text); RUST_LOG sets what is logged", (option), log_format: Option<String>]
            ["log more: steps; given twice, every request", (switch, short = 'v'), verbose: u8]
            ["log errors only, and show no progress", (switch, short = 'q'), quiet: bool]
            ["settings that neither flags nor the environment give, as a TOML file (default: /etc/campaign-sync/config.toml, then ~/.config/campaign-sync/config.toml) [CAMPAIGN_SYNC_CONFIG]", (option), config: Option<String>]
        ] $($rest)*);
    };
    (@ [$(#[$meta:meta])* $name:ident] [$([$doc:tt, $kind:tt, $field:ident: $($type:tt)+])*]) => {
        #[derive(FromArgs, ArgsInfo)]
        $(#[$meta])*
        struct $name {
            $(#[doc = $doc] #[argh $kind] $field: $($type)+,)*
        }

        impl From<$name> for Flags {
            fn from(given: $name) -> Self {
                Flags { $($field: given.$field,)* ..Flags::default() }
            }
        }
    };
}

command! {
    /// List every campaign of the account, sync each with the platform and store it in Postgres. Joins or resumes the open
    /// run, if there is one: running it again is always safe.
    #[argh(subcommand, name = "sync", example = "{command_name} --api-url https://ads.example.com --rate-limit 10/60s")]
    SyncArgs: database api accounts work fresh json log
}
command! {
    /// Print every campaign that the platform lists, as it came, one JSON object a line. Needs no database.
    #[argh(subcommand, name = "list", example = "{command_name} --api-url https://ads.example.com | jq -r .name")]
    ListArgs: api accounts log
}
command! {
    /// Say what a run would take: one list request, then the number of requests, the least time under the rate limit, and
    /// when it could be done. Changes nothing, needs no database.
    #[argh(subcommand, name = "plan", example = "{command_name} --api-url https://ads.example.com --rate-limit 10/60s")]
    PlanArgs: api accounts json log
}
command! {
    /// Show each account's open or last run and who works on it, what is pending, dead letters and the last success; of several
    /// accounts the worst first, and those that are complete in a line each.
    #[argh(subcommand, name = "status", example = "{command_name} --json | jq .pending")]
    StatusArgs: database accounts looking json log
}
command! {
    /// Put dead letters back into the open run, or a new one, and work them.
    #[argh(subcommand, name = "retry", example = "{command_name} --id campaign_17")]
    RetryArgs: database ids api accounts work json log
}
command! {
    /// Try configuration, API, credentials, listing and database: a line each, non-zero when one of them fails.
    #[argh(subcommand, name = "check", example = "{command_name} --api-url https://ads.example.com")]
    CheckArgs: database api accounts log
}
command! {
    /// Bring the database's schema up to date. `sync` does it too, unless --no-migrate is given.
    #[argh(subcommand, name = "migrate", example = "{command_name}")]
    MigrateArgs: database distributed log
}
command! {
    /// Write one run and the last 30 as a page with pictures: one file that needs nothing from elsewhere. Of several accounts,
    /// without a run's number, an overview.
    #[argh(subcommand, name = "report", example = "{command_name} --html run.html")]
    ReportArgs: database picture accounts log
}
command! {
    /// List past runs, newest first: when, how long, how they ended, and their counts.
    #[argh(subcommand, name = "runs", example = "{command_name} --only north --json | jq .state")]
    RunsArgs: database accounts past json log
}
command! {
    /// List failed campaigns with cause, reason, status of the last answer, attempts and age. With --purge, remove them.
    #[argh(subcommand, name = "dead-letters", example = "{command_name} --cause gone --purge")]
    DeadLettersArgs: database accounts letters ids sure json log
}
command! {
    /// Remove all rows of an account: campaigns, their history, runs, dead letters, rate limit and token. Refused while a
    /// process works on it. Take it out of the accounts file as well, or the next sync starts it anew.
    #[argh(subcommand, name = "forget", example = "{command_name} north")]
    ForgetArgs: database one sure metrics log
}
command! {
    /// Give an account's rows another name. Refused while a process works on it, or when the new name has rows. Change the
    /// accounts file as well.
    #[argh(subcommand, name = "rename", example = "{command_name} default north")]
    RenameArgs: database names metrics log
}
command! {
    /// Print a completion script for bash, zsh or fish.
    #[argh(subcommand, name = "completions", example = "{command_name} bash > ~/.local/share/bash-completion/completions/campaign-sync")]
    CompletionsArgs: shell
}

/// Say which program this is: version, commit, target and compiler.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "version", example = "{command_name}")]
struct VersionArgs {}

/// Copies every campaign of an ad platform into Postgres: complete, exactly once in effect, resumable.
#[derive(FromArgs, ArgsInfo)]
struct TopLevel {
    /// print the version
    #[argh(switch, short = 'V')]
    version: bool,
    #[argh(subcommand)]
    command: Option<Subcommand>,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Subcommand {
    Sync(SyncArgs),
    List(ListArgs),
    Plan(PlanArgs),
    Status(StatusArgs),
    Retry(RetryArgs),
    Check(CheckArgs),
    Migrate(MigrateArgs),
    Report(ReportArgs),
    Runs(RunsArgs),
    DeadLetters(DeadLettersArgs),
    Forget(ForgetArgs),
    Rename(RenameArgs),
    Completions(CompletionsArgs),
    Version(VersionArgs),
}

/// Reads the arguments behind the program's name.
///
/// # Errors
/// [`Exit`] with help, version or what is wrong.
pub fn parse(args: Vec<OsString>) -> Result<Command, Exit> {
    let mut texts = Vec::new();
    for argument in args {
        texts.push(
            argument
                .into_string()
                .map_err(|bad| format!("the argument {:?} is not UTF-8", bad.to_string_lossy()))
                .map_err(|message| usage(&Misused { message, command: None }))?,
        );
    }
    let words = words::prepared(&described(), &texts).map_err(|misused| usage(&misused))?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let given = TopLevel::from_args(&["campaign-sync"], &words).map_err(|early| match early.status {
        Ok(()) => Exit { code: 0, text: early.output },
        Err(()) => usage(&Misused {
            message: early.output.trim().into(),
            command: words.first().filter(|word| !word.starts_with('-')).map(|word| (*word).into()),
        }),
    })?;
    if given.version {
        return Err(Exit { code: 0, text: format!("campaign-sync {}\n", version::line()) });
    }
    let (name, flags): (CommandName, Flags) = match given.command {
        Some(Subcommand::Sync(given)) => (CommandName::Sync, given.into()),
        Some(Subcommand::List(given)) => (CommandName::List, given.into()),
        Some(Subcommand::Plan(given)) => (CommandName::Plan, given.into()),
        Some(Subcommand::Status(given)) => (CommandName::Status, given.into()),
        Some(Subcommand::Retry(given)) => (CommandName::Retry, given.into()),
        Some(Subcommand::Check(given)) => (CommandName::Check, given.into()),
        Some(Subcommand::Migrate(given)) => (CommandName::Migrate, given.into()),
        Some(Subcommand::Report(given)) => (CommandName::Report, given.into()),
        Some(Subcommand::Runs(given)) => (CommandName::Runs, given.into()),
        Some(Subcommand::DeadLetters(given)) => (CommandName::DeadLetters, given.into()),
        Some(Subcommand::Forget(given)) => (CommandName::Forget, given.into()),
        Some(Subcommand::Rename(given)) => (CommandName::Rename, given.into()),
        Some(Subcommand::Completions(given)) => (CommandName::Completions, given.into()),
        Some(Subcommand::Version(VersionArgs {})) => (CommandName::Version, Flags::default()),
        None => {
            let described = described();
            let names: Vec<&str> = described.commands.iter().map(|command| command.name).collect();
            return Err(usage(&Misused {
                message: format!("a command is missing: one of {}", names.join(", ")),
                command: None,
            }));
        }
    };
    Ok(Command {
        name,
        flags: Flags { only: [flags.only, flags.account].concat(), account: Vec::new(), ..flags },
    })
}

/// Every command and flag as data: what completions are made of.
#[must_use]
pub fn described() -> CommandInfoWithArgs {
    TopLevel::get_args_info()
}

fn usage(misused: &Misused) -> Exit {
    let line: Vec<&str> = misused.message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = line.join(" ");
    let command = misused.command.as_ref().map_or_else(String::new, |command| format!(" {command}"));
    Exit {
        code: 2,
        text: format!("campaign-sync: {}; see campaign-sync{command} --help\n", line.trim_end_matches('.')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Command, Exit> {
        parse(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn flags_reach_their_command() {
        let parsed = parse_words(&["sync", "--workers", "4", "--json", "--fresh"]).unwrap();
        assert_eq!(parsed.name, CommandName::Sync);
        assert_eq!(parsed.flags.workers.as_deref(), Some("4"));
        assert!(parsed.flags.json && parsed.flags.fresh && !parsed.flags.allow_http);
        let parsed = parse_words(&["retry", "--id", "a", "--id", "b"]).unwrap();
        assert_eq!(parsed.flags.id, ["a", "b"]);
    }

    #[test]
    fn usage_errors_are_one_line_and_code_2() {
        for words in
            [&["sync", "--nonsense"][..], &["fly"], &[], &["sync", "--workers"], &["list", "--fresh"]]
        {
            let exit = parse_words(words).unwrap_err();
            assert_eq!((exit.code, exit.text.lines().count()), (2, 1), "{words:?}: {}", exit.text);
            assert!(!exit.text.contains(".;"), "{}", exit.text);
            assert_eq!(
                exit.text.contains("campaign-sync sync --help"),
                words.first() == Some(&"sync"),
                "{}",
                exit.text
            );
        }
    }

    #[test]
    fn help_and_version_are_no_errors() {
        for words in [&["--help"][..], &["-h"], &["sync", "--help"], &["--version"], &["-V"]] {
            assert_eq!(parse_words(words).unwrap_err().code, 0, "{words:?}");
        }
        assert!(parse_words(&["sync", "--help"]).unwrap_err().text.contains("AD_PLATFORM_RATE_LIMIT"));
    }
}
