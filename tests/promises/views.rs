//! Tables for people: every column is explained, the views say what the program says, and the dashboard's queries run.

use campaign_sync::http::retry::Cause;
use mock_api::Settings;
use serde_json::Value;

use crate::support::{Database, Program};

#[test]
fn every_table_view_and_column_has_a_comment() {
    let database = Database::create();
    drop(database.store());
    let seen: i64 = database
        .count("pg_class WHERE relnamespace = 'campaign_sync'::regnamespace AND relkind IN ('r', 'v')");
    assert!(seen >= 13, "{seen} tables and views");
    let silent: Vec<String> = database.column(
        "SELECT c.relname || coalesce('.' || a.attname, '')
         FROM pg_class c
         CROSS JOIN LATERAL (SELECT 0::int2, NULL::name UNION ALL
                             SELECT attnum, attname FROM pg_attribute
                             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) AS a (attnum, attname)
         WHERE c.relnamespace = 'campaign_sync'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
           AND coalesce(CASE a.attnum WHEN 0 THEN obj_description(c.oid, 'pg_class') ELSE col_description(c.oid, a.attnum) END, '') = ''
         ORDER BY 1",
    );
    assert!(silent.is_empty(), "no COMMENT ON {}", silent.join(", "));
}

#[test]
fn the_views_say_what_the_program_says() {
    let mut settings = Settings::fast(40);
    settings.faults.refused_every = 20;
    let (server, database) = (mock_api::start(settings).unwrap(), Database::create());
    let line = Program::sync(&server, &database).arg("--json").run().expect_code(3).json().remove(0);
    let run = database.rows("SELECT * FROM run_history", &[]).remove(0);
    for column in [
        "run_id",
        "listed",
        "synced",
        "failed",
        "removed",
        "requests",
        "retries",
        "rate_limited",
        "token_refreshes",
    ] {
        assert_eq!(Some(run.get::<_, i64>(column)), line[column].as_i64(), "{column}: {line}");
    }
    assert_eq!((run.get::<_, &str>("state"), run.get::<_, i64>("workers")), ("partial", 0));
    let status =
        Program::new(&["status", "--json"]).database(&database.url()).run().expect_code(0).json().remove(0);
    let letters =
        database.rows("SELECT cause, count, retryable, example, reason FROM dead_letters_by_cause", &[]);
    assert_eq!(letters.len(), status["dead_letters"].as_array().unwrap().len());
    let (told, letter) = (&status["dead_letters"][0], &letters[0]);
    assert_eq!(told["cause"], letter.get::<_, &str>("cause"));
    assert_eq!(
        (told["count"].as_i64(), told["example"].as_str()),
        (Some(letter.get("count")), Some(letter.get("example")))
    );
    // Neither was a success; one that puts dead letters back is no listing.
    let fresh = "account_freshness WHERE last_success_at IS NULL AND finished_age >= interval '0'
        AND last_finished_at = (SELECT max(finished_at) FROM sync_runs WHERE lists)";
    assert_eq!((database.count(fresh), &status["last_success_age_s"]), (1, &Value::Null));
    server.change(|settings| settings.faults.refused_every = 0);
    Program::new(&["retry"])
        .args(&[])
        .api(&server.url(), mock_api::EMAIL, mock_api::PASSWORD)
        .database(&database.url())
        .run()
        .expect_code(0);
    assert_eq!(
        (database.count("run_history"), database.count(fresh), database.count("dead_letters_by_cause")),
        (2, 1, 0)
    );
    Program::sync(&server, &database).run().expect_code(0);
    assert_eq!(database.count("account_freshness WHERE last_success_at = last_finished_at"), 1);
    database.execute("UPDATE campaigns SET removed_at = now() WHERE id = 'campaign_7'");
    assert_eq!(database.count("campaigns_current"), 39);
}

#[test]
fn run_history_counts_those_at_work_and_names_the_causes_of_retries() {
    let database = Database::create();
    drop(database.store());
    let words: Vec<&str> = Cause::ALL.iter().map(|cause| cause.word()).collect();
    let counts: Vec<i64> = (1..).take(words.len()).collect();
    let client = &mut database.connect();
    client
        .execute_typed(
            "INSERT INTO sync_runs (account, lists, listing_done, page_size, binary_version, synced, retried)
             VALUES ('a', true, false, 10, '1', 5, $1)",
            &[(&counts, postgres::types::Type::INT8_ARRAY)],
        )
        .unwrap();
    database.execute(
        "INSERT INTO workers (account, run_id, host, pid, synced, retries, retried)
         SELECT 'a', run_id, 'h', n, 10, 3, '{0,100}' FROM sync_runs, generate_series(1, 2) AS n",
    );
    let row = database
        .rows("SELECT synced, retries, workers, retries_by_cause::text FROM run_history", &[])
        .remove(0);
    assert_eq!((row.get(0), row.get(1), row.get(2)), (25i64, 6i64, 2i64));
    let named: Value = serde_json::from_str(row.get(3)).unwrap();
    assert_eq!(named.as_object().unwrap().len(), words.len());
    for (place, word) in words.iter().enumerate() {
        let more = if place == 1 { 200 } else { 0 };
        assert_eq!(named[*word].as_i64(), Some(counts[place] + more), "{word}: {named}");
    }
}

/// Every text of an object with this key, at any depth.
fn texts<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, field)| match field.as_str() {
            Some(text) if name == key => found.push(text),
            _ => texts(field, key, found),
        }),
        Value::Array(values) => values.iter().for_each(|value| texts(value, key, found)),
        _ => {}
    }
}

#[test]
fn the_dashboards_queries_run_and_its_metrics_are_written() {
    let dashboard: Value =
        serde_json::from_str(include_str!("../../src/units/grafana-dashboard.json")).unwrap();
    let (server, database) = (mock_api::start(Settings::fast(20)).unwrap(), Database::create());
    let folder = crate::support::Folder::new("dashboard");
    let metrics = folder.path("campaign_sync.prom");
    Program::sync(&server, &database).arg("--metrics-file").arg(&metrics).run().expect_code(0);
    let (mut queries, mut expressions) = (Vec::new(), Vec::new());
    texts(&dashboard["panels"], "rawSql", &mut queries);
    texts(&dashboard["panels"], "expr", &mut expressions);
    assert!(queries.len() >= 5 && expressions.len() >= 8);
    queries.push(dashboard["templating"]["list"][2]["query"].as_str().unwrap());
    for query in queries {
        let query = query.replace("$account", "'default', 'other'");
        let query = query.replace("$__timeFilter(", "now() - interval '1 day' < (");
        assert!(!query.contains('$'), "{query}");
        assert!(query.contains("dead_letters_by_cause") || !database.rows(&query, &[]).is_empty(), "{query}");
        database.rows(&query, &[]);
    }
    let written = std::fs::read_to_string(metrics).unwrap();
    for expression in expressions {
        for name in expression
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("campaign_sync_"))
        {
            let family = name.trim_end_matches("_bucket");
            assert!(written.contains(&format!("# TYPE {family} ")), "{name} of {expression}");
        }
    }
}
