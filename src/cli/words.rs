//! The words of a command line, made ready for the parser: `--flag=value` is two words, `-vv` is `-v -v`, `-h` is `--help`,
//! and a word that the program does not know is answered with the one that was probably meant.

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind};

/// What is wrong with a command line, and where help is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misused {
    /// What is wrong, with a way out if one is known.
    pub message: String,
    /// The command whose help tells more.
    pub command: Option<String>,
}

/// Flags that are understood before the command, too, and taken for the command's.
const EVERYWHERE: [&str; 4] = ["-q", "--quiet", "-v", "--verbose"];

/// The same words as the parser wants them.
pub(super) fn prepared(program: &CommandInfoWithArgs, given: &[String]) -> Result<Vec<String>, Misused> {
    let wrong = |message: String| Misused { message, command: None };
    let (mut early, mut rest) = (Vec::new(), given.iter());
    let name = loop {
        let Some(word) = rest.next() else { return Ok(early) };
        match spread(word)[..] {
            [ref one, ..] if EVERYWHERE.contains(&one.as_str()) => early.extend(spread(word)),
            _ if word == "-h" || word == "--help" || word == "help" => {
                // Of a command, if one is named behind it.
                let named = rest.next().filter(|name| command(program, name).is_some());
                return Ok(named.cloned().into_iter().chain(["--help".into()]).collect());
            }
            _ if word.starts_with('-') => {
                if find(program, word).is_some() {
                    return Ok(vec![word.clone()]);
                }
                let flag = word.split('=').next().unwrap_or(word);
                let owner = program.commands.iter().find(|command| find(&command.command, flag).is_some());
                return Err(wrong(match owner {
                    Some(owner) => {
                        format!("{flag} stands behind its command, as in campaign-sync {} {flag}", owner.name)
                    }
                    None => format!("there is no flag {flag:?}"),
                }));
            }
            _ => break word,
        }
    };
    let Some(command) = command(program, name) else {
        let names = program.commands.iter().map(|command| command.name);
        return Err(wrong(format!("there is no command {name:?}{}", meant(name, names))));
    };
    let mut words = vec![name.clone()];
    words.append(&mut early);
    words.extend(of_command(name, command, rest)?);
    Ok(words)
}

/// The words behind the command.
fn of_command<'a>(
    name: &str,
    command: &CommandInfoWithArgs,
    mut given: impl Iterator<Item = &'a String>,
) -> Result<Vec<String>, Misused> {
    let wrong = |message: String| Misused { message, command: Some(name.into()) };
    let mut words = Vec::new();
    while let Some(word) = given.next() {
        if word == "--" {
            words.push(word.clone());
            words.extend(given.cloned());
            break;
        }
        if ["-h", "--help", "help"].contains(&word.as_str()) {
            return Ok(vec!["--help".into()]);
        }
        if !word.starts_with('-') || word == "-" {
            words.push(word.clone());
            continue;
        }
        for part in spread(word) {
            let (flag, value) = match part.split_once('=') {
                Some((flag, value)) if part.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
                _ => (part, None),
            };
            let Some(known) = find(command, &flag) else {
                let flags = command.flags.iter().filter(|flag| !flag.hidden).map(|flag| flag.long);
                return Err(wrong(format!("{name} has no flag {flag:?}{}", meant(&flag, flags))));
            };
            words.push(flag.clone());
            match (takes_value(known), value) {
                (true, Some(value)) => words.push(value),
                // Whatever it looks like: a value may begin with a dash.
                (true, None) => match given.next() {
                    Some(value) => words.push(value.clone()),
                    None => return Err(wrong(format!("{flag} needs a value: {}", known.description))),
                },
                (false, Some(_)) => return Err(wrong(format!("{flag} takes no value"))),
                (false, None) => {}
            }
        }
    }
    Ok(words)
}

fn command<'a>(program: &'a CommandInfoWithArgs, name: &str) -> Option<&'a CommandInfoWithArgs> {
    program.commands.iter().find(|command| command.name == name).map(|command| &command.command)
}

fn find<'a>(command: &'a CommandInfoWithArgs, word: &str) -> Option<&'a FlagInfo<'static>> {
    let short = |flag: &FlagInfo<'static>| flag.short.is_some_and(|short| word == format!("-{short}"));
    command.flags.iter().find(|flag| flag.long == word || short(flag))
}

/// Whether a flag is followed by a value.
pub(crate) fn takes_value(flag: &FlagInfo<'_>) -> bool {
    matches!(flag.kind, FlagInfoKind::Option { .. })
}

/// `-vv` as `-v -v`; any other word as it is.
fn spread(word: &str) -> Vec<String> {
    match word.strip_prefix('-') {
        Some(letters) if letters.len() > 1 && letters.bytes().all(|letter| letter.is_ascii_lowercase()) => {
            letters.chars().map(|letter| format!("-{letter}")).collect()
        }
        _ => vec![word.into()],
    }
}

/// `, did you mean …?` for the name that is nearest, if one is near.
pub(crate) fn meant<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let most = (word.trim_start_matches('-').chars().count() / 3).clamp(1, 3);
    let begins = |name: &str| word.trim_start_matches('-').len() > 2 && name.starts_with(word);
    let near = |name: &'a str| {
        let distance = if begins(name) { 0 } else { edits(word, name) };
        (distance <= most).then_some((distance, name))
    };
    match names.into_iter().filter_map(near).min() {
        Some((_, name)) => format!("; did you mean {name}?"),
        None => String::new(),
    }
}

/// How many letters have to be put in, taken out, replaced or swapped with the next to make one word of the other.
fn edits(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for (i, letter) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, with) in other.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(letter != with);
            let mut least = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *letter == other[j - 1] && one[i - 1] == *with {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::described;

    fn made(words: &[&str]) -> Result<String, String> {
        let given: Vec<String> = words.iter().map(|word| (*word).into()).collect();
        prepared(&described(), &given).map(|words| words.join(" ")).map_err(|misused| misused.message)
    }

    #[test]
    fn what_fingers_type_becomes_what_the_parser_reads() {
        for (given, wanted) in [
            (&["sync", "--workers=4", "--json"][..], "sync --workers 4 --json"),
            (&["sync", "--only=a=b"], "sync --only a=b"),
            (&["sync", "--only", "--workers=4"], "sync --only --workers=4"),
            (&["sync", "--only="], "sync --only "),
            (&["-vv", "sync", "-q"], "sync -v -v -q"),
            (&["sync", "--json", "-h", "x"], "sync --help"),
            (&["help", "sync"], "sync --help"),
            (&["help"], "--help"),
            (&["-h"], "--help"),
            (&["report", "3", "--html", "-"], "report 3 --html -"),
            (&["report", "--", "--html=3"], "report -- --html=3"),
            (&["--version"], "--version"),
            (&[], ""),
        ] {
            assert_eq!(made(given).as_deref(), Ok(wanted), "{given:?}");
        }
    }

    #[test]
    fn an_unknown_word_is_answered_with_the_one_that_was_meant() {
        for (given, said) in [
            (&["snyc"][..], "there is no command \"snyc\"; did you mean sync?"),
            (&["stat"], "did you mean status?"),
            (&["sync", "--worker", "4"], "sync has no flag \"--worker\"; did you mean --workers?"),
            (&["sync", "--rate=1/1s"], "did you mean --rate-limit?"),
            (&["sync", "-x"], "sync has no flag \"-x\""),
            (&["sync", "--json=yes"], "--json takes no value"),
            (&["sync", "--workers"], "--workers needs a value"),
            (&["--json", "status"], "--json stands behind its command"),
            (&["--nonsense"], "there is no flag \"--nonsense\""),
            (&["xyzzy"], "there is no command \"xyzzy\""),
        ] {
            let error = made(given).expect_err(&format!("{given:?}"));
            assert!(error.contains(said), "{given:?}: {error}");
        }
        assert!(!made(&["xyzzy"]).unwrap_err().contains("mean"));
    }

    #[test]
    fn a_swap_is_one_edit() {
        assert_eq!(
            [("sync", "snyc"), ("", "ab"), ("abc", "abc"), ("a", "b")].map(|(a, b)| edits(a, b)),
            [1, 2, 0, 1]
        );
    }

    proptest::proptest! {
        #[test]
        fn no_words_make_it_panic(words in proptest::collection::vec("(sync|report|--[a-z-]{0,9}(=[a-z=é]{0,3})?|-[a-z]{0,3}|--|[a-zé ]{0,5})", 0..6)) {
            let program = described();
            if let Ok(made) = prepared(&program, &words) {
                // What is made is made of itself again, unless a value looks like a flag.
                proptest::prop_assert!(made.len() <= 20);
            }
        }
    }
}
