//! A run as a page: complete, safe to open, readable by browser, phone and screen reader, from little that is stored.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use campaign_sync::http::RateLimit;
use campaign_sync::store::leases::{self, Effort};
use campaign_sync::store::process::Process;
use campaign_sync::store::runs::Opening;
use campaign_sync::store::{join, samples, schema};
use mock_api::{EMAIL, Faults, PASSWORD, Server, Settings};
use serde_json::{Value, json};

use crate::support::{Database, Folder, Outcome, Program};

const HOSTILE: &str = "<script>alert('x')</script>\u{1b}[31m&\"";

/// Thirty campaigns and two, thirty times as fast as the platform, with trouble; some are refused for good.
fn troubled() -> Server {
    let unstorable = json!({ "id": HOSTILE, "name": HOSTILE, "status": "active", "impressions": 1.5 });
    mock_api::start(Settings {
        campaigns: 30,
        added: vec![unstorable.to_string(), json!({ "name": HOSTILE }).to_string()],
        faults: Faults { refused_every: 10, server_error: 0.15, ..Faults::default() },
        ..Settings::faithful(30.0)
    })
    .unwrap()
}

fn sync(server: &Server, database: &Database, flags: &[&str]) -> Outcome {
    Program::sync(server, database).args(flags).run()
}

fn report(database: &Database, flags: &[&str]) -> Outcome {
    Program::new(&["report"]).args(flags).database(&database.url()).run()
}

fn page(database: &Database) -> String {
    report(database, &["--html", "-"]).expect_code(0).stdout
}

/// Every tag is closed, in order; attributes are quoted; there are no tags but the known ones.
#[track_caller]
fn assert_well_formed(page: &str) {
    let mut open: Vec<String> = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("it begins with its type");
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "a bare > in {:?}", &rest[..start]);
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "</{name}>");
        } else {
            let name = tag.split([' ', '/']).next().unwrap();
            assert!(
                name.chars().all(|c| c.is_ascii_alphanumeric())
                    && !["script", "iframe", "img", "link"].contains(&name),
                "<{tag}>"
            );
            assert!(tag.matches('"').count().is_multiple_of(2), "<{tag}>");
            if !tag.ends_with('/') {
                open.push(name.to_owned());
            }
        }
        rest = &rest[end + 1..];
    }
    assert_eq!(open, [""; 0], "unclosed");
}

#[track_caller]
fn assert_from_nowhere_else(page: &str) {
    for what in
        ["http:", "https:", "//", " src=", " href=", "url(", "@import", "javascript:", " onload", "\u{1b}"]
    {
        // The policy that the page carries is the one place for `http-equiv`.
        assert!(!page.contains(what), "{what}: {}", page.split(what).next().unwrap().len());
    }
}

#[test]
fn a_troubled_run_is_shown_whole_and_nothing_in_it_is_obeyed() {
    let (server, database) = (troubled(), Database::create());
    let done = sync(&server, &database, &["--rate-limit", "10/2s"]).expect_code(3).json().remove(0);
    let page = page(&database);
    let (head, rest) = page.split_once("<style>").unwrap();
    let (_, body) = rest.split_once("</style>").unwrap();
    assert_well_formed(&format!("{head}{body}"));
    assert_from_nowhere_else(&page);
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\\u{1b}[31m&amp;&quot;"));
    assert!(page.contains("Run 1 <span class=\"state partial\">"));
    assert!(page.contains("minimum under the rate limit of 10 requests in 2 s is"));
    for figure in ["requests", "retries"] {
        let shown = format!("<dt>{figure}</dt><dd>{}</dd>", done[figure]);
        assert!(page.contains(&shown), "{shown}");
    }
    for (word, key) in [("synced", "synced"), ("listed", "listed"), ("failed", "failed")] {
        assert!(page.contains(&format!("{word}: {}</li>", done[key])), "{word}: {done}");
    }
    for id in ["campaign_10", "campaign_20", "campaign_30"] {
        assert!(page.contains(&format!("<code>{id}</code>")), "{id}");
    }
    assert!(page.contains("server error (5xx)") && page.contains("p99 "));
    // Whoever does not see the pictures has their numbers.
    let pictures = page.matches("role=\"img\"").count();
    assert_eq!((pictures, page.matches("<desc id=").count()), (6, 6));
    for id in
        page.split("aria-labelledby=\"").skip(1).flat_map(|rest| rest.split('"').next().unwrap().split(' '))
    {
        assert_eq!(page.matches(&format!("id=\"{id}\"")).count(), 1, "{id}");
    }
    let (counted, sent): (i64, i64) = (
        database.value("SELECT sum(n)::bigint FROM sync_runs, unnest(durations) AS n"),
        database.value("SELECT requests FROM sync_runs"),
    );
    assert_eq!(counted, sent, "each request was timed once");
}

#[test]
fn a_run_of_an_instant_has_its_end_and_empty_sections_say_so() {
    let (server, database) = (mock_api::start(Settings::fast(4)).unwrap(), Database::create());
    sync(&server, &database, &[]).expect_code(0);
    let page = page(&database);
    assert!(page.contains("4 of 4 campaigns synced in "), "{page}");
    for words in ["Nothing was retried.", "None: no campaign failed permanently.", "The only run so far"] {
        assert!(page.contains(words), "{words}");
    }
    let course = page.split("class=\"line synced\" d=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(
        course.starts_with("M0.0 1000.0L") && course.contains("1000.0 0.0"),
        "from nought to all: {course}"
    );
}

#[test]
fn any_run_can_be_asked_for_and_what_is_not_there_is_named() {
    let (server, database) = (mock_api::start(Settings::fast(3)).unwrap(), Database::create());
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    let outcome = report(&database, &["--html", "-"]).expect_code(2);
    assert!(outcome.stderr.contains("no run yet"), "{outcome}");
    for _ in 0..3 {
        sync(&server, &database, &[]).expect_code(0);
    }
    let older = report(&database, &["2", "--html", "-"]).expect_code(0).stdout;
    assert!(older.contains("<h1>Run 2 ") && older.contains("The last 3 runs"), "{older}");
    for (flags, told) in [
        (&["7", "--html", "-"][..], "report 7: there is no such run; the newest are 3, 2, 1"),
        (&["last", "--html", "-"], "by its number"),
        (&["--html", "-", "--only", "nobody"], "no such account in the database"),
        (&["2"], "--html FILE"),
        (&["--html", "/nowhere/run.html"], "/nowhere/run.html"),
    ] {
        let outcome = report(&database, flags).expect_code(2);
        assert!(outcome.stderr.contains(told) && outcome.stderr.lines().count() == 1, "{flags:?}: {outcome}");
    }
}

#[test]
fn the_file_is_replaced_as_a_whole_and_everybody_may_read_it() {
    let (server, database) = (mock_api::start(Settings::fast(3)).unwrap(), Database::create());
    sync(&server, &database, &[]).expect_code(0);
    let folder = Folder::new("report");
    let file = folder.as_path().join("run.html");
    std::fs::write(&file, "before").unwrap();
    let link = folder.as_path().join("link.html");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let outcome = report(&database, &["--html", link.to_str().unwrap()]).expect_code(0);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""));
    assert!(std::fs::read_to_string(&file).unwrap().ends_with("</html>\n"));
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(std::fs::read_dir(folder.as_path()).unwrap().count(), 2, "nothing is left over");
}

#[test]
fn samples_stay_few_however_long_a_run_is() {
    let database = Database::create();
    let client = &mut database.connect();
    schema::migrate(client).unwrap().unwrap();
    let opening = Opening {
        page_size: 10,
        max_age: Duration::from_secs(86_400),
        fresh: false,
        lists: true,
        keeps_history: true,
    };
    let run = join::open(client, "default", &opening).unwrap().0.run_id;
    let worker = 1;
    leases::register(client, "default", run, worker, &Process::default()).unwrap();
    let mut effort = Effort { limit: RateLimit::new(10, Duration::from_secs(60)), ..Effort::default() };
    for beat in 1..=1000 {
        // Two seconds later:
        let later = "UPDATE sync_runs SET started_at = started_at - interval '2 s', sampled_at = sampled_at - interval '2 s'";
        client.execute(later, &[]).unwrap();
        (effort.requests, effort.limited) = (beat, beat);
        leases::heartbeat(client, "default", run, worker, effort, false).unwrap();
        // Not due: nothing comes of it.
        leases::heartbeat(client, "default", run, worker, effort, false).unwrap();
    }
    let (kept, bytes): (i32, i32) = (
        database.value("SELECT jsonb_array_length(samples) FROM sync_runs"),
        database.value("SELECT pg_column_size(samples) FROM sync_runs"),
    );
    assert!((128..=256).contains(&kept) && bytes < 24_000, "{kept} samples, {bytes} bytes");
    assert!(database.value::<f64>("SELECT sample_seconds FROM sync_runs") > 1.5);
    let course = samples::course(client, "default", run).unwrap().unwrap();
    assert_eq!((course.limited, course.limit), (1000, effort.limit));
    assert!(course.samples.is_sorted_by(|a, b| a.at <= b.at && a.limited <= b.limited));
    let gaps = course.samples.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs()).max();
    assert!(gaps <= Some(20) && course.samples[0].at.as_secs() <= 20, "the whole of it is covered: {gaps:?}");
}

#[test]
fn several_processes_make_one_course() {
    let latency = Duration::from_millis(20);
    let server = mock_api::start(Settings { sync_latency: latency, ..Settings::fast(400) }).unwrap();
    let database = Database::create();
    let three = [(); 3].map(|()| Program::sync(&server, &database).args(&["--workers", "4"]).spawn());
    for running in three {
        running.wait().expect_code(0);
    }
    let course = samples::course(&mut database.connect(), "default", 1).unwrap().unwrap();
    assert_eq!(course.durations.iter().sum::<i64>(), course.requests);
    assert!(
        course.samples.is_sorted_by(|a, b| a.at <= b.at && a.synced <= b.synced && a.limited <= b.limited)
    );
    let end = course.samples.last().unwrap();
    assert_eq!((end.synced, end.at), (400, course.lasted));
}

#[test]
fn a_role_with_no_more_than_the_documented_rights_can_sync_and_report() {
    let (server, database) = (troubled(), Database::create());
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    let name: String = database.value("SELECT 'syncer_' || current_database()");
    database.execute(&format!(
        "CREATE ROLE {name} LOGIN PASSWORD 'only-this-much';
         GRANT USAGE ON SCHEMA campaign_sync TO {name};
         GRANT SELECT, INSERT, UPDATE, DELETE ON sync_runs, workers, sync_tasks, dead_letters TO {name};
         GRANT SELECT, INSERT, UPDATE ON campaigns, quotas, access_tokens TO {name};
         GRANT SELECT, INSERT, DELETE ON campaign_changes TO {name};
         GRANT SELECT ON account_freshness, schema_migrations TO {name}"
    ));
    let url = database.url();
    let (_, place) = url.rsplit_once('@').unwrap();
    let url = format!("postgres://{name}:only-this-much@{place}");
    let program = |command: &[&str]| Program::new(command).api(&server.url(), EMAIL, PASSWORD).database(&url);
    let synced = program(&["sync", "--no-migrate"]).run();
    let page = program(&["report", "--html", "-"]).run();
    database.execute(&format!("DROP OWNED BY {name}; DROP ROLE {name}"));
    synced.expect_code(3);
    assert!(page.expect_code(0).stdout.contains("state partial"));
}

/// Headless Chromium, if there is one.
struct Browser(&'static str);

impl Browser {
    fn found() -> Option<Self> {
        let names = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let there = |name: &&str| std::env::split_paths(&folders).any(|folder| folder.join(name).exists());
        names.into_iter().find(there).map(Self)
    }

    fn open(&self, file: &Path, width: u32, height: u32, dark: bool, what: &str) -> Output {
        let own = Folder::new("browser");
        let scheme = if dark { "preferredColorScheme=0" } else { "preferredColorScheme=1" };
        Command::new("timeout")
            .args([
                "60",
                self.0,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--enable-logging=stderr",
            ])
            .arg(format!("--user-data-dir={}", own.as_path().display()))
            .arg(format!("--blink-settings={scheme}"))
            .arg(format!("--window-size={width},{height}"))
            .args([what, &format!("file://{}", file.display())])
            .output()
            .unwrap()
    }
}

#[test]
fn a_browser_shows_the_page_on_a_phone_and_a_desk_by_day_and_night() {
    let Some(browser) = Browser::found() else {
        println!("no Chromium is installed: the page was not opened");
        return;
    };
    let (server, database) = (troubled(), Database::create());
    sync(&server, &database, &["--rate-limit", "10/2s"]).expect_code(3);
    let page = page(&database);
    let folder = Folder::new("report");
    let file = folder.as_path().join("run.html");
    std::fs::write(&file, &page).unwrap();
    // The page runs no script; this copy of it may, and measures itself.
    let measuring = "<script>document.documentElement.dataset.measured = JSON.stringify({
        beyond: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        high: document.documentElement.scrollHeight,
        page: getComputedStyle(document.body).backgroundColor,
        flat: [...document.querySelectorAll('svg.plot')].filter(plot => plot.getBoundingClientRect().height < 100).length,
        plots: document.querySelectorAll('svg.plot').length,
        smallest: Math.min(...[...document.querySelectorAll('svg text')].map(text => parseFloat(getComputedStyle(text).fontSize))),
    })</script></body>";
    let policy = page.split("<meta http-equiv").nth(1).unwrap().split('>').next().unwrap();
    let measured = page.replace(&format!("<meta http-equiv{policy}>"), "").replace("</body>", measuring);
    let copy = folder.as_path().join("measured.html");
    std::fs::write(&copy, measured.replace("<details>", "<details open=\"open\">")).unwrap();
    let mut grounds = Vec::new();
    for (width, height, dark) in [(360, 800, false), (360, 800, true), (1280, 900, false), (1280, 900, true)]
    {
        let picture = folder.as_path().join(format!("{width}-{dark}.png"));
        let shot = browser.open(&file, width, height, dark, &format!("--screenshot={}", picture.display()));
        let said = String::from_utf8_lossy(&shot.stderr);
        assert!(shot.status.success() && !said.contains("CONSOLE"), "{width}, dark: {dark}: {said}");
        let png = std::fs::read(&picture).unwrap();
        assert_eq!(png[16..24], [width.to_be_bytes(), height.to_be_bytes()].concat());
        let dom = browser.open(&copy, width, height, dark, "--dump-dom").stdout;
        let dom = String::from_utf8_lossy(&dom);
        let found = dom.split("data-measured=\"").nth(1).expect("measured").split('"').next().unwrap();
        let found: Value = serde_json::from_str(&found.replace("&quot;", "\"")).unwrap();
        assert_eq!(
            (&found["beyond"], &found["flat"], &found["plots"]),
            (&json!(0), &json!(0), &json!(5)),
            "{found}"
        );
        assert!(found["high"].as_f64() > Some(1000.0) && found["smallest"].as_f64() >= Some(11.0), "{found}");
        grounds.push(found["page"].to_string());
    }
    assert!(grounds[0] == grounds[2] && grounds[1] == grounds[3] && grounds[0] != grounds[1], "{grounds:?}");
}

#[test]
fn status_draws_the_run_in_small_on_a_terminal_and_nowhere_else() {
    let (server, database) = (mock_api::start(Settings::fast(30)).unwrap(), Database::create());
    sync(&server, &database, &[]).expect_code(0);
    sync(&server, &database, &[]).expect_code(0);
    let piped = Program::new(&["status"]).env("TERM", "xterm").env("LANG", "C.UTF-8");
    let piped = piped.database(&database.url()).run().expect_code(0).stdout;
    assert!(piped.is_ascii(), "{piped}");
    if Command::new("script").arg("--version").output().is_err() {
        println!("script is not installed: no terminal to try");
        return;
    }
    let on_a_terminal = |term: &str| {
        let line = format!("'{}' status", env!("CARGO_BIN_EXE_campaign-sync"));
        let shown = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .envs([("DATABASE_URL", database.url().as_str()), ("TERM", term), ("LC_ALL", "C.UTF-8")])
            .output()
            .unwrap();
        String::from_utf8(shown.stdout).unwrap()
    };
    let (able, dumb) = (on_a_terminal("xterm"), on_a_terminal("dumb"));
    for what in ["  synced   ", "  requests ", "  runs     "] {
        let line =
            able.lines().find(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what}: {able}"));
        assert!(line.contains('█'), "{line}");
    }
    assert!(dumb.contains("30 of 30 synced") && !dumb.contains('█'), "{dumb}");
}
