//! Completion scripts for bash, zsh and fish, made from the same declarations as `--help`.

use std::fmt::Write as _;

use argh::{CommandInfoWithArgs, FlagInfo};

use crate::cli::takes_value;

/// The script for a shell; nothing when it is none of bash, zsh and fish.
#[must_use]
pub fn script(shell: &str, program: &CommandInfoWithArgs) -> Option<String> {
    match shell {
        "bash" => Some(bash(program)),
        "zsh" => Some(zsh(program)),
        "fish" => Some(fish(program)),
        _ => None,
    }
}

/// What may follow a flag or stand alone.
enum Value {
    File,
    OneOf(&'static [&'static str]),
    Free,
}

/// By the flag's or argument's name: argh's declarations say only that there is a value.
fn value(name: &str) -> Value {
    match name.trim_start_matches('-') {
        "accounts" | "metrics-file" | "trace-file" | "html" => Value::File,
        "progress" => Value::OneOf(&["auto", "always", "never"]),
        "log-format" => Value::OneOf(&["text", "json"]),
        "shell" => Value::OneOf(&["bash", "zsh", "fish"]),
        _ => Value::Free,
    }
}

/// Flags that are shown, `--help` among them.
fn flags(command: &CommandInfoWithArgs) -> impl Iterator<Item = &FlagInfo<'_>> {
    command.flags.iter().filter(|flag| !flag.hidden)
}

fn words(command: &CommandInfoWithArgs) -> String {
    let mut words: Vec<&str> = flags(command).map(|flag| flag.long).collect();
    for positional in command.positionals {
        if let Value::OneOf(choices) = value(positional.name) {
            words.extend(choices);
        }
    }
    words.join(" ")
}

fn bash(program: &CommandInfoWithArgs) -> String {
    let commands: Vec<&str> = program.commands.iter().map(|command| command.name).collect();
    let mut files = Vec::new();
    let mut frees = Vec::new();
    let mut cases = String::new();
    let mut seen = Vec::new();
    for flag in program.commands.iter().flat_map(|command| flags(&command.command)) {
        if !takes_value(flag) || seen.contains(&flag.long) {
            continue;
        }
        seen.push(flag.long);
        match value(flag.long) {
            Value::File => files.push(flag.long),
            Value::Free => frees.push(flag.long),
            Value::OneOf(choices) => {
                let _infallible = writeln!(
                    cases,
                    "        {}) COMPREPLY=($(compgen -W '{}' -- \"$word\")); return ;;",
                    flag.long,
                    choices.join(" ")
                );
            }
        }
    }
    let mut script = format!(
        "# bash completion for campaign-sync\n_campaign_sync() {{\n    \
         local word=\"${{COMP_WORDS[COMP_CWORD]}}\" before=\"${{COMP_WORDS[COMP_CWORD-1]}}\"\n    \
         COMPREPLY=()\n    if ((COMP_CWORD == 1)); then\n        \
         COMPREPLY=($(compgen -W '{} {}' -- \"$word\")); return\n    fi\n    case \"$before\" in\n{cases}        \
         {}) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n        {}) return ;;\n    esac\n    \
         case \"${{COMP_WORDS[1]}}\" in\n",
        commands.join(" "),
        words(program),
        files.join("|"),
        frees.join("|"),
    );
    for command in &program.commands {
        let _infallible = writeln!(
            script,
            "        {}) COMPREPLY=($(compgen -W '{}' -- \"$word\")) ;;",
            command.name,
            words(&command.command)
        );
    }
    script + "    esac\n}\ncomplete -o filenames -F _campaign_sync campaign-sync\n"
}

/// For zsh within single quotes and `_arguments`' brackets.
fn zsh_text(text: &str) -> String {
    let mut quoted = String::new();
    for c in one_line(text).chars() {
        match c {
            '\'' => quoted.push_str("'\\''"),
            '[' | ']' | ':' | '\\' => quoted.extend(['\\', c]),
            _ => quoted.push(c),
        }
    }
    quoted
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn zsh_value(name: &str) -> String {
    match value(name) {
        Value::File => ":file:_files".into(),
        Value::OneOf(choices) => format!(":value:({})", choices.join(" ")),
        Value::Free => ":value: ".into(),
    }
}

fn zsh_flag(flag: &FlagInfo) -> String {
    let after = if takes_value(flag) { zsh_value(flag.long) } else { String::new() };
    let repeats = if flag.optionality == argh::Optionality::Repeating { "*" } else { "" };
    format!("'{repeats}{}[{}]{after}'", flag.long, zsh_text(flag.description))
}

fn zsh(program: &CommandInfoWithArgs) -> String {
    let mut script = String::from(
        "#compdef campaign-sync\n_campaign_sync() {\n    local -a commands\n    if ((CURRENT == 2)); then\n        commands=(\n",
    );
    for command in &program.commands {
        let about = zsh_text(command.command.description);
        let _infallible = writeln!(script, "            '{}:{about}'", command.name);
    }
    script.push_str("        )\n        _describe command commands\n        _arguments");
    for flag in flags(program) {
        let _infallible = write!(script, " {}", zsh_flag(flag));
    }
    script.push_str("\n        return\n    fi\n    local command=\"$words[2]\"\n    shift words\n    ((CURRENT--))\n    case \"$command\" in\n");
    for command in &program.commands {
        let mut arguments: Vec<String> = flags(&command.command).map(zsh_flag).collect();
        for positional in command.command.positionals {
            arguments.push(format!("'1{}'", zsh_value(positional.name)));
        }
        let _infallible = writeln!(script, "        {}) _arguments {} ;;", command.name, arguments.join(" "));
    }
    script + "    esac\n}\ncompdef _campaign_sync campaign-sync\n"
}

/// For fish within single quotes.
fn fish_text(text: &str) -> String {
    one_line(text).replace('\\', "\\\\").replace('\'', "\\'")
}

fn fish_value(name: &str) -> String {
    match value(name) {
        Value::File => " -r -F".into(),
        Value::OneOf(choices) => format!(" -x -a '{}'", choices.join(" ")),
        Value::Free => " -x".into(),
    }
}

fn fish_flag(condition: &str, flag: &FlagInfo) -> String {
    let after = if takes_value(flag) { fish_value(flag.long) } else { String::new() };
    let short = flag.short.map_or(String::new(), |short| format!(" -s {short}"));
    format!(
        "complete -c campaign-sync -n '{condition}' -l {}{short}{after} -d '{}'\n",
        flag.long.trim_start_matches('-'),
        fish_text(flag.description)
    )
}

fn fish(program: &CommandInfoWithArgs) -> String {
    let mut script = String::from("# fish completion for campaign-sync\ncomplete -c campaign-sync -f\n");
    for flag in flags(program) {
        script.push_str(&fish_flag("__fish_use_subcommand", flag));
    }
    for command in &program.commands {
        let about = fish_text(command.command.description);
        let _infallible = writeln!(
            script,
            "complete -c campaign-sync -n __fish_use_subcommand -a {} -d '{about}'",
            command.name
        );
        let condition = format!("__fish_seen_subcommand_from {}", command.name);
        for flag in flags(&command.command) {
            script.push_str(&fish_flag(&condition, flag));
        }
        for positional in command.command.positionals {
            if let Value::OneOf(choices) = value(positional.name) {
                let _infallible =
                    writeln!(script, "complete -c campaign-sync -n '{condition}' -a '{}'", choices.join(" "));
            }
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::cli::described;

    #[test]
    fn every_command_and_flag_is_in_every_script() {
        let program = described();
        for shell in ["bash", "zsh", "fish"] {
            let script = script(shell, &program).unwrap();
            for command in &program.commands {
                assert!(script.contains(command.name), "{shell}: {}", command.name);
                for flag in command.command.flags {
                    assert!(script.contains(flag.long.trim_start_matches('-')), "{shell}: {}", flag.long);
                }
            }
            assert!(program.commands.len() >= 9 && script.contains("progress"));
        }
        assert_eq!(script("tcsh", &program), None);
    }

    #[test]
    fn bash_offers_what_fits_where_the_cursor_is() {
        let script = script("bash", &described()).unwrap();
        for (typed, offered) in [
            ("campaign-sync pl", "plan"),
            ("campaign-sync sync --max-at", "--max-attempts"),
            ("campaign-sync sync --progress al", "always"),
            ("campaign-sync completions z", "zsh"),
        ] {
            let words: Vec<&str> = typed.split(' ').collect();
            let last = words.len() - 1;
            let trial = format!(
                "{script}\nCOMP_WORDS=({typed}); COMP_CWORD={last}; _campaign_sync; echo \"${{COMPREPLY[*]}}\"\n"
            );
            let mut bash = Command::new("bash")
                .arg("-s")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("bash");
            bash.stdin.take().unwrap().write_all(trial.as_bytes()).unwrap();
            let output = bash.wait_with_output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), offered, "{typed}");
        }
    }
}
