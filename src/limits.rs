//! Every bound in one place: what it holds for, what happens there, and the test that shows it. A test of this module compares
//! the numbers with the constants, and sees to it that the tests are there.
//!
//! # What the platform sends
//!
//! | what | bound | there | shown by |
//! |---|---|---|---|
//! | a page's body, decompressed | 32 MiB | the attempt has failed (`unparsable`) | `a_body_of_gigabytes_takes_neither_memory_nor_the_run` |
//! | any other body, decompressed | 256 KiB | the same | `bombs_endless_headers_and_slow_drips_take_neither_memory_nor_the_run` |
//! | a response's header | 64 KiB | the attempt has failed (`interrupted`) | `bombs_endless_headers_and_slow_drips_take_neither_memory_nor_the_run` |
//! | time for one request | `--timeout` | the attempt has failed (`timeout`) | `bombs_endless_headers_and_slow_drips_take_neither_memory_nor_the_run` |
//! | an access token | 8 KiB | the attempt has failed (`unparsable`) | `a_token_that_no_header_can_hold_is_not_kept_for_later_runs` |
//! | records on a page | 100,000 | the attempt has failed (`unparsable`) | `a_page_of_millions_of_records_is_refused_before_it_fills_the_memory` |
//! | bytes looked at in a page that is no JSON | 16 for each of its own, and 4 MiB | the attempt has failed (`unparsable`) | `damage_without_an_end_costs_bounded_time` |
//! | a record | 256 KiB | a dead letter | `a_record_of_megabytes_is_a_dead_letter_under_its_own_id` |
//! | an id | 2,000 bytes | a dead letter | `a_record_that_cannot_be_stored_is_kept_with_the_field_that_is_wrong` |
//! | nesting of a record | 127 levels | a dead letter | `a_record_that_cannot_be_stored_is_kept_with_the_field_that_is_wrong` |
//! | the number of campaigns that it tells | 10^12 | taken for none | `a_total_beyond_all_reason_is_no_total_and_breaks_nothing` |
//! | pages in a row that repeat what this process was shown; or, behind 16,384 ids, that bring the database nothing new | 2 | the run stops, to be resumed | `a_listing_without_an_end_stops_with_a_message_and_keeps_what_it_has` |
//! | a listing's campaigns | 10^9, and twice what the platform says and 10,000 more | the run stops, to be resumed | `a_listing_that_grows_beyond_all_reason_has_no_end` |
//! | a wait or window that it tells | 366 days | ignored | `no_text_makes_it_panic_or_wait_for_years` |
//! | a wait that it asks for | `--max-wait` | the run stops, to be resumed | `a_token_endpoint_that_asks_to_wait_is_asked_no_sooner` |
//! | such a wait after a 429, until it is believed | 60 s without any success | one request at a time finds out | `a_wait_that_is_asked_for_again_and_again_ends_the_run_and_the_next_one_finds_out_with_one_request` |
//! | a gate that is on record for all processes | `--max-wait` | it opens | `a_wait_that_is_asked_for_again_and_again_ends_the_run_and_the_next_one_finds_out_with_one_request` |
//! | the one request that finds out | 5 s | another one may | `a_gate_that_is_doubted_lets_one_request_of_all_processes_through_until_it_was_accepted` |
//! | its words in a message of ours | 200 characters | cut | `nothing_that_the_platform_says_commands_a_terminal_a_browser_or_a_log` |
//!
//! # Attempts
//!
//! | what | bound | there | shown by |
//! |---|---|---|---|
//! | attempts at a campaign | `--max-attempts` | a dead letter, if others succeed meanwhile | `one_campaign_that_always_fails_is_tried_so_often_and_no_more` |
//! | time without any success | `--give-up-after` | the run stops, to be resumed | `a_platform_that_is_not_there_ends_the_run_when_patience_ends` |
//! | refusals (429) without any success | `--give-up-after` and 4 times `--max-wait` | the run stops, to be resumed | `a_platform_that_refuses_everything_is_given_up` |
//! | retries at once | 100, and one for every two successes | each further one waits 1 s more | `a_dead_lane_is_tried_once_an_interval` |
//! | 403s in a row to what was permitted before | `--max-attempts` | the credentials are refused | `a_403_among_good_answers_is_tried_again_and_one_that_stays_is_final` |
//! | a wait of our own between two attempts | 20 s | it grows no more | `waits_grow_to_the_cap_and_are_spread_over_the_whole_range` |
//! | fresh tokens for one 401 | one | the credentials are refused | `a_hundred_refusals_of_one_token_cause_one_fetch` |
//! | the whole command | `--deadline` | it stops in order, to be resumed | `a_deadline_stops_it_in_order` |
//! | an answer to what is under way at the end of the command | 2.5 s, and 10 s more for a connect | abandoned: its task is free for the next run | `neither_a_signal_nor_a_deadline_waits_for_what_is_not_answered` |
//!
//! # What is in hand at once
//!
//! | what | bound | there | shown by |
//! |---|---|---|---|
//! | requests at once | `--workers`, and 256 for several accounts | they wait their turn | `a_slow_account_that_has_all_the_threads_it_wants_leaves_a_fair_share_to_the_others` |
//! | accounts that are worked on at once | 1,000 | the others wait until one is done | `forty_accounts_sixteen_at_once_are_copied_whole_by_eight_workers_and_no_campaign_is_synced_twice` |
//! | requests at once of accounts that do not answer, where the accounts ask for more than there are | half of those | they wait for an answer | `accounts_that_do_not_answer_hold_up_none_that_do` |
//! | open files asked for | 65,536, and the hard limit | what needs one waits; that is no attempt | `as_many_files_are_opened_as_the_hard_limit_permits` |
//! | open connections to the platform | 128 fewer than open files are permitted | requests wait; that is no attempt | `too_few_open_files_make_no_dead_letter_and_the_cure_is_named` |
//! | idle connections to the platform, of all accounts with the same `timeout` and proxy | 1,024, and half of those above | they are closed | `idle_connections_leave_room_for_those_in_use` |
//! | tasks that a process holds, every 4 KiB of one counting for another | 1,024 | the others are left to be claimed | `ten_thousand_campaigns_need_no_more_memory_than_five_hundred_and_few_commits` |
//! | pages fetched ahead | 8 | the lister waits | `ten_thousand_campaigns_need_no_more_memory_than_five_hundred_and_few_commits` |
//! | large pages of all accounts, each counted as it came and as records | 64 MiB, or one page | the lister waits | `pages_of_29_megabytes_take_a_few_times_their_size_for_one_account_or_five` |
//! | records that wait for their commit, every 4 KiB of one counting for another | 5,000 | the lister waits | `ten_thousand_campaigns_need_no_more_memory_than_five_hundred_and_few_commits` |
//! | records of all accounts that wait for their commits | 20,000 | the listers wait in turn | `ten_thousand_campaigns_need_no_more_memory_than_five_hundred_and_few_commits` |
//! | ids that tell repetitions | 16,384 | the oldest is forgotten, the database knows it | `each_fault_alone_loses_nothing` |
//! | sends that a limit is learned from | 10,000 | the oldest is forgotten | `a_limit_without_any_hint_is_found_and_then_kept` |
//! | a done process's wait for the last spans to be written | 5 s | they are missing, a warning says so | `a_pipe_that_nobody_reads_keeps_no_process_alive_and_is_named_once` |
//! | spans that wait for the trace file's disk | 32 MiB | further ones are left out, and counted in the log | `what_a_disk_is_too_slow_for_is_left_out_and_counted` |
//!
//! # The database
//!
//! | what | bound | there | shown by |
//! |---|---|---|---|
//! | connections | 5 for an account, 20 in all | they are waited for | `a_full_pool_says_so` |
//! | a connection's beginning | `connect_timeout`, 10 s | the next host, or unavailable | `a_server_that_accepts_and_never_answers_is_unavailable_in_bounded_time` |
//! | connections begun and unanswered | 8 | unavailable | `a_server_that_accepts_and_never_answers_is_unavailable_in_bounded_time` |
//! | a wait for a connection of the pool | 5 s without any success | unavailable | `a_full_pool_says_so` |
//! | time without the database | `--give-up-after` | the run stops, to be resumed | `a_database_that_is_not_there_is_said_in_one_line_when_patience_ends` |
//! | the same, for all accounts of a process together | `--give-up-after` | all that need it stop | `a_database_that_stays_away_ends_many_accounts_when_patience_ends` |
//! | the same pages fetched again, without a commit | `--give-up-after` | the run stops, to be resumed | `pages_that_cannot_be_committed_are_fetched_a_few_times_and_given_up` |
//! | a run that stands still with nothing left to be done for it | `--give-up-after`, at least 5 s | the run stops with exit code 2 | `rows_that_nobody_can_take_out_of_the_queue_end_the_run_as_well` |
//! | a user's function in a message of ours | 120 characters | cut | `a_users_function_is_named_and_only_faults_of_the_data_are_the_rows` |
//! | an unanswered statement that waits for others | `--give-up-after`, and 1 s once a stop is requested | cancelled, then the connection is cut | `the_first_signal_is_heeded_while_a_table_is_locked` |
//! | an unanswered statement before its blocker is named | 5 s | one warning | `patience_ends_while_a_table_is_locked_and_one_warning_says_who_holds_it` |
//! | a heartbeat's wait | 3 s | the next one is due | `a_heartbeat_finds_a_slot_while_all_others_wait` |
//! | one message of the server's | 64 MiB | the connection is left | `what_is_too_long_is_refused_by_its_header_alone` |
//! | an answer to one statement | 512 MiB, 128 bytes of overhead for each message included | the connection is left | `rows_without_an_end_notices_and_notifications_are_refused` |
//! | notifications and parameters that nobody asked for | 1 MiB | the connection is left | `rows_without_an_end_notices_and_notifications_are_refused` |
//! | one transaction | 1,800 s | the process ends with exit code 5 | `a_database_that_takes_a_question_and_never_answers_is_noticed` |
//! | silence within a transaction, for others' sake | 5 s | the server ends it | `a_process_that_is_suspended_in_a_transaction_does_not_hold_up_the_others` |
//! | silence of a process | 10 s | its tasks go to others | `held_work_of_a_dead_process_is_free_within_15_s_and_other_work_at_once` |
//! | a task that the database does not let go, or has forgotten, is worked again | 2 times | the run stops, to be resumed | `rows_that_nobody_can_take_out_of_the_queue_end_the_run_as_well` |
//! | batches of 10,000 changes older than `--keep-history` that a run deletes | 100 | the others are left to the next run | `what_changed_is_kept_as_long_as_wanted_and_not_at_all_if_not` |
//! | runs that `runs` shows | 10,000 (`--limit`) | older ones are not shown | `runs_are_listed_newest_first_for_people_and_programs` |
//! | dead letters that `dead-letters` reads or removes at once | 10,000 | the others follow | `a_purge_takes_what_is_chosen_and_nothing_of_the_open_run` |
//! | an open run that others open and close, looked for by `forget`, `rename` and `--purge` | 10 times | nothing is changed | `nobody_forgets_or_renames_an_account_that_a_process_works_on` |
//! | silence of an open run's last process | `--max-run-age` | it is abandoned, with a warning | `an_old_run_is_abandoned_and_any_run_on_demand` |
//! | the turn to fetch a token | 30 s | another process may | `a_turn_to_fetch_a_token_ends_when_the_databases_clock_is_turned_back` |
//! | its words in a message of ours | 300 characters | cut | `a_message_is_one_short_line` |
//!
//! # Settings and files
//!
//! | what | bound | there | shown by |
//! |---|---|---|---|
//! | accounts of one process | 10,000 | refused: use several files | `so_many_accounts_and_no_more_are_worked_on_by_one_process` |
//! | an accounts file | 4 MiB | refused | `files_without_an_end_are_refused_not_read` |
//! | a config file | 64 KiB | refused | `the_config_file_gives_what_flags_and_environment_do_not` |
//! | a file of certificates or keys | 4 MiB | refused | `files_without_an_end_are_refused_not_read` |
//! | a service file, or one of libpq's passwords | 1 MiB | refused; the latter ignored with a warning | `files_without_an_end_are_refused_not_read` |
//! | the API's address | 2,000 bytes | refused | `an_address_and_an_email_have_a_greatest_length` |
//! | the schema's name | 63 bytes, of letters, digits, `_` and `-` | refused | `a_name_that_could_leave_its_quotes_is_no_name` |
//! | an email | 1,000 bytes | refused | `an_address_and_an_email_have_a_greatest_length` |
//! | a password | 4 KiB | refused | `the_password_comes_from_a_file_a_command_or_systemd_as_well` |
//! | a password command | 30 s | refused | `the_password_comes_from_a_file_a_command_or_systemd_as_well` |
//! | workers, page size, attempts | 1,024, 1,000, 100 | refused | `nonsense_is_answered_with_the_settings_name_and_a_valid_example` |
//! | a wait for other processes that share the metrics file | 5 s | it is written all the same, with a warning | `a_folder_that_somebody_keeps_locked_is_waited_for_but_not_for_ever` |
//! | a metrics file that is there already | 64 MiB | not ours: it is left as it is | `what_is_not_ours_is_never_replaced` |
//! | a campaign's reason in `report` | 400 characters | cut | `no_text_is_markup` |
//!
//! # Waits
//!
//! Wherever a thread of the program waits, and what ends that. A statement of the database is waited for as said above
//! (`store/patience.rs` breaks it off); so is a request to the platform (`--timeout`, and 2.5 s after the end). What waits only
//! for another thread of the program ends with that one's own wait. A test finds the words below in the source: what is new
//! there has to be named here.
//!
//! | where | by | until |
//! |---|---|---|
//! | `calling/caller.rs` | `.sleep(` 2 | a turn or the breaker's trial is due, or a stop |
//! | `calling/conclude.rs` | `.sleep(` 1 | a wait between two attempts, or a stop |
//! | `commands/confirm.rs` | `.read_line(` 1 | the person at the terminal answers; nothing is held meanwhile, and a signal ends the process |
//! | `commands/set_up.rs` | `.forever()` 1 | a signal comes; nobody waits for this thread |
//! | `commands/set_up.rs` | `.recv()` 1, `thread::scope(` 1 | all threads of the pool are there: the system has started them |
//! | `commands/set_up.rs` | `thread::sleep(` 2 | the grace is over, or the deadline is there; nobody waits for these threads |
//! | `commands/status.rs` | `thread::sleep(` 1 | the next look of `--watch`; a signal ends the process |
//! | `config/password.rs` | `.wait(` 1 | at most 30 s: see a password command |
//! | `config/password.rs` | `thread::sleep(` 1 | a moment, within those 30 s |
//! | `config/password.rs` | `.read_to_end(` 1 | at most 30 s: see a password command |
//! | `engine/heartbeat.rs` | `.recv_timeout(` 1 | the next heartbeat, or the scheduler is gone |
//! | `engine/orders.rs` | `.wait(` 1 | there is a call to make or a command to carry out, or the scheduler is gone |
//! | `engine/scheduler.rs` | `.recv_timeout(` 1, `thread::scope(` 1 | the next time that an account is due, or an event; the watch has seen that all is over |
//! | `engine/watch.rs` | `.recv_timeout(` 1 | the next look, or the scheduler is done |
//! | `http/budget.rs` | `.wait_timeout(` 1 | there is room, or a stop is requested: looked at every 100 ms |
//! | `http/client.rs` | `.read(&mut` 1, `.read_to_end(` 2 | `--timeout` |
//! | `http/clock.rs` | `.wait(` 1, `.wait_timeout_while(` 1 | the time that is given, or a stop |
//! | `http/gather.rs` | `.connect(` 1 | `--timeout`, and 10 s |
//! | `in_time.rs` | `.recv_timeout(` 1, `sync_channel(` 1 | the time that is given |
//! | `platform/api.rs` | `.wait(` 1 | none: it gives a time |
//! | `rate/limiter/answers.rs` | `.wait(` 2 | none: it gives a time |
//! | `report/metrics/file.rs` | `.try_lock()` 1, `fs::read(` 1, `thread::sleep(` 1 | 5 s |
//! | `report/trace.rs` | `.join()` 1, `.recv_timeout(` 1, `.wait_timeout_while(` 2, `sync_channel(` 1 | the file is open, or 5 s are over; of the writer, which nobody else waits for, until there are spans |
//! | `report/trace/out.rs` | `.read_exact(` 1 | as above: it is the writer's |
//! | `report/whole_file.rs` | `.try_lock()` 2 | at once |
//! | `settings_file.rs` | `.read_to_end(` 1 | the file ends, or is too long |
//! | `store/conninfo/defaults.rs` | `fs::read_to_string(` 1 | the file ends |
//! | `store/connect.rs` | `.connect(` 2 | `connect_timeout` |
//! | `store/line.rs` | `.connect(` 1 | `connect_timeout` |
//! | `store/pool.rs` | `.get_timeout(` 1 | 5 s without any success |
//! | `store/pool.rs` | `.sleep(` 1 | a wait between two attempts, or a stop |
//! | `store/pool.rs` | `thread::sleep(` 1 | the next look of the watch; nobody waits for this thread |
//! | `store/process.rs` | `fs::read(` 1, `fs::read_to_string(` 2 | the kernel's file ends |
//! | `store/slots.rs` | `.wait_timeout(` 1 | the time that is given |
//!
//! Not bounded by the program: the rows of `campaigns` and `dead_letters` (they are the result), the trace file (`logrotate`
//! shortens it), and how many processes join a run.

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use crate::threat_model::tests::{named, rows, tests};

    const WAITS: &str = "//! # Waits\n";
    /// The words by which a thread waits: for others, for time, for a file, a process or a peer.
    const WORDS: [&str; 27] = [
        ".accept()",
        ".connect(",
        ".forever()",
        ".get_timeout(",
        ".join()",
        ".lock_exclusive(",
        ".lock_shared(",
        ".poll(",
        ".read(&mut",
        ".read_exact(",
        ".read_line(",
        ".read_to_end(",
        ".read_to_string(",
        ".recv()",
        ".recv_timeout(",
        ".sleep(",
        ".try_lock()",
        ".wait(",
        ".wait_timeout(",
        ".wait_timeout_while(",
        ".wait_while(",
        "block_on(",
        "fs::read(",
        "fs::read_to_string(",
        "park(",
        "park_timeout(",
        "sync_channel(",
    ];
    /// These are parts of longer words.
    const SCOPES: [&str; 2] = ["thread::scope(", "thread::sleep("];

    /// How often a file waits by each word, but for its tests.
    fn waits(source: &str) -> BTreeMap<&'static str, usize> {
        let source = ["mod ", "pub mod ", "pub(crate) mod ", "pub(super) mod "].iter().fold(
            source,
            |source, module| {
                source.split_once(&format!("#[cfg(test)]\n{module}")).map_or(source, |(before, _)| before)
            },
        );
        let code: Vec<&str> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let count = |word: &str| code.iter().map(|line| line.matches(word).count()).sum::<usize>();
        WORDS.iter().chain(&SCOPES).map(|word| (*word, count(word))).filter(|(_, times)| *times > 0).collect()
    }

    #[test]
    fn each_wait_is_named_with_what_ends_it() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let (_, named) = include_str!("limits.rs").split_once(WAITS).unwrap();
        let mut known: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        for row in rows(named.split_once("#[cfg(test)]").unwrap().0).iter().filter(|row| row[0] != "where") {
            assert!(row.len() == 3 && !row[2].is_empty(), "{row:?}");
            let words = known.entry(row[0].trim_matches('`').to_owned()).or_default();
            for wait in row[1].split(", ") {
                let (word, times) = wait.rsplit_once(' ').unwrap();
                *words.entry(word.trim_matches('`').to_owned()).or_default() +=
                    times.parse::<usize>().unwrap();
            }
        }
        let mut found: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                if path.is_dir() {
                    folders.push(path);
                } else if name.ends_with(".rs")
                    && !name.ends_with("tests.rs")
                    && name != "build.rs"
                    && name != "limits.rs"
                {
                    let waits = waits(&std::fs::read_to_string(&path).unwrap());
                    let waits: BTreeMap<_, _> =
                        waits.into_iter().map(|(word, times)| (word.to_owned(), times)).collect();
                    found.extend((!waits.is_empty()).then_some((name, waits)));
                }
            }
        }
        let files: Vec<&String> = found.keys().chain(known.keys()).collect();
        for file in files {
            assert_eq!(
                found.get(file),
                known.get(file),
                "{file}: what waits there (left), and what is named here"
            );
        }
    }

    #[test]
    fn each_bound_has_its_number_and_its_test() {
        let (document, tests) = (include_str!("limits.rs").split_once("#[cfg(test)]").unwrap().0, tests());
        let (document, _waits) = document.split_once(WAITS).unwrap();
        let rows = rows(document);
        assert!(rows.len() > 40, "{} bounds", rows.len());
        for row in &rows {
            assert_eq!(row.len(), 4, "{row:?}");
            let mut names = named(&row[3]);
            assert!(names.next().is_some_and(|name| tests.contains(name)), "there is no test {}", row[3]);
        }
        let thousands = |number: usize| format!("{},{:03}", number / 1_000, number % 1_000);
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        let kib = |bytes: u64| format!("{} KiB", bytes >> 10);
        for (what, bound) in [
            ("a page's body", mib(crate::http::client::LONG_BODY)),
            ("any other body", kib(crate::http::client::SHORT_BODY)),
            ("an access token", kib(crate::platform::MOST_TOKEN_BYTES as u64)),
            ("records on a page", thousands(crate::platform::MOST_RECORDS)),
            (
                "bytes looked at",
                format!(
                    "{} for each of its own, and {}",
                    crate::platform::LOOKS,
                    mib(crate::platform::LOOKS_ANYWAY as u64)
                ),
            ),
            ("a record", kib(crate::platform::MOST_RECORD_BYTES as u64)),
            ("an id", format!("{} bytes", thousands(crate::platform::MAX_ID_BYTES))),
            ("the number of campaigns", format!("10^{}", crate::platform::MOST_TOTAL.ilog10())),
            ("pages in a row", crate::platform::endless::BARREN_PAGES.to_string()),
            ("a listing's campaigns", format!("10^{}", crate::platform::endless::LONGEST.ilog10())),
            ("a metrics file", mib(crate::report::metrics::MOST_BYTES)),
            ("tasks that a process holds", thousands(crate::engine::MAX_HELD)),
            ("a task that the database", format!("{} times", crate::engine::MAX_RETAKEN)),
            (
                &*format!("batches of {} changes", thousands(crate::store::history::BATCH as usize)),
                crate::store::execute::PRUNED_BATCHES.to_string(),
            ),
            ("an open run that others open", format!("{} times", crate::store::accounts::HOLD_TRIES)),
            ("runs that `runs` shows", thousands(crate::config::MAX_RUNS_SHOWN as usize)),
            ("dead letters that `dead-letters` reads", thousands(crate::store::dead_letters::BATCH as usize)),
            ("pages fetched ahead", crate::engine::MAX_PAGES.to_string()),
            ("records that wait", thousands(crate::engine::MAX_UNCOMMITTED)),
            ("accounts that are worked on", thousands(crate::engine::scheduler::MAX_OPEN)),
            ("records of all accounts", thousands(crate::engine::MAX_RECORDS_HELD)),
            ("ids that tell", thousands(crate::platform::endless::REMEMBERED)),
            ("spans that wait", mib(crate::report::trace::MOST_WAITING as u64)),
            (
                "open files asked for",
                thousands(usize::try_from(crate::own_machine::MOST_OPEN_FILES).unwrap()),
            ),
            ("open connections to", format!("{} fewer", crate::http::connections::RESERVED)),
            ("idle connections to", thousands(crate::http::connections::MOST_IDLE)),
            ("a wait for other processes", format!("{} s", crate::report::metrics::LONGEST_TURN.as_secs())),
            ("a done process's wait", format!("{} s", crate::report::trace::LAST_SPANS.as_secs())),
            ("requests at once", format!("`--workers`, and {} for", crate::commands::MOST_WORKERS)),
            (
                "connections",
                format!(
                    "{} for an account, {} in all",
                    crate::commands::CONNECTIONS,
                    crate::commands::MOST_CONNECTIONS
                ),
            ),
            ("such a wait after a 429", format!("{} s", crate::sync::DOUBTED.as_secs())),
            ("the one request that finds out", format!("{} s", crate::rate::limiter::PROBE.as_secs())),
            ("the turn to fetch", format!("{} s", crate::store::tokens::FETCH_SECONDS)),
            ("large pages of all accounts", mib(crate::http::budget::PAGE_BYTES)),
            ("an answer to what is under way", format!("{} s", crate::sync::GRACE.as_secs_f64())),
            ("accounts of one process", thousands(crate::config::MOST_ACCOUNTS)),
            ("the schema's name", format!("{} bytes", crate::store::MAX_NAME_BYTES)),
            ("the API's address", format!("{} bytes", thousands(crate::config::ADDRESS_BYTES))),
            ("an email", format!("{} bytes", thousands(crate::config::EMAIL_BYTES))),
            ("an accounts file", mib(crate::config::ACCOUNTS_FILE_BYTES as u64)),
            ("a config file", kib(crate::config::CONFIG_FILE_BYTES as u64)),
            ("a password", kib(crate::config::PASSWORD_BYTES as u64)),
            ("a file of certificates", mib(crate::settings_file::CERTIFICATES_BYTES as u64)),
            ("silence of a process", format!("{} s", crate::store::leases::LEASE_SECONDS)),
            ("an unanswered statement that", "`--give-up-after`, and 1 s".into()),
            ("an unanswered statement before", format!("{} s", crate::store::ASK_AFTER.as_secs())),
            ("a heartbeat's wait", format!("{} s", crate::store::BEAT_PATIENCE.as_secs())),
            ("one message of the server's", mib(crate::store::MESSAGE_BYTES)),
            ("an answer to one statement", mib(crate::store::ANSWER_BYTES)),
            ("notifications and", mib(crate::store::ASIDE_BYTES)),
            ("one transaction", format!("1,{} s", crate::commands::LONGEST_TRANSACTION.as_secs() - 1000)),
        ] {
            let row = rows.iter().find(|row| row[0].starts_with(what)).unwrap_or_else(|| panic!("{what}"));
            assert!(row[1].starts_with(&bound), "{what}: {bound}, not {}", row[1]);
        }
    }
}
