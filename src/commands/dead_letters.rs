//! `dead-letters`: failed campaigns, one by one, and their removal.

use std::io::Write;

use serde_json::json;

use super::confirm::confirm;
use super::set_up::{self, from_store};
use super::{Failure, written};
use crate::cli::Flags;
use crate::config::{Environment, Output};
use crate::report::looking_back;
use crate::report::text::visible;
use crate::store::Store;
use crate::store::dead_letters::{self, Choice};

pub(super) fn run(
    flags: &Flags,
    output: &Output,
    environment: Environment<'_>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    if flags.yes && !flags.purge {
        return Err(Failure::usage("dead-letters: --yes is for --purge"));
    }
    let choice = Choice { causes: some(&flags.cause), ids: some(&flags.id) };
    let (store, accounts) = set_up::look(flags, environment)?;
    match flags.purge {
        true => purge(flags, output, &store, &accounts, &choice, stdout),
        false => list(output, &store, &accounts, &choice, stdout),
    }
}

fn some(chosen: &[String]) -> Option<Vec<String>> {
    (!chosen.is_empty()).then(|| chosen.to_vec())
}

fn list(
    output: &Output,
    store: &Store,
    accounts: &[String],
    choice: &Choice,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let mut headed = false;
    for account in accounts {
        let mut after = String::new();
        loop {
            let page = store
                .run(|client, _| dead_letters::chosen(client, account, choice, &after))
                .map_err(from_store)?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.letter.id);
            let text = match output.json {
                true => page.iter().map(|chosen| looking_back::letter_json(account, chosen) + "\n").collect(),
                false => looking_back::letters_text(account, &page, !headed),
            };
            headed = true;
            match written(stdout, &text) {
                0 => {}
                code => return Ok(code),
            }
        }
    }
    if !headed && !output.json {
        return Ok(written(stdout, "no failed campaigns\n"));
    }
    Ok(0)
}

/// Those of the open run stay: to it, a campaign without one would be as if it had never been listed, and it would call itself
/// complete.
fn purge(
    flags: &Flags,
    output: &Output,
    store: &Store,
    accounts: &[String],
    choice: &Choice,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let mut there = 0;
    for account in accounts {
        there +=
            store.run(|client, _| dead_letters::count(client, account, choice)).map_err(from_store)?.closed;
    }
    if there > 0 {
        let of =
            if accounts.len() == 1 { "1 account".into() } else { format!("{} accounts", accounts.len()) };
        confirm(
            flags,
            &format!(
                "dead-letters --purge: removes {there} dead letter(s) of {of} and their records permanently"
            ),
        )?;
    }
    for account in accounts {
        let mut purged = 0;
        loop {
            let batch = store
                .run(|client, _| dead_letters::purge(client, account, choice))
                .map_err(from_store)?
                .ok_or_else(|| {
                    Failure::usage(format!(
                        "{}: other processes begin and end runs of it all the time: run it again",
                        visible(account)
                    ))
                })?;
            purged += batch;
            if batch < u64::from(dead_letters::BATCH) {
                break;
            }
        }
        let kept =
            store.run(|client, _| dead_letters::count(client, account, choice)).map_err(from_store)?.open;
        let text = if output.json {
            format!("{}\n", json!({ "account": account, "purged": purged, "kept": kept }))
        } else {
            let kept = match kept {
                0 => String::new(),
                kept => format!(
                    "; {kept} of the open run stay: purge them when it is closed (campaign-sync status shows it)"
                ),
            };
            format!("{}: removed {purged} dead letter(s){kept}\n", visible(account))
        };
        match written(stdout, &text) {
            0 => {}
            code => return Ok(code),
        }
    }
    Ok(0)
}
