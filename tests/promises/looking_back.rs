//! Looking back at runs and failed campaigns, and accounts that come and go.

use std::time::Duration;

use mock_api::{EMAIL, PASSWORD, Server, Settings};
use serde_json::Value;

use crate::support::{Database, Folder, Outcome, PATIENCE, Program, eventually, json_schema};

/// 40 campaigns, of which the platform refuses four; one run has met them.
fn partial() -> (Server, Database) {
    let mut settings = Settings::fast(40);
    settings.faults.refused_every = 10;
    let (server, database) = (mock_api::start(settings).unwrap(), Database::create());
    run(&server, &database, &["sync"]).expect_code(3);
    (server, database)
}

fn run(server: &Server, database: &Database, command: &[&str]) -> Outcome {
    Program::new(command).api(&server.url(), EMAIL, PASSWORD).database(&database.url()).run()
}

/// Each line as an object that is as the schema says.
fn objects(outcome: &Outcome, name: &str) -> Vec<Value> {
    let objects = outcome.json();
    for object in &objects {
        assert_eq!(json_schema::violation(name, object), None, "{outcome}");
    }
    objects
}

#[test]
fn runs_are_listed_newest_first_for_people_and_programs() {
    let (server, database) = partial();
    server.change(|settings| settings.faults.refused_every = 0);
    run(&server, &database, &["retry"]).expect_code(0);
    database.execute(
        "INSERT INTO sync_runs (account, lists, listing_done, page_size, binary_version, state, last_error, started_at, sampled_at)
         VALUES ('north', true, false, 10, '0', 'stopped', 'a wait', now() - interval '3 hours', now() - interval '2 hours')",
    );
    let runs = objects(&run(&server, &database, &["runs", "--json"]).expect_code(0), "runs");
    let of = |name: &str| runs.iter().map(|run| run[name].clone()).collect::<Vec<_>>();
    assert_eq!(of("run_id"), [2, 1, 3], "by the time they began");
    assert_eq!(of("account"), ["default", "default", "north"]);
    assert_eq!(of("state"), ["complete", "partial", "stopped"]);
    assert_eq!(of("lists"), [false, true, true]);
    assert_eq!(
        (&runs[1]["synced"], &runs[1]["failed"], &runs[1]["listed"]),
        (&36.into(), &4.into(), &40.into())
    );
    assert!(runs[1]["finished_at"].as_str() > runs[1]["started_at"].as_str(), "{}", runs[1]);
    assert_eq!(
        (&runs[2]["finished_at"], runs[2]["lasted_s"].as_f64().unwrap().round()),
        (&Value::Null, 3600.0)
    );
    let newest = run(&server, &database, &["runs", "--json", "--limit", "1"]).expect_code(0).json();
    assert_eq!((newest.len(), &newest[0]["run_id"]), (1, &2.into()));
    let north = run(&server, &database, &["runs", "--account=north"]).expect_code(0);
    let lines: Vec<&str> = north.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{north}");
    assert!(
        lines[0].starts_with("ACCOUNT  RUN  STATE") && lines[1].starts_with("north    3    stopped  20"),
        "{north}"
    );
    assert!(lines[1].ends_with("a wait"), "{north}");
    assert!(run(&server, &database, &["runs", "--limit=0"]).expect_code(2).stderr.contains("1 to 10000"));
}

#[test]
fn failed_campaigns_are_listed_with_cause_reason_status_attempts_and_age() {
    let (server, database) = partial();
    let letters =
        objects(&run(&server, &database, &["dead-letters", "--json"]).expect_code(0), "dead_letters");
    assert_eq!(letters.len(), 4);
    assert!(letters.is_sorted_by_key(|letter| letter["id"].as_str().unwrap().to_owned()), "{letters:?}");
    for letter in &letters {
        let (status, reason) = (letter["last_status"].as_u64().unwrap(), letter["reason"].as_str().unwrap());
        assert!(
            reason.contains(&status.to_string()) || status == 200 && reason.contains("success: false"),
            "{letter}"
        );
        assert_eq!((&letter["attempts"], &letter["run_id"]), (&1.into(), &1.into()));
        assert!((0.0..PATIENCE.as_secs_f64()).contains(&letter["age_s"].as_f64().unwrap()), "{letter}");
    }
    let (cause, id) = (letters[0]["cause"].as_str().unwrap(), letters[1]["id"].as_str().unwrap());
    let alike = letters.iter().filter(|letter| letter["cause"] == cause).count();
    let chosen = run(&server, &database, &["dead-letters", "--json", "--cause", cause]).expect_code(0);
    assert_eq!(chosen.json().len(), alike);
    let chosen = run(&server, &database, &["dead-letters", "--id", id]).expect_code(0);
    assert_eq!(chosen.stdout.lines().count(), 2, "{chosen}");
    let words: Vec<&str> = chosen.stdout.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(words[..2], ["default", id], "{chosen}");
    let none = run(&server, &database, &["dead-letters", "--cause", "none-such"]).expect_code(0);
    assert_eq!(none.stdout, "no failed campaigns\n");
}

#[test]
fn a_purge_takes_what_is_chosen_and_nothing_of_the_open_run() {
    let (server, database) = partial();
    let purge =
        |arguments: &[&str]| run(&server, &database, &[&["dead-letters", "--purge"], arguments].concat());
    let asked = purge(&[]).expect_code(2);
    assert!(asked.stderr.contains("removes 4 dead letter(s)") && asked.stderr.contains("--yes"), "{asked}");
    assert_eq!(database.count("dead_letters"), 4);
    database.execute(
        "INSERT INTO dead_letters (account, id, run_id, cause, reason, attempts, payload, retryable)
         SELECT account, id, 0, cause, '', 1, '{}', true
         FROM (VALUES ('default', 'old', 'gone'), ('default', 'older', 'gone'), ('north', 'old', 'gone')) l (account, id, cause);
         UPDATE sync_runs SET state = 'stopped', finished_at = NULL",
    );
    // To the open run, a campaign without its dead letter would be one that was never listed.
    let kept = purge(&["--yes", "--account", "default", "--id", "older", "--id", "campaign_10", "--json"])
        .expect_code(0);
    let told = objects(&kept, "purged").remove(0);
    assert_eq!((&told["purged"], &told["kept"]), (&1.into(), &1.into()));
    let kept = purge(&["--yes"]).expect_code(0);
    assert!(kept.stdout.contains("removed 1 dead letter(s); 4 of the open run stay"), "{kept}");
    assert_eq!(
        (database.count("dead_letters"), database.count("dead_letters WHERE account = 'north'")),
        (5, 1)
    );
    let resumed = run(&server, &database, &["sync", "--json"]).expect_code(3).json().remove(0);
    assert_eq!(
        (&resumed["state"], &resumed["failed"], &resumed["removed"]),
        (&"partial".into(), &4.into(), &0.into())
    );
    purge(&["--yes", "--cause", "gone", "--cause", "none-such"]).expect_code(0);
    assert_eq!(database.count("dead_letters WHERE account = 'default' AND cause = 'gone'"), 0);
    purge(&["--yes"]).expect_code(0);
    assert_eq!(database.count("dead_letters WHERE account = 'default'"), 0);
    assert_eq!(
        (database.count("sync_runs"), database.count("campaigns WHERE removed_at IS NOT NULL")),
        (1, 0)
    );
    let again = run(&server, &database, &["sync", "--json"]).expect_code(3).json().remove(0);
    assert_eq!((&again["listed"], &again["failed"]), (&40.into(), &4.into()), "the next run sees them again");
    assert!(run(&server, &database, &["dead-letters", "--yes"]).expect_code(2).stderr.contains("--purge"));
}

/// Tables with rows of an account.
fn tables(database: &Database) -> Vec<String> {
    database.column(
        "SELECT t.table_name::text FROM information_schema.tables t JOIN information_schema.columns c USING (table_schema, table_name)
         WHERE t.table_schema = 'campaign_sync' AND t.table_type = 'BASE TABLE' AND c.column_name = 'account' ORDER BY 1",
    )
}

fn rows_of(database: &Database, account: &str) -> Vec<(String, i64)> {
    let count = |table: String| {
        let rows = database.count(&format!("{table} WHERE account = '{account}'"));
        (table, rows)
    };
    tables(database).into_iter().map(count).collect()
}

/// Gives the account a row in every table, as after a process that died.
fn fill(database: &Database) {
    database.execute(
        "INSERT INTO sync_tasks (account, id, run_id, seq, payload) SELECT 'default', 'waits', max(run_id), 0, '{}' FROM sync_runs;
         INSERT INTO workers (account, run_id, host, pid, heartbeat_at)
         SELECT 'default', max(run_id), 'gone', 1, now() - interval '1 hour' FROM sync_runs;
         INSERT INTO quotas (account) VALUES ('default') ON CONFLICT DO NOTHING;
         INSERT INTO access_tokens (account, sealed) VALUES ('default', 'x') ON CONFLICT DO NOTHING",
    );
    for (table, rows) in rows_of(database, "default") {
        assert!(rows > 0, "{table}");
    }
}

#[test]
fn a_renamed_account_keeps_every_row_but_its_token_and_goes_on_under_its_new_name() {
    let (server, database) = partial();
    let folder = Folder::new("renamed");
    let metrics = folder.path("metrics.prom");
    run(&server, &database, &["sync", "--metrics-file", &metrics]).expect_code(3);
    let file = format!(
        "[[account]]\nname = \"north\"\napi_url = \"{}\"\nemail = \"{EMAIL}\"\npassword_env = \"ITS_PASSWORD\"\n",
        server.url()
    );
    folder.file("accounts.toml", &file, 0o600);
    fill(&database);
    database.execute("UPDATE sync_runs SET state = 'stopped', finished_at = NULL WHERE run_id = 2");
    let before = rows_of(&database, "default");
    let content = "SELECT md5(string_agg((to_jsonb(c) - 'account')::text, ',' ORDER BY id)) FROM campaigns c";
    let campaigns: String = database.value(content);

    let rename = |words: &[&str]| run(&server, &database, &[&["rename"], words].concat());
    let renamed = rename(&["default", "north", "--metrics-file", &metrics]).expect_code(0);
    assert!(renamed.stdout.starts_with("default is north now: 36 campaigns, "), "{renamed}");
    assert!(rows_of(&database, "default").iter().all(|(_, rows)| *rows == 0));
    for ((table, rows), (_, now)) in before.iter().zip(rows_of(&database, "north")) {
        let gone = ["access_tokens", "workers"].contains(&table.as_str());
        assert_eq!(now, if gone { 0 } else { *rows }, "{table}");
    }
    assert_eq!(database.value::<String>(content), campaigns);
    let written = std::fs::read_to_string(&metrics).unwrap();
    assert!(written.contains("account=\"north\"") && !written.contains("account=\"default\""), "{written}");

    let changes = database.count("campaign_changes");
    let resumed = Program::new(&["sync", "--json", "--accounts", &folder.path("accounts.toml")])
        .env("ITS_PASSWORD", PASSWORD)
        .database(&database.url())
        .run()
        .expect_code(3)
        .json()
        .remove(0);
    assert_eq!((&resumed["account"], &resumed["run_id"]), (&"north".into(), &2.into()));
    assert_eq!(database.count("campaign_changes"), changes, "no campaign is new to it");

    run(&server, &database, &["sync"]).expect_code(3);
    let taken = rename(&["default", "north"]).expect_code(2);
    assert!(taken.stderr.contains("north has rows in campaigns"), "{taken}");
    let unknown = rename(&["nroth", "south"]).expect_code(2);
    assert!(unknown.stderr.contains("did you mean north?"), "{unknown}");
    assert!(rename(&["north", "a\nb"]).expect_code(2).stderr.contains("control characters"));
    assert!(rename(&["north"]).expect_code(2).stderr.contains("two names"));
    assert_eq!((database.count("campaigns WHERE account = 'default'"), database.count("sync_runs")), (36, 3));
}

#[test]
fn a_forgotten_account_leaves_no_row_in_any_table_and_no_line_of_metrics() {
    let (server, database) = partial();
    let folder = Folder::new("forgotten");
    let metrics = folder.path("metrics.prom");
    let metrics_file = ["--metrics-file", metrics.as_str()];
    let told = |words: &[&str]| run(&server, &database, &[words, &metrics_file].concat());
    told(&["sync"]).expect_code(3);
    told(&["rename", "default", "north"]).expect_code(0);
    told(&["sync"]).expect_code(3);
    fill(&database);
    let north = rows_of(&database, "north");
    let asked = told(&["forget", "default"]).expect_code(2);
    for said in ["36 campaigns", "36 changes", "4 failed campaigns", "1 run,", "1 token", "--yes"] {
        assert!(asked.stderr.contains(said), "{said}: {asked}");
    }
    assert_eq!(database.count("campaigns WHERE account = 'default'"), 36);
    let forgotten = told(&["forget", "default", "--yes"]).expect_code(0);
    assert!(forgotten.stdout.starts_with("default: removed 36 campaigns, "), "{forgotten}");
    assert!(rows_of(&database, "default").iter().all(|(_, rows)| *rows == 0));
    assert_eq!(rows_of(&database, "north"), north, "another account's rows stay");
    let written = std::fs::read_to_string(&metrics).unwrap();
    assert!(written.contains("account=\"north\"") && !written.contains("account=\"default\""), "{written}");
    let unknown = told(&["forget", "norht", "--yes"]).expect_code(2);
    assert!(unknown.stderr.contains("did you mean north?"), "{unknown}");
    assert!(run(&server, &database, &["forget"]).expect_code(2).stderr.contains("the account is missing"));
}

#[test]
fn an_account_that_the_accounts_file_still_has_is_to_be_changed_there_as_well() {
    let (server, database) = partial();
    let folder = Folder::new("still-there");
    let text = format!(
        "[[account]]\nname = \"default\"\napi_url = \"{}\"\nemail = \"{EMAIL}\"\npassword_env = \"PW\"\n",
        server.url()
    );
    let path = folder.file("accounts.toml", &text, 0o600);
    let told = |words: &[&str]| {
        let program = Program::new(words).env("CAMPAIGN_SYNC_ACCOUNTS", &path);
        program.database(&database.url()).run().expect_code(0).stdout
    };
    let renamed = told(&["rename", "default", "north"]);
    assert!(
        renamed.ends_with("\nrename it in the accounts file as well, or the next sync starts default anew\n")
    );
    let forgotten = told(&["forget", "north", "--yes"]);
    assert_eq!(forgotten.lines().count(), 1, "the file does not have it: {forgotten}");
    run(&server, &database, &["sync"]).expect_code(3);
    let forgotten = told(&["forget", "default", "--yes"]);
    let hint = "\ntake default out of the accounts file as well, or the next sync starts it anew\n";
    assert!(forgotten.ends_with(hint), "{forgotten}");
}

#[test]
fn nobody_forgets_or_renames_an_account_that_a_process_works_on() {
    let server =
        mock_api::start(Settings { sync_latency: Duration::from_millis(100), ..Settings::fast(400) })
            .unwrap();
    let database = Database::create();
    drop(database.store());
    let under_way = Program::sync(&server, &database).args(&["--workers", "2"]).spawn();
    eventually(PATIENCE, "it works", || database.count("workers") == 1 && database.count("sync_tasks") > 0);
    for command in [&["forget", "default", "--yes"][..], &["rename", "default", "north"]] {
        let refused = run(&server, &database, command).expect_code(2);
        let pid = format!("pid {} works on it", under_way.id());
        assert!(refused.stderr.contains(&pid) && refused.stderr.contains("stop it"), "{refused}");
    }
    // Nor does looking back hold it up.
    run(&server, &database, &["dead-letters", "--purge", "--yes"]).expect_code(0);
    server.change(|settings| settings.sync_latency = Duration::ZERO);
    let outcome = under_way.wait().expect_code(0);
    assert_eq!(outcome.json()[0]["synced"], 400, "{outcome}");
}

#[test]
fn a_report_of_several_accounts_is_an_overview_and_of_one_its_own_run() {
    let (server, database) = partial();
    run(&server, &database, &["rename", "default", "north"]).expect_code(0);
    server.change(|settings| settings.faults.refused_every = 0);
    run(&server, &database, &["sync"]).expect_code(0);
    let newest: i64 = database.value("SELECT max(run_id) FROM sync_runs");
    let page = |words: &[&str]| {
        run(&server, &database, &[&["report", "--html", "-"], words].concat()).expect_code(0).stdout
    };
    let all = page(&[]);
    assert!(
        all.contains("<title>2 accounts</title>") && all.contains("1 with failed campaigns, 1 complete"),
        "{all}"
    );
    let (north, default) =
        (all.find("<td>north</td><td>failed</td>"), all.find("<td>default</td><td>complete</td>"));
    assert!(north.is_some() && north < default, "the worst first: {all}");
    for (words, run, account) in [
        (&["--only", "north"][..], 1, "north"),
        (&["--only", "default"], newest, "default"),
        (&["1"], 1, "north"),
    ] {
        let page = page(words);
        assert!(page.contains(&format!("<title>Run {run} of {account}: ")), "{words:?}: {page}");
    }
    let unknown =
        run(&server, &database, &["report", "1", "--only", "default", "--html", "-"]).expect_code(2);
    assert!(unknown.stderr.contains(&format!("the newest are {newest}")), "{unknown}");
}

#[test]
fn an_overview_tells_what_has_stopped_an_account_above_its_table() {
    let (server, database) = partial();
    database.execute(
        "INSERT INTO sync_runs (account, lists, listing_done, page_size, binary_version, state, last_error)
         VALUES ('north', true, false, 10, '0', 'stopped', 'a <wait>')",
    );
    let page = run(&server, &database, &["report", "--html", "-"]).expect_code(0).stdout;
    let (error, table) = (page.find("<strong>north</strong>: a &lt;wait&gt;</p>"), page.find("<table"));
    assert!(error.is_some() && error < table, "{page}");
}

#[test]
fn an_account_that_nobody_knows_is_an_error_that_names_those_there_are() {
    let (server, database) = partial();
    for command in [&["status"][..], &["runs"], &["dead-letters"], &["report", "--html", "-"]] {
        let wrong = run(&server, &database, &[command, &["--only", "defualt"]].concat()).expect_code(2);
        assert!(
            wrong.stderr.contains("--only \"defualt\"") && wrong.stderr.contains("did you mean default?"),
            "{wrong}"
        );
        assert_eq!(wrong.stdout, "", "{wrong}");
    }
    run(&server, &database, &["status", "--only", "default"]).expect_code(0);
}
