//! What an attacker can and cannot do, by what he controls. Behind each line stands the test that shows it; a test of this
//! module sees to it that the test is there.
//!
//! What is worth protecting: the platform's password and token, the database's password, the rows, and the machine. Trusted:
//! the user who runs the program and root, the kernel, this program's crates (pinned by checksum).
//!
//! # Who controls the platform's API, or takes its place
//!
//! He *can* invent, change and withhold campaigns, fail or refuse every request, and so fill the database with what he likes
//! (`--deadline`, the database's own quotas and [`limits`](crate::limits) are what bounds it). He *cannot*
//!
//! | | shown by |
//! |---|---|
//! | send our credentials on to another host: redirects are never followed | `a_redirect_to_another_host_is_never_followed` |
//! | have them shown by repeating them in a message (in another form he can: he knows them) | `a_platform_that_repeats_our_credentials_is_not_repeated` |
//! | fill the memory by endless bodies … | `a_body_of_gigabytes_takes_neither_memory_nor_the_run` |
//! | … compressed bombs or endless headers, or hold a request up by sending a byte at a time | `bombs_endless_headers_and_slow_drips_take_neither_memory_nor_the_run` |
//! | … by pages of the largest size, for many accounts at once | `pages_of_29_megabytes_take_a_few_times_their_size_for_one_account_or_five` |
//! | … or millions of small records | `a_page_of_millions_of_records_is_refused_before_it_fills_the_memory` |
//! | break the parser by deep nesting, odd numbers, lone surrogates or U+0000 | `a_record_that_cannot_be_stored_is_kept_with_the_field_that_is_wrong` |
//! | add a header, a path or a request by an id | `no_id_adds_a_header_a_path_or_a_request` |
//! | command a terminal, a log, a browser or a collector by names and messages | `nothing_that_the_platform_says_commands_a_terminal_a_browser_or_a_log` |
//! | spoil later runs by a token that cannot be sent | `a_token_that_no_header_can_hold_is_not_kept_for_later_runs` |
//! | break the arithmetic by a number of campaigns | `a_total_beyond_all_reason_is_no_total_and_breaks_nothing` |
//! | keep the account from its work for long by one word about waits | `one_senseless_word_about_waits_ends_no_run_and_closes_nothing_for_long` |
//! | have an answer that he sent ahead counted for the next request | `an_answer_that_was_there_before_the_request_is_not_taken_for_its_answer` |
//! | keep a run from ending by refusing everything … | `a_platform_that_refuses_everything_is_given_up` |
//! | … or by a listing that goes round in circles | `a_listing_without_an_end_stops_with_a_message_and_keeps_what_it_has` |
//! | have rows marked as removed beyond `--max-removed` | `too_many_at_once_are_refused_with_a_warning_unless_allowed` |
//!
//! # Who controls the network
//!
//! He *can* cut, delay and watch who talks to whom. With `sslmode` below `verify-ca` he can take the database's place and get
//! its password, as with libpq; with `--allow-http`, the platform's. He *cannot*
//!
//! | | shown by |
//! |---|---|
//! | show a certificate of an unknown or his own authority, for another name … | `a_certificate_for_another_name_is_refused` |
//! | … or out of date, and hear the credentials | `a_certificate_that_has_expired_is_refused` |
//! | … or one that he has signed himself | `an_authority_that_nobody_knows_is_refused_and_the_variable_that_names_it_told` |
//! | bring TLS down to a version before 1.2 | `no_older_tls_is_spoken_than_1_2` |
//! | have plain http used unnoticed: it is refused beyond this machine … | `plain_http_to_another_machine_needs_to_be_permitted` |
//! | … and goes through no proxy | `what_is_not_encrypted_passes_no_proxy` |
//! | take the database's place under `verify-full`: by another name … | `verify_full_refuses_another_name_and_says_so` |
//! | … by a certificate of his own … | `a_self_signed_certificate_needs_to_be_trusted_itself` |
//! | … or an old one | `an_expired_certificate_is_refused_when_verified` |
//! | strip TLS from the database's connection where it is required | `whoever_strips_tls_hears_neither_name_nor_password` |
//! | ask for the password itself where `channel_binding=require` | `a_server_that_asks_for_the_password_itself_gets_it_only_where_libpq_would_give_it` |
//! | lose, double or mix up campaigns by breaking connections | `a_result_whose_commit_nobody_heard_of_is_counted_once` |
//!
//! # Who controls the database
//!
//! He *can* read, change and delete all rows, stop every run, and write tasks by which the platform is asked to sync campaigns
//! of his choice, under the rate limit. With the rows he has the sealed token, at which he may guess passwords (100,000
//! rounds of PBKDF2 each). He *cannot*
//!
//! | | shown by |
//! |---|---|
//! | read the platform's password or token | `whoever_reads_the_database_gets_no_credentials` |
//! | have a token of his choice sent | `a_token_that_somebody_else_has_put_there_is_not_used` |
//! | have one campaign asked for under the name of another | `a_task_that_somebody_else_has_written_is_asked_for_by_its_own_id_or_not_at_all` |
//! | command a terminal or a browser by what he writes, or end a command by nonsense in a row | `rows_that_somebody_else_has_written_are_obeyed_by_nobody` |
//! | have the program ask without a pause | `a_quota_that_permits_nothing_and_tells_no_time_is_not_asked_for_without_a_pause` |
//! | end it by nonsense on the wire | `no_server_that_speaks_nonsense_takes_the_program_down` |
//! | as a role that may only create objects: have code run as the role that migrates or syncs | `nothing_that_another_role_has_made_runs_as_whoever_migrates` |
//! | as such a role: put a table in the place of ours | `a_table_that_another_role_puts_in_the_place_of_ours_is_not_trusted` |
//! | hold it for ever by not answering … | `a_database_that_takes_a_question_and_never_answers_is_noticed` |
//! | … or keep it from heeding a signal or the deadline | `a_server_that_is_suspended_is_left` |
//! | fill the memory by long messages, rows without an end, notices or notifications | `a_server_that_floods_the_connection_is_left` |
//!
//! What the driver does not allow: a connection over a Unix socket has no stream of ours, so its server (on the same machine)
//! can send as much as it likes, and one that does not even cancel is left only with the end of the process. What a single
//! answer may take is bounded, not what is true of it.
//!
//! Names are not his way in: every statement is a constant, save for the schema's checked name, and every value a parameter (`names_are_data_wherever_they_go`,
//! `no_statement_is_put_together_from_texts`). The role needs few rights
//! (`the_documented_grants_are_enough_to_sync_retry_and_look`).
//!
//! # Other users of the machine
//!
//! They *can* see that the program runs, its flags, and the metrics and pages that it writes (mode 0644: they hold names and
//! counts). They *cannot*
//!
//! | | shown by |
//! |---|---|
//! | read a password in its command line or environment, or those of a child: the only one is the password command's shell | `no_child_is_started_but_the_password_command_and_it_is_not_told_the_password` |
//! | … or have it shown because it stands where its file's name should | `a_password_in_the_place_of_its_files_name_is_not_shown` |
//! | get other secrets from what a password command shows or starts: it is told none | `a_password_command_is_told_no_other_secret` |
//! | read it in messages, logs … | `a_wrong_password_is_tried_once_and_its_variable_is_named` |
//! | … or traces (mode 0600) | `files_have_the_documented_modes_whatever_the_umask` |
//! | … by a trace file that they have put there and may read | `a_trace_file_that_belongs_to_somebody_else_gets_no_span` |
//! | have files of ours overwritten by links in a shared folder | `a_link_that_somebody_else_has_put_there_is_not_followed` |
//! | put other accounts into the accounts file | `an_accounts_file_that_others_may_change_is_refused` |
//! | have a password file that they may read be used: an account's … | `a_password_file_lies_beside_the_accounts_file_and_is_private` |
//! | … or libpq's, which is ignored with a warning … | `a_password_file_that_others_may_read_is_not_used` |
//! | … or a private key | `a_private_key_that_others_may_read_is_refused` |
//! | find a secret in a core dump of the systemd service: there is none (`LimitCORE=0`) | `the_service_leaves_no_core_dump_and_has_no_more_rights_than_it_needs` |
//!
//! A file named by `AD_PLATFORM_PASSWORD_FILE` may have any mode: container platforms mount secrets readable by all.
//!
//! *Memory.* Our own copies are wiped when they are dropped (`nothing_is_left_in_memory_where_a_secret_was`), and a process at
//! work has one of the password and one of what is sent (`the_password_is_in_memory_once_as_it_is_and_once_as_it_is_sent`): it
//! needs them for the next token. Not wiped are the buffers of the HTTP client, of TLS and of the Postgres driver, and the
//! environment, if the password comes from there. A process cannot forbid its own core dumps without `unsafe` code, which is
//! not used here: outside of systemd, `ulimit -c 0` does it.
//!
//! # Who can change the accounts file, the environment or the files they name
//!
//! He *can* do whatever the program's user can: `password_command` runs commands. That is why it is refused when others may
//! change it. He who may only *fill in values* (a name, an address, a limit) *cannot*
//!
//! | | shown by |
//! |---|---|
//! | end the program, or have a password shown, by nonsense in any value | `no_text_in_any_setting_makes_it_panic_or_show_the_password` |
//! | have it read without an end | `files_without_an_end_are_refused_not_read` |
//! | reach the tables or a header by a name | `names_are_data_wherever_they_go` |
//!
//! # Who supplies what it is built of
//!
//! | | shown by |
//! |---|---|
//! | crates come from the registry alone, by checksum, and some kinds are ruled out | `everything_that_is_built_in_comes_from_the_registry_and_nothing_is_that_was_ruled_out` |
//!
//! `make lint` has `cargo deny` check licences, sources and bans too. Known weaknesses (RustSec's advisories) are not part of
//! it: their data is another repository that changes daily, and a build here needs nothing but the registry;
//! `cargo deny --config .deny.toml check advisories` asks for them where that is allowed.

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    /// The rows of a document's tables, by cell, without their heads.
    pub fn rows(document: &str) -> Vec<Vec<String>> {
        let rows = document.lines().filter_map(|line| line.strip_prefix("//! | "));
        let cells =
            |row: &str| row.trim_end_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
        rows.filter(|row| !row.starts_with('|') && !row.starts_with("what |")).map(cells).collect()
    }

    /// The names in a text that stand in backticks and look like those of tests.
    pub fn named(text: &str) -> impl Iterator<Item = &str> {
        let quoted = text.split('`').skip(1).step_by(2);
        quoted.filter(|name| {
            name.matches('_').count() >= 3
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
    }

    /// The names of all tests.
    pub fn tests() -> HashSet<String> {
        let mut found = HashSet::new();
        let mut folders =
            ["src", "tests"].map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).to_vec();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read_to_string(path).unwrap();
                    // Between the attribute and the name there may be others.
                    let after = text
                        .split("#[test]")
                        .skip(1)
                        .filter_map(|after| after.split_once("fn ")?.1.split_once('('));
                    found.extend(after.map(|(name, _)| name.to_owned()));
                }
            }
        }
        found
    }

    #[test]
    fn each_line_has_its_test() {
        let (document, tests) = (include_str!("threat_model.rs"), tests());
        let rows = rows(document);
        assert!(rows.len() > 40, "{} lines", rows.len());
        for row in &rows {
            assert!(row.last().is_some_and(|cell| named(cell).count() == 1), "{row:?} names no test");
        }
        let (text, _) = document.split_once("#[cfg(test)]").unwrap();
        for name in named(text) {
            assert!(tests.contains(name), "there is no test {name}");
        }
    }
}
