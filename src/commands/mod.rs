//! The commands, one file each: what `main` calls, and what their outcome is as an exit code.

mod check;
mod confirm;
mod dead_letters;
mod forget;
mod list;
mod migrate;
mod plan;
mod report;
mod runs;
mod set_up;
mod status;
mod sync;

use std::ffi::OsString;
use std::io::Write;

#[cfg(test)]
pub(crate) use self::set_up::{CONNECTIONS, LONGEST_TRANSACTION, MOST_CONNECTIONS};
#[cfg(test)]
pub(crate) use self::sync::MOST_WORKERS;
use crate::cli::{self, Command, CommandName};
use crate::config::{Account, Config, ConfigFile, Environment, LogFormat, Output};
use crate::own_machine;
use crate::report::text::say;
use crate::report::{completions, log};
use crate::sync::{Ending, most_serious};
use crate::version;

/// Runs the program and gives its exit code; results go to `stdout`, messages to stderr.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &dyn Fn(&str) -> Option<OsString>,
    stdout: &mut dyn Write,
) -> i32 {
    own_machine::raise_open_files();
    own_machine::outlive_file_size_limit();
    let parsed = match cli::parse(arguments.into_iter().collect()) {
        Ok(parsed) => parsed,
        Err(exit) if exit.code == 0 => return written(stdout, &exit.text),
        Err(exit) => {
            say(exit.text.trim_end());
            return exit.code;
        }
    };
    let done = match parsed.name {
        CommandName::Version => return written(stdout, &version::lines()),
        CommandName::Completions => completion(parsed.flags.shell.as_deref(), stdout),
        _ => configured(&parsed, environment, stdout),
    };
    done.unwrap_or_else(|failure| {
        log::conclude(None, None, &failure.message);
        failure.code
    })
}

/// A command that has settings.
fn configured(
    parsed: &Command,
    variables: &dyn Fn(&str) -> Option<OsString>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let file = ConfigFile::read(parsed.flags.config.as_deref(), variables);
    let environment = Environment { variables, file: file.as_ref().ok() };
    let output = match &file {
        Ok(_) => output(parsed, environment),
        Err(error) => Err(Failure::usage(error)),
    };
    match output {
        Ok(output) => dispatch(parsed, &output, environment, stdout),
        Err(failure) => {
            // Whatever else is said now is said in the usual way.
            let _may_be_set_up_already = log::set_up(LogFormat::Text, false, None);
            sync::never_begun(&parsed.flags, environment, &failure);
            Err(failure)
        }
    }
}

/// A command failed before it had any result.
#[derive(Debug)]
pub(crate) struct Failure {
    code: i32,
    message: String,
}

impl Failure {
    /// Something is wrong with a setting.
    fn usage(message: impl ToString) -> Self {
        Self { code: 2, message: message.to_string() }
    }
}

impl From<Ending> for Failure {
    fn from(ending: Ending) -> Self {
        Self { code: ending.exit_code(), message: ending.to_string() }
    }
}

fn output(parsed: &Command, environment: Environment<'_>) -> Result<Output, Failure> {
    let output = Output::read(&parsed.flags, environment).map_err(Failure::usage)?;
    let rust_log = environment.variable("RUST_LOG");
    let rust_log = match rust_log.map(OsString::into_string) {
        Some(Ok(text)) => Some(text),
        Some(Err(_)) => {
            return Err(Failure::usage("RUST_LOG: not UTF-8; such as info or campaign_sync=debug"));
        }
        None => None,
    };
    // A flag beats the environment.
    let spec = match (parsed.flags.quiet, parsed.flags.verbose) {
        (true, 0) => Some("error"),
        (true, _) => return Err(Failure::usage("-q and -v: give one of them")),
        (false, 0) => rust_log.as_deref(),
        (false, 1) => Some("warn,campaign_sync=debug"),
        (false, _) => Some("warn,campaign_sync=trace"),
    };
    log::set_up(output.log_format, !output.no_color, spec).map_err(Failure::usage)?;
    Ok(output)
}

fn dispatch(
    parsed: &Command,
    output: &Output,
    environment: Environment<'_>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    match parsed.name {
        CommandName::Sync => sync::run(&parsed.flags, output, environment, stdout),
        CommandName::List => list::run(&parsed.flags, environment, stdout),
        CommandName::Plan => plan::run(&parsed.flags, output, environment, stdout),
        CommandName::Check => check::run(&parsed.flags, environment, stdout),
        CommandName::Migrate => migrate::run(&parsed.flags, environment, stdout),
        CommandName::Status => status::run(&parsed.flags, output, environment, stdout),
        CommandName::Retry => sync::retry(&parsed.flags, output, environment, stdout),
        CommandName::Report => report::run(&parsed.flags, environment, stdout),
        CommandName::Runs => runs::run(&parsed.flags, output, environment, stdout),
        CommandName::DeadLetters => dead_letters::run(&parsed.flags, output, environment, stdout),
        CommandName::Forget => forget::run(&parsed.flags, output, environment, stdout),
        CommandName::Rename => forget::rename(&parsed.flags, output, environment, stdout),
        CommandName::Completions | CommandName::Version => Ok(0),
    }
}

fn completion(shell: Option<&str>, stdout: &mut dyn Write) -> Result<i32, Failure> {
    let shell = shell.unwrap_or_default();
    match completions::script(shell, &cli::described()) {
        Some(script) => Ok(written(stdout, &script)),
        None => Err(Failure::usage(format!("completions {shell:?}: must be bash, zsh or fish"))),
    }
}

/// Does something for each account that can be worked on, one after the other, and says what went wrong with the others;
/// gives the most serious exit code.
fn each_account(
    config: &Config,
    mut work: impl FnMut(&Account) -> Result<i32, Failure>,
) -> Result<i32, Failure> {
    if let ([only], []) = (&config.accounts[..], &config.broken[..]) {
        return work(only);
    }
    let failed = |name: &str, failure: Failure| {
        log::conclude(Some(name), None, &failure.message);
        failure.code
    };
    let worked = config
        .accounts
        .iter()
        .map(|account| work(account).unwrap_or_else(|failure| failed(&account.name, failure)));
    let worked: Vec<i32> = worked.collect();
    let broken = config.broken.iter().map(|broken| failed(&broken.name, Failure::usage(&broken.error)));
    Ok(most_serious(worked.into_iter().chain(broken)))
}

/// Writes a result. A reader that went away early, as `head` does, has got what it wanted.
fn written(stdout: &mut dyn Write, text: &str) -> i32 {
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            log::conclude(None, None, &format!("cannot write to stdout: {error}"));
            1
        }
        _ => 0,
    }
}
