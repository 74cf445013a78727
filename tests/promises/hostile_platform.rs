//! An attacker who controls the API, or stands in for it: what it says takes neither secrets, nor memory, nor time, and is
//! obeyed by nobody.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use campaign_sync::foreign;
use campaign_sync::platform::{MOST_RECORD_BYTES, MOST_TOKEN_BYTES};
use mock_api::{EMAIL, Faults, PASSWORD, Settings};

use crate::support::impostor::{Impostor, record, ten, token};
use crate::support::{Database, Folder, Outcome, PATIENCE, Program, assert_no_secret, eventually};

fn program(platform: &Impostor, database: &Database, arguments: &[&str]) -> Program {
    Program::new(arguments).api(&platform.url, EMAIL, PASSWORD).database(&database.url())
}

/// Runs it, and gives the most memory that it had at once, in MiB.
fn measured(program: Program, code: i32) -> (Outcome, u64) {
    measured_within(PATIENCE, program, code)
}

fn measured_within(patience: Duration, program: Program, code: i32) -> (Outcome, u64) {
    // As with the allocator of the static binary: glibc's keeps what was freed, for each thread apart.
    let program = program.env("MALLOC_ARENA_MAX", "1").env("MALLOC_MMAP_THRESHOLD_", "65536");
    let mut running = program.timeout(patience).spawn();
    let status = format!("/proc/{}/status", running.id());
    let mut peak: u64 = 0;
    eventually(patience, "the run ends", || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let found = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = found.map_or(peak, |kb| kb.trim().parse::<u64>().unwrap() >> 10);
        !running.is_running()
    });
    (running.wait().expect_code(code), peak)
}

#[test]
fn a_platform_that_repeats_our_credentials_is_not_repeated() {
    use base64::Engine;
    let pair = format!("{EMAIL}:{PASSWORD}");
    let encoded = base64::engine::general_purpose::STANDARD.encode(&pair);
    let echo = format!("no such user as {pair}, sent as {encoded} with a-token-for-the-test");
    for (refused, code) in [("/auth/token", 2), ("GET /api/", 2), ("/sync", 3), ("other", 5)] {
        let echo = echo.clone();
        let platform = Impostor::new(move |line| match line {
            _ if line.contains(refused) => (400, serde_json::json!({ "message": echo }).to_string()),
            _ if line.contains("/auth/token") => token(),
            _ if line.contains("/sync") && refused == "other" => {
                (200, serde_json::json!({ "success": true, "campaign_id": echo }).to_string())
            }
            _ if line.contains("/sync") => (200, r#"{"success": true}"#.into()),
            _ => (200, format!(r#"{{"data":[{}],"pagination":{{"has_more":false}}}}"#, record("c", "n", ""))),
        });
        let database = Database::create();
        let sync = program(&platform, &database, &["sync", "--json", "--give-up-after", "300ms"]);
        let outcome = sync.env("RUST_LOG", "trace").run().expect_code(code);
        let status = program(&platform, &database, &["status"]).run().expect_code(0);
        assert!(outcome.stderr.contains("[redacted]"), "{refused}: {outcome}");
        let shown = [&outcome.stdout, &outcome.stderr, &status.stdout].map(String::as_str);
        // Before it has given the token, it is no secret of ours.
        let secrets = [PASSWORD, "a-token-for-the-test"];
        assert_no_secret(&shown, if refused == "/auth/token" { &secrets[..1] } else { &secrets });
    }
}

#[test]
fn a_total_beyond_all_reason_is_no_total_and_breaks_nothing() {
    let page = |total: &str| {
        let page = format!(
            r#"{{"data":[{}],"pagination":{{"has_more":false,"total":{total}}}}}"#,
            record("c", "n", "")
        );
        Impostor::new(move |line| match line {
            _ if line.contains("/auth/token") => token(),
            _ if line.starts_with("POST ") => (200, r#"{"success": true}"#.into()),
            _ => (200, page.clone()),
        })
    };
    for total in ["9223372036854775807", "1000000000000"] {
        let (platform, database) = (page(total), Database::create());
        let limited = |command| program(&platform, &database, command).args(&["--rate-limit", "1000/1s"]);
        let planned = limited(&["plan"]).run();
        assert!(planned.code() == Some(0), "{planned}");
        let synced = limited(&["sync", "--json", "--deadline", "1h", "--progress", "always"]).run();
        assert_eq!(synced.expect_code(0).json()[0]["synced"], 1, "{total}");
        program(&platform, &database, &["status"]).run().expect_code(0);
    }
}

#[test]
fn a_page_of_millions_of_records_is_refused_before_it_fills_the_memory() {
    // Three million empty records are 9 MB as text, and were 600 MB in memory.
    let many = format!(r#"{{"data":[{}{{}}],"pagination":{{"has_more":false}}}}"#, "{},".repeat(3_000_000));
    let platform =
        Impostor::new(move |line| if line.contains("/auth/token") { token() } else { (200, many.clone()) });
    let database = Database::create();
    let sync = program(&platform, &database, &["sync", "--json", "--give-up-after", "100ms"]);
    let (outcome, peak) = measured(sync, 5);
    assert!(outcome.stderr.contains("JSON of another shape"), "{outcome}");
    assert!(peak < 100, "{peak} MiB");
    assert_eq!(database.count("dead_letters"), 0);
}

/// Pages of 29 MB, of 250 records each.
fn heavy_pages(pages: usize) -> Impostor {
    let filler = format!(r#","more":"{}""#, "x".repeat(116_000));
    let bodies: Vec<String> = (1..=pages)
        .map(|page| {
            let records: Vec<String> =
                (0..250).map(|n| record(&format!("c{page}-{n}"), "n", &filler)).collect();
            let (records, more) = (records.join(","), page < pages);
            format!(r#"{{"data":[{records}],"pagination":{{"page":{page},"has_more":{more}}}}}"#)
        })
        .collect();
    Impostor::new(move |line| match line {
        _ if line.contains("/auth/token") => token(),
        _ if line.starts_with("POST ") => (200, r#"{"success": true}"#.into()),
        _ => {
            let page: usize =
                line.split_once("?page=").unwrap().1.split('&').next().unwrap().parse().unwrap();
            (200, bodies[page - 1].clone())
        }
    })
}

#[test]
fn pages_of_29_megabytes_take_a_few_times_their_size_for_one_account_or_five() {
    // To read them takes a busy machine long, without optimization.
    let patience = 6 * PATIENCE;
    let flags = ["sync", "--page-size", "250", "--timeout", "5m"];
    let (platform, database) = (heavy_pages(2), Database::create());
    let (_, peak) = measured_within(patience, program(&platform, &database, &flags), 0);
    assert_eq!(database.count("campaigns"), 2 * 250);
    let (platform, database, folder) = (heavy_pages(1), Database::create(), Folder::new("heavy"));
    let account = |n| {
        let (url, email) = (&platform.url, EMAIL);
        format!(
            "[[account]]\nname = \"a{n}\"\napi_url = \"{url}\"\nemail = \"{email}\"\npassword_env = \"SECRET\"\n"
        )
    };
    folder.file("accounts.toml", &(0..5).map(account).collect::<String>(), 0o600);
    let five = Program::new(&flags).args(&["--accounts", &folder.path("accounts.toml")]);
    let five = five.env("SECRET", PASSWORD).database(&database.url());
    let (_, peak_of_five) = measured_within(patience, five, 0);
    assert_eq!(database.count("campaigns"), 5 * 250);
    println!("{peak} MiB for one, {peak_of_five} for five");
    assert!(peak < 250, "{peak} MiB for one account");
    assert!(peak_of_five < 350, "{peak_of_five} MiB for five");
}

#[test]
fn a_record_of_megabytes_is_a_dead_letter_under_its_own_id() {
    let filler = |bytes: usize| format!(r#","more":"{}""#, "x".repeat(bytes));
    let fits = record("fits", "n", &filler(MOST_RECORD_BYTES - 200));
    let records: Vec<String> = (0..5)
        .map(|n| record(&format!("large-{n}"), "n", &filler(MOST_RECORD_BYTES)))
        .chain([fits.clone()])
        .collect();
    assert!(fits.len() <= MOST_RECORD_BYTES);
    let (platform, database) = (Impostor::listing(&records), Database::create());
    program(&platform, &database, &["sync", "--json"]).run().expect_code(3);
    let large =
        "dead_letters WHERE cause = 'invalid' AND id LIKE 'large-%' AND reason LIKE 'the record has%'";
    assert_eq!((database.count("campaigns"), database.count(large)), (1, 5));
    let kept: String = database.value("SELECT payload FROM dead_letters WHERE id = 'large-3'");
    assert_eq!(kept, records[3], "the record is kept as it came");
}

#[test]
fn one_record_that_is_no_json_is_a_dead_letter_and_stops_no_other() {
    let platform = Impostor::paging(|page| {
        let (status, body) = ten(page, 100, page < 10);
        let body = match page {
            2 => body.replace(r#""campaign_15","name":"n""#, "\"campaign_15\",\"name\":\"a\tb\""),
            3 => body.replace(
                r#""campaign_25","name":"n","status":"active","budget":1"#,
                r#""campaign_25","budget":NaN"#,
            ),
            4 => body.replace(r#"{"id":"campaign_35"#, r#"{"id":"campaign_35""#),
            _ => body,
        };
        (status, body)
    });
    let database = Database::create();
    let outcome = program(&platform, &database, &["sync", "--json"]).run().expect_code(3);
    let line = &outcome.json()[0];
    assert_eq!((line["listed"].as_i64(), line["failed"].as_i64()), (Some(100), Some(3)), "{line}");
    assert_eq!((database.count("campaigns"), database.count("dead_letters")), (97, 3));
    let letters = database.rows("SELECT id, reason, payload FROM dead_letters ORDER BY reason", &[]);
    let texts: Vec<[String; 3]> = letters.iter().map(|row| [row.get(0), row.get(1), row.get(2)]).collect();
    assert!(
        texts[0][0] == "campaign_15" && texts[0][1].starts_with("page 2, record 5: no JSON"),
        "{texts:?}"
    );
    assert!(texts[0][2].contains("\"a\tb\""), "kept as it came: {texts:?}");
    assert!(texts[1][0] == "campaign_25" && texts[1][2].contains(r#""budget":NaN"#), "{texts:?}");
    assert!(texts[2][1].starts_with("page 4, record 5") && texts[2][2].contains("campaign_35"), "{texts:?}");

    let list = program(&platform, &database, &["list"]).run().expect_code(0);
    assert_eq!(list.stdout.lines().count(), 97);
    assert!(list.stderr.contains("page 2, record 5: no JSON"), "{list}");
}

#[test]
fn where_the_records_of_a_page_cannot_be_told_apart_the_message_names_page_and_place() {
    let platform = Impostor::paging(|page| {
        let (status, body) = ten(page, 20, page < 2);
        (status, if page == 2 { body[..body.len() - 150].to_owned() } else { body })
    });
    let database = Database::create();
    let sync = program(&platform, &database, &["sync", "--give-up-after", "300ms"]);
    let outcome = sync.run().expect_code(5);
    assert!(outcome.stderr.contains("page 2: ") && outcome.stderr.contains("behind record 9"), "{outcome}");
    assert_eq!(database.count("campaigns"), 10);
}

#[test]
fn pagination_as_text_is_read_and_what_cannot_be_read_is_named() {
    for (from, to, code, said) in [
        (r#""page": PAGE"#, r#""page": "PAGE""#, 0, ""),
        (r#""total": 30"#, r#""total": "30""#, 0, ""),
        (r#""limit": 10"#, r#""limit": "ten""#, 0, ""),
        (r#""has_more": true"#, r#""has_more": "true""#, 0, ""),
        (r#""has_more": false"#, r#""has_more": 0"#, 0, ""),
        (r#""has_more": true"#, r#""has_more": "soon""#, 5, r#"pagination.has_more is "soon""#),
        (r#""has_more": true"#, r#""more": true"#, 5, "pagination.has_more is missing"),
    ] {
        let platform = Impostor::paging(move |page| {
            let (status, body) = ten(page, 30, page < 3);
            let [from, to] = [from, to].map(|text| text.replace("PAGE", &page.to_string()));
            (status, body.replace(&from, &to))
        });
        let database = Database::create();
        let sync = program(&platform, &database, &["sync", "--json", "--give-up-after", "300ms"]);
        let outcome = sync.run().expect_code(code);
        assert!(outcome.stderr.contains(said), "{to}: {outcome}");
        if code == 0 {
            assert_eq!(database.count("campaigns"), 30, "{to}: {outcome}");
        }
    }
}

#[test]
fn a_byte_order_mark_before_json_is_dropped() {
    let platform = Impostor::paging(|page| {
        let (status, body) = ten(page, 10, false);
        (status, format!("\u{feff}{body}"))
    });
    let database = Database::create();
    program(&platform, &database, &["sync", "--give-up-after", "300ms"]).run().expect_code(0);
    assert_eq!(database.count("campaigns"), 10);
}

#[test]
fn a_token_that_no_header_can_hold_is_not_kept_for_later_runs() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let platform = Impostor::new(move |line| match line {
        // Too long while the first run lasts.
        _ if line.contains("/auth/token") => match counter.fetch_add(1, Ordering::SeqCst) {
            0 => (200, format!(r#"{{"access_token": "{}"}}"#, "a".repeat(MOST_TOKEN_BYTES + 1))),
            1 => (200, format!(r#"{{"access_token": "{}"}}"#, "a".repeat(MOST_TOKEN_BYTES))),
            _ => token(),
        },
        _ if line.contains("/sync") => (200, r#"{"success": true}"#.into()),
        _ => (200, format!(r#"{{"data":[{}],"pagination":{{"has_more":false}}}}"#, record("c", "n", ""))),
    });
    let database = Database::create();
    program(&platform, &database, &["sync"]).run().expect_code(0);
    assert_eq!(asked.load(Ordering::SeqCst), 2, "the first was not used, the second has the longest length");
}

#[test]
fn a_platform_that_closes_connections_without_a_word_costs_a_retry_a_worker_at_most() {
    let records: Vec<String> = (0..200).map(|n| record(&format!("c{n}"), "n", "")).collect();
    let (platform, database) = (Impostor::listing_rudely(&records), Database::create());
    let outcome = program(&platform, &database, &["sync", "--json", "--workers", "4"]).run().expect_code(0);
    assert_eq!(database.count("campaigns"), 200);
    let retries = outcome.json()[0]["retries"].as_u64().unwrap();
    assert!(retries <= 6, "{outcome}");
}

#[test]
fn a_platform_that_refuses_everything_is_given_up() {
    for refused in ["/auth/token", "/api/campaigns?", "/sync"] {
        let platform = Impostor::new(move |line| match line {
            _ if line.contains(refused) => (429, r#"{"error": "no", "retry_after": 0.02}"#.into()),
            _ if line.contains("/auth/token") => token(),
            _ => (200, format!(r#"{{"data":[{}],"pagination":{{"has_more":false}}}}"#, record("c", "n", ""))),
        });
        let database = Database::create();
        let flags = ["sync", "--json", "--give-up-after", "100ms", "--max-wait", "100ms"];
        let outcome = program(&platform, &database, &flags).run().expect_code(5);
        let gave_up = outcome.stderr.contains("gave up") || outcome.stderr.contains("--max-wait");
        assert!(gave_up, "{refused}: {outcome}");
        assert!(outcome.elapsed < Duration::from_secs(20), "{refused}: {outcome}");
        assert_eq!(database.count("dead_letters"), 0, "nobody is to blame for it");
    }
}

#[test]
fn a_token_endpoint_that_asks_to_wait_is_asked_no_sooner() {
    let platform = Impostor::new(|_| (429, r#"{"error": "no", "retry_after": 7200}"#.into()));
    let outcome = Program::new(&["list"]).api(&platform.url, EMAIL, PASSWORD).run().expect_code(5);
    assert!(outcome.stderr.contains("asks to wait 7") && outcome.stderr.contains("--max-wait"), "{outcome}");
    assert_eq!(platform.heard().len(), 1);
}

#[test]
fn bombs_endless_headers_and_slow_drips_take_neither_memory_nor_the_run() {
    let drip = (0.1, Duration::from_millis(100));
    let faults = Faults { gzip_bomb: 0.1, endless_headers: 0.1, drip, ..Faults::default() };
    let server = mock_api::start(Settings { faults, ..Settings::fast(60) }).unwrap();
    let database = Database::create();
    let sync = Program::sync(&server, &database).args(&["--timeout", "1s", "--max-attempts", "30"]);
    let (outcome, peak) = measured(sync, 0);
    assert_eq!(database.count("campaigns"), 60, "{outcome}");
    let cut_off = server.ledger().requests.iter().filter(|seen| seen.status == 0).count();
    assert!(cut_off >= 5, "{cut_off} requests came to no good\n{outcome}");
    assert!(peak < 128, "{peak} MiB at {cut_off} bad answers");
}

/// ESC, the C1 form of it, a bell, a backspace, line breaks, and what turns the direction of a text.
const COMMANDS: &str =
    "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\u{8}\r\n\u{85}\u{202e}\u{2066}\u{200f}\u{2028}<script>";

#[test]
fn nothing_that_the_platform_says_commands_a_terminal_a_browser_or_a_log() {
    let (id, name) = (format!("id {COMMANDS}"), format!("name {COMMANDS}"));
    let broken = record(&id, &name, "").replace("\"budget\":1", "\"budget\":\"1\"");
    let listed = [record("gone", &name, ""), record(&format!("{id} 2"), &name, ""), broken.clone()];
    let page = format!(r#"{{"data":[{}],"pagination":{{"has_more":false}}}}"#, listed.join(","));
    let message = serde_json::json!({ "message": COMMANDS, "error": COMMANDS }).to_string();
    let platform = Impostor::new(move |line| match line {
        _ if line.contains("/auth/token") => token(),
        _ if line.contains("/gone/") => (410, message.clone()),
        _ if line.contains("/sync") => (200, r#"{"success": true}"#.into()),
        _ => (200, page.clone()),
    });
    let database = Database::create();
    let folder = Folder::new("obeys");
    let files = ["metrics", "traces", "page"].map(|name| folder.path(name));
    let [metrics, traces, html] = files.each_ref().map(String::as_str);
    let mut shown = Vec::new();
    let mut keep = |what: &str, outcome: Outcome| {
        shown.push((format!("{what}: stdout"), outcome.stdout));
        shown.push((format!("{what}: stderr"), outcome.stderr));
    };
    for format in ["text", "json"] {
        let flags = ["--log-format", format, "--metrics-file", metrics, "--trace-file", traces];
        let mode = if format == "json" { &["sync", "--json"][..] } else { &["sync"] };
        let sync = program(&platform, &database, mode).args(&flags).env("RUST_LOG", "trace");
        keep(format, sync.run().expect_code(3));
    }
    for command in [&["status"][..], &["status", "--json"], &["report", "--html", html], &["list"]] {
        keep(command[0], program(&platform, &database, command).run().expect_code(0));
    }
    for path in &files {
        shown.push((path.clone(), std::fs::read_to_string(path).unwrap()));
    }
    for (what, text) in &shown {
        let obeyed = text.chars().find(|c| *c != '\n' && foreign::commands(*c));
        // The trace file is no terminal's: its strings are JSON's, which knows of C0 alone.
        let harmless = what.ends_with("traces") && obeyed.is_some_and(|c| c > '\u{7f}');
        assert!(obeyed.is_none() || harmless, "{what} holds {obeyed:?}:\n{text:?}");
        assert!(!what.ends_with("page") || !text.contains("<script"), "{what}: {text}");
    }
    assert!(shown.iter().any(|(what, text)| what.ends_with("page") && text.contains("&lt;script&gt;")));
}

#[test]
fn no_id_adds_a_header_a_path_or_a_request() {
    let ids = [
        "a\r\nX-Evil: 1",
        "b HTTP/1.1\r\nHost: evil\r\n\r\nPOST /admin HTTP/1.1",
        "../../admin",
        "%2e%2e%2fadmin",
        "..",
        "?x=1#y",
        "//evil.example/x",
        "\u{202e}c\u{7f}",
        "\\..\\x",
    ];
    let records: Vec<String> = ids.iter().map(|id| record(id, "n", "")).collect();
    let (platform, database) = (Impostor::listing(&records), Database::create());
    program(&platform, &database, &["sync"]).run().expect_code(0);
    let heard = platform.heard();
    let syncs: Vec<&String> = heard.iter().filter(|request| !request.contains("POST /auth/")).collect();
    assert_eq!(syncs.len(), ids.len() + 1, "one request each, and the page");
    for request in syncs {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let path = head.split(' ').nth(1).unwrap();
        assert!(path.starts_with("/api/campaigns"), "{head}");
        assert!(path.split('/').all(|segment| segment != ".." && segment != "."), "{head}");
        let names: Vec<&str> = head.lines().skip(1).map(|line| line.split(':').next().unwrap()).collect();
        assert!(names.iter().all(|name| !["X-Evil", "x-evil"].contains(name)), "{head}");
        assert_eq!(names.iter().filter(|name| name.eq_ignore_ascii_case("host")).count(), 1, "{head}");
        if head.starts_with("POST") {
            let id = serde_json::from_str::<serde_json::Value>(body).unwrap()["campaign_id"].clone();
            assert!(ids.contains(&id.as_str().unwrap()), "{body}");
        }
    }
    assert_eq!(database.column::<String>("SELECT id FROM campaigns").len(), ids.len());
}

#[test]
fn what_is_not_encrypted_passes_no_proxy() {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let server = mock_api::start(Settings::fast(3)).unwrap();
    let mut list = Program::new(&["list"]).api(&server.url(), EMAIL, PASSWORD);
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        list = list.env(name, &address);
    }
    assert_eq!(list.run().expect_code(0).stdout.lines().count(), 3);
    assert!(proxy.accept().is_err(), "nobody came to the proxy");
}
