//! The statements: whole ones that Postgres can explain, in forms that a Postgres distributed by account runs as well, and
//! prepared where that pays and a session is our own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use campaign_sync::store::schema;
use mock_api::Settings;
use postgres::types::Type;

use crate::support::{Database, Program, pool};

/// The text of each file of a folder, by its path.
fn files(folder: &str) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let text = |path: PathBuf| {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        (name, std::fs::read_to_string(&path).unwrap())
    };
    paths.filter(|path| path.is_file()).map(text).collect()
}

/// How a statement is carried out that is planned once for all values, on tables of which nothing is known.
fn general_plan(client: &mut postgres::Client, statement: &str) -> String {
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("SET LOCAL plan_cache_mode = force_generic_plan").unwrap();
    let whole = transaction.batch_execute(&format!("PREPARE general AS {statement}"));
    whole.unwrap_or_else(|error| panic!("{error:?}\n{statement}"));
    let count = "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'general'";
    let count: i32 = transaction.query_one(count, &[]).unwrap().get(0);
    let nulls = match vec!["NULL"; usize::try_from(count).unwrap()].join(", ") {
        none if none.is_empty() => none,
        some => format!("({some})"),
    };
    let rows = transaction.query(&format!("EXPLAIN EXECUTE general{nulls}"), &[]).unwrap();
    transaction.batch_execute("DEALLOCATE general").unwrap();
    rows.iter().map(|row| row.get::<_, String>(0) + "\n").collect()
}

#[test]
fn every_file_is_a_whole_statement_and_reads_by_index_even_before_the_first_analyze() {
    let database = Database::create();
    let client = &mut database.connect();
    schema::migrate(client).unwrap().unwrap();
    let mut explained = 0;
    // The others ask the catalogs of the server.
    for (name, statement) in files("sql").iter().filter(|(_, text)| text.contains(" campaign_sync.")) {
        let plan = general_plan(client, statement);
        assert!(!plan.contains("Seq Scan on "), "{name}:\n{plan}");
        explained += 1;
    }
    assert!(explained > 20, "{explained}");
}

/// How many statements a connection has prepared after one has come back that often.
pub(crate) fn prepared_after(url: &str, times: i64) -> i64 {
    let mut connection = pool(url, 1).get().unwrap();
    for n in 0..times {
        let row = connection.query_typed_one("SELECT 2 * $1", &[(&n, Type::INT8)]).unwrap();
        assert_eq!(row.get::<_, i64>(0), 2 * n);
    }
    connection.query_typed_one("SELECT count(*) FROM pg_prepared_statements", &[]).unwrap().get(0)
}

#[test]
fn a_statement_that_comes_back_on_a_connection_is_prepared() {
    let database = Database::create();
    assert_eq!(prepared_after(&database.url(), 2), 0, "a short run saves the round trip");
    assert_eq!(prepared_after(&database.url(), 100), 1);
}

#[test]
fn prepared_statements_that_are_lost_are_done_without() {
    let database = Database::create();
    schema::migrate(&mut database.connect()).unwrap().unwrap();
    database.execute(
        "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DEALLOCATE ALL; RETURN NULL; END $$;
         CREATE TRIGGER forget AFTER INSERT ON campaigns EXECUTE FUNCTION forget()",
    );
    let server = mock_api::start(Settings::fast(5_000)).unwrap();
    let sync = Program::sync(&server, &database).args(&["--page-size", "10"]).env("RUST_LOG", "info");
    let outcome = sync.run().expect_code(0);
    let told = outcome.stderr.matches("going on without them").count();
    assert_eq!(told, 1, "{}", outcome.stderr);
    assert_eq!(database.count("campaigns"), 5_000);
    assert!(server.ledger().syncs_asked().values().all(|times| *times == 1));
}

/// Every statement's text without comments, by file: whatever `sql/` and `src/store` have, migrations excepted.
fn statements() -> Vec<(String, String)> {
    let without_comment = |line: &str| {
        line.split("--").next().unwrap_or_default().split("//").next().unwrap_or_default().to_owned()
    };
    let code = |(name, text): (String, String)| {
        (name, text.lines().map(without_comment).collect::<Vec<_>>().join("\n"))
    };
    let statements: Vec<_> = ["sql", "src/store"].into_iter().flat_map(files).map(code).collect();
    assert!(statements.len() > 40, "{}", statements.len());
    statements
}

/// Each is a whole statement, so what both do stands in both.
#[test]
fn both_statements_that_store_campaigns_replace_rows_and_write_history_alike() {
    let statements: BTreeMap<_, _> = statements().into_iter().collect();
    let [pages, results] = ["sql/add_pages.sql", "sql/complete.sql"].map(|name| {
        let (_, rest) = statements[name].split_once("SET name = excluded.name").expect("it replaces rows");
        let (alike, _) = rest.split_once("ORDER BY s.id").expect("it writes history");
        alike.trim_end()
    });
    assert!(pages.contains("INSERT INTO campaign_sync.campaign_changes"), "{pages}");
    // Pages whose answer was lost are committed again: what this run has stored by then stays as it is.
    let (set, history) =
        pages.split_once("        WHERE c.run_id <> excluded.run_id\n").expect("it replaces once");
    assert_eq!(format!("{set}{history}"), results);
}

/// What follows each `start`, up to one of the `ends` or the parenthesis or quotation mark that closes what it stands in.
fn parts<'a>(code: &'a str, start: &str, ends: &[&str]) -> Vec<&'a str> {
    let part = |(at, _): (usize, &str)| {
        let rest = &code[at + start.len()..];
        let mut depth = 0;
        let end = rest.char_indices().find(|(place, letter)| {
            match letter {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            depth < 0
                || *letter == '"'
                || depth == 0 && ends.iter().any(|end| rest[*place..].starts_with(end))
        });
        &rest[..end.map_or(rest.len(), |(place, _)| place)]
    };
    code.match_indices(start).map(part).collect()
}

#[test]
fn no_statement_relies_on_where_a_row_lies_or_on_the_order_of_numbers() {
    for (name, code) in statements() {
        for refused in ["ctid", "max(run_id)", "FOR UPDATE OF", "FOR NO KEY UPDATE OF"] {
            assert!(!code.contains(refused), "{name}: {refused}");
        }
    }
}

/// What is not immutable, as a distributed Postgres sees it: it refuses these where a row is changed.
const CHANGING: [&str; 8] = [
    "now()",
    "clock_timestamp",
    "make_interval",
    "interval '",
    "random",
    "jsonb_build",
    "to_char",
    "current_",
];

#[test]
fn rows_are_changed_to_columns_that_were_computed_before() {
    let mut seen = 0;
    for (name, code) in statements() {
        let sets = ["\n    SET ", "\nSET ", " SET "]
            .map(|start| parts(&code, start, &["FROM ", "WHERE ", "RETURNING "]));
        for set in sets.concat().into_iter().filter(|set| set.contains(" = ")) {
            seen += 1;
            for refused in CHANGING.into_iter().chain(["SELECT", "EXISTS"]) {
                assert!(!set.contains(refused), "{name}: SET with {refused}: {set}");
            }
            for case in set.match_indices("CASE").map(|(at, _)| &set[at..]) {
                let case = case.split(" END").next().unwrap_or_default();
                assert!(!case.contains('$'), "{name}: SET with a parameter in {case}");
            }
        }
        for (start, volatile) in [("UPDATE campaign_sync.", "clock_timestamp"), ("DO UPDATE", "now()")] {
            for update in parts(&code, start, &["RETURNING "]) {
                assert!(!update.contains(volatile), "{name}: {start} with {volatile}: {update}");
                assert!(!update.contains("clock_timestamp"), "{name}: {update}");
            }
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn a_statement_names_its_account_to_every_table() {
    for (name, code) in statements() {
        // Of another table's rows the account is that of this one's by their parameter, and never by a comparison of the two.
        let words: Vec<&str> = code.split_whitespace().collect();
        for comparison in words.windows(3).filter(|words| words[1] == "=" && words[0].ends_with("account")) {
            let other = comparison[2].trim_end_matches([')', ',', ';']).trim_start_matches('(');
            let sql = other.starts_with(|letter: char| letter.is_ascii_lowercase());
            assert!(!(sql && other.ends_with(".account")), "{name}: {}", comparison.join(" "));
        }
        assert!(!code.contains("USING (account)"), "{name}");
        // What is inserted from a query has the account of the rows that it is made of.
        for insertion in parts(&code, "INSERT INTO campaign_sync.", &["ON CONFLICT", "RETURNING "]) {
            let from = insertion.split("SELECT ").nth(1).unwrap_or_default();
            assert!(!from.starts_with("$1"), "{name}: {insertion}");
        }
    }
}
