//! The manual page, made from the same declarations as `--help`.

use std::fmt::Write as _;

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality};

use crate::config::KEYS;
use crate::version::VERSION;

/// Settings that no flag has: a password on a command line is there for everybody to see.
const ENVIRONMENT: [(&str, &str); 11] = [
    ("AD_PLATFORM_EMAIL", "The account's email."),
    ("AD_PLATFORM_PASSWORD", "Its password; or one of the next three instead."),
    ("AD_PLATFORM_PASSWORD_FILE", "A file whose only line is the password."),
    (
        "AD_PLATFORM_PASSWORD_COMMAND",
        "A shell command that prints the password, such as 'pass show ad-platform'.",
    ),
    ("CREDENTIALS_DIRECTORY", "Where systemd puts the credential ad_platform_password."),
    (
        "DATABASE_URL",
        "The database, as postgres://user@host:5432/name; with ?sslmode=verify-full and the like behind it.",
    ),
    (
        "PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, PGSERVICE, PGPASSFILE, PGSSLMODE, PGSSLROOTCERT, …",
        "Without DATABASE_URL: as libpq reads them.",
    ),
    ("SSL_CERT_FILE", "Certificates, in PEM form, to trust for the API instead of the built-in ones."),
    (
        "ALL_PROXY, HTTPS_PROXY, HTTP_PROXY",
        "An http or https proxy on the way to an https API; the first that is set. Plain http uses none.",
    ),
    ("NO_PROXY", "Hosts that are asked without a proxy, with commas between them."),
    ("RUST_LOG, NO_COLOR", "What is logged (info, or campaign_sync=debug), and no colours."),
];

const EXIT_STATUS: [(&str, &str); 8] = [
    ("0", "Every listed campaign is synced."),
    ("1", "Internal error."),
    ("2", "Usage or configuration; also what the database refuses until a person permits it."),
    ("3", "Done, but some campaigns are dead letters: see campaign-sync status."),
    ("4", "The platform refuses the credentials."),
    ("5", "Stopped before the end, run again to resume: API or database unavailable, quota, deadline."),
    ("130", "Interrupted by SIGINT, resumable."),
    ("143", "Interrupted by SIGTERM, resumable."),
];

/// The whole page, as man(7) source.
#[must_use]
pub fn page(program: &CommandInfoWithArgs) -> String {
    let mut page =
        format!(".TH CAMPAIGN\\-SYNC 1 \"\" \"campaign\\-sync {VERSION}\" \"User Commands\"\n.nh\n.ad l\n");
    section(&mut page, "NAME");
    line(&mut page, "campaign-sync - copy every campaign of an ad platform into Postgres");
    section(&mut page, "SYNOPSIS");
    page.push_str(".B campaign\\-sync\n.I command\n.RI [ options ]\n");
    section(&mut page, "DESCRIPTION");
    line(&mut page, program.description);
    page.push_str(".PP\n");
    line(
        &mut page,
        "Results go to stdout, logs and progress to stderr. A flag beats the environment, which beats the config file, which beats the default; an empty variable is unset. Durations are 500ms, 30s, 5m, 1h.",
    );
    section(&mut page, "COMMANDS");
    for command in &program.commands {
        describe(&mut page, command.name, &command.command);
    }
    section(&mut page, "ENVIRONMENT");
    line(&mut page, "Variables that flags have too are named with the flags, in brackets.");
    table(&mut page, &ENVIRONMENT);
    section(&mut page, "CONFIG FILE");
    line(
        &mut page,
        "TOML, one key a line, each named with its default or an example, and with what beats it. The files are /etc/campaign-sync/config.toml and then, key by key, ~/.config/campaign-sync/config.toml (or below $XDG_CONFIG_HOME); --config or CAMPAIGN_SYNC_CONFIG names another one instead of both, and /dev/null none. A password in it is refused.",
    );
    for key in &KEYS {
        let example = format!("{} = {}", key.name, key.example);
        let about = format!("{}. [{}]", key.about, key.beaten_by);
        let _infallible = writeln!(page, ".TP\n.B {}\n{}", escaped(&example), escaped(&about));
    }
    section(&mut page, "EXIT STATUS");
    table(&mut page, &EXIT_STATUS);
    line(&mut page, "With several accounts, the most serious: 130 or 143, then 1, 2, 4, 5, 3, 0.");
    section(&mut page, "SEE ALSO");
    page.push_str(".BR psql (1),\n.BR systemd.timer (5),\n.BR crontab (5)\n");
    page
}

fn section(page: &mut String, name: &str) {
    let _infallible = writeln!(page, ".SH {name}");
}

/// Text as roff takes it: no line of it is a request, no character an escape.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.split_whitespace().collect::<Vec<_>>().join(" ").chars() {
        match c {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '…' => escaped.push_str("..."),
            _ => escaped.push(c),
        }
    }
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

fn line(page: &mut String, text: &str) {
    let _infallible = writeln!(page, "{}", escaped(text));
}

fn table(page: &mut String, rows: &[(&str, &str)]) {
    for (name, meaning) in rows {
        let _infallible = writeln!(page, ".TP\n.B {}\n{}", escaped(name), escaped(meaning));
    }
    page.push_str(".PP\n");
}

fn describe(page: &mut String, name: &str, command: &CommandInfoWithArgs) {
    let mut synopsis = format!("campaign-sync {name} [options]");
    for positional in command.positionals {
        let _infallible = match positional.optionality {
            Optionality::Required => write!(synopsis, " {}", positional.name),
            _ => write!(synopsis, " [{}]", positional.name),
        };
    }
    let _infallible = writeln!(page, ".SS {}", escaped(&synopsis));
    line(page, command.description);
    for positional in command.positionals {
        let _infallible =
            writeln!(page, ".TP\n.I {}\n{}", escaped(positional.name), escaped(positional.description));
    }
    for flag in command.flags.iter().filter(|flag| !flag.hidden && flag.long != "--help") {
        let _infallible = writeln!(page, ".TP\n{}\n{}", heading(flag), escaped(flag.description));
    }
    for note in command.notes {
        page.push_str(".PP\n");
        line(page, note);
    }
    for example in command.examples {
        let example = example.replace("{command_name}", &format!("campaign-sync {name}"));
        let _infallible = writeln!(page, ".PP\nExample:\n.PP\n.nf\n.RS\n{}\n.RE\n.fi", escaped(&example));
    }
}

fn heading(flag: &FlagInfo<'_>) -> String {
    let short = flag.short.map_or(String::new(), |short| format!("\\-{short}, "));
    match flag.kind {
        FlagInfoKind::Option { arg_name } => {
            format!(".BI {short}\"{} \" {}", escaped(flag.long), escaped(arg_name))
        }
        FlagInfoKind::Switch => format!(".B {short}{}", escaped(flag.long)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::described;

    #[test]
    fn every_command_flag_and_exit_code_is_on_the_page() {
        let program = described();
        let page = page(&program);
        for command in &program.commands {
            assert!(page.contains(&format!("campaign\\-sync {}", escaped(command.name))), "{}", command.name);
            for flag in command.command.flags {
                assert!(page.contains(&escaped(flag.long)) || flag.long == "--help", "{}", flag.long);
            }
            for code in command.command.error_codes {
                assert!(page.contains(&format!(".B {}\n", code.code)), "{}", code.code);
            }
        }
    }

    #[test]
    fn no_text_becomes_a_request_or_an_escape() {
        assert_eq!(escaped(".so /etc/passwd"), "\\&.so /etc/passwd");
        assert_eq!(escaped("a\\fB\n-b"), "a\\efB \\-b");
    }
}
