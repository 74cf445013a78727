//! Whether the user is sure of what cannot be undone.

use std::io::{IsTerminal, Write as _, stderr, stdin};

use super::Failure;
use crate::cli::Flags;

/// Asks on a terminal, unless `--yes` is given; `what` says what will be done.
pub(super) fn confirm(flags: &Flags, what: &str) -> Result<(), Failure> {
    if flags.yes {
        return Ok(());
    }
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return Err(Failure::usage(format!("{what}; nothing was changed: add --yes to do it")));
    }
    let _nobody_reads = write!(stderr().lock(), "{what}. Go ahead? [y/N] ");
    let mut answer = String::new();
    match stdin().read_line(&mut answer) {
        Ok(_) if is_yes(&answer) => Ok(()),
        _ => Err(Failure::usage("nothing was changed")),
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::is_yes;

    #[test]
    fn only_a_clear_yes_is_one() {
        assert!(["y\n", "Y\n", " yes\r\n"].into_iter().all(is_yes));
        assert!(!["", "\n", "n\n", "yesterday\n", "ok\n"].into_iter().any(is_yes));
    }
}
