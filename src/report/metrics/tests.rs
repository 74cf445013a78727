use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::*;
use crate::scratch::Scratch;
use crate::sync::{Ending, Outcome};

fn file_in(folder: &Scratch) -> PathBuf {
    folder.path().join("campaign_sync.prom")
}

fn row(account: &str) -> Row {
    let counts = Counts { by_class: [100, 1, 2, 3, 4], token_refreshes: 1, ..Counts::default() };
    let mut row = Row::failed(account, 0);
    row.elapsed = Some(Duration::from_millis(1_500));
    row.freshness.last_success = Some(UNIX_EPOCH + Duration::from_millis(1_767_473_859_250));
    row.dead_letters = Some(7);
    row.campaigns = Some([90, 7, 3, 1]);
    row.listed = Some((97, Some(100), 2));
    row.listing = Listing::Complete;
    Row { counts, waited: Duration::from_millis(250), ..row }
}

fn write(path: &Path, rows: impl IntoIterator<Item = Row>) -> String {
    let mut file = MetricsFile::new(path);
    rows.into_iter().for_each(|row| file.add(row, Instant::now()));
    file.write();
    fs::read_to_string(path).unwrap()
}

#[track_caller]
fn assert_has(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
}

#[test]
fn all_that_is_known_is_told() {
    let folder = Scratch::new("told");
    let mut row = row("default");
    row.counts.retries[Cause::Timeout as usize] = 5;
    row.counts.latency_buckets[1] = 60;
    row.counts.latency_buckets[12] = 2;
    row.counts.latency = Duration::from_millis(75_500);
    let text = write(&file_in(&folder), [row]);
    for line in [
        "# TYPE campaign_sync_last_success_timestamp_seconds gauge",
        "campaign_sync_last_success_timestamp_seconds{account=\"default\"} 1767473859.25",
        "campaign_sync_last_exit_code{account=\"default\"} 0",
        "campaign_sync_run_duration_seconds{account=\"default\"} 1.5",
        "campaign_sync_campaigns{account=\"default\",state=\"synced\"} 90",
        "campaign_sync_campaigns{account=\"default\",state=\"removed\"} 1",
        "campaign_sync_listed_campaigns{account=\"default\"} 97",
        "campaign_sync_platform_campaigns{account=\"default\"} 100",
        "campaign_sync_not_removed_campaigns{account=\"default\"} 2",
        "campaign_sync_dead_letters{account=\"default\"} 7",
        "# TYPE campaign_sync_requests_total counter",
        "campaign_sync_requests_total{account=\"default\",status=\"2xx\"} 100",
        "campaign_sync_requests_total{account=\"default\",status=\"error\"} 4",
        "campaign_sync_retries_total{account=\"default\",cause=\"timeout\"} 5",
        "campaign_sync_token_refreshes_total{account=\"default\"} 1",
        "campaign_sync_rate_limit_wait_seconds_total{account=\"default\"} 0.25",
        "campaign_sync_request_duration_seconds_bucket{account=\"default\",le=\"0.005\"} 0",
        "campaign_sync_request_duration_seconds_bucket{account=\"default\",le=\"0.01\"} 60",
        "campaign_sync_request_duration_seconds_bucket{account=\"default\",le=\"+Inf\"} 62",
        "campaign_sync_request_duration_seconds_sum{account=\"default\"} 75.5",
        "campaign_sync_request_duration_seconds_count{account=\"default\"} 62",
    ] {
        assert_has(&text, line);
    }
}

#[test]
fn counters_go_on_over_runs_and_gauges_are_those_of_the_last() {
    let folder = Scratch::new("goes-on");
    write(&file_in(&folder), [row("default")]);
    let text = write(&file_in(&folder), [Row { dead_letters: Some(1), ..row("default") }]);
    assert_has(&text, "campaign_sync_requests_total{account=\"default\",status=\"2xx\"} 200");
    assert_has(&text, "campaign_sync_rate_limit_wait_seconds_total{account=\"default\"} 0.5");
    assert_has(&text, "campaign_sync_dead_letters{account=\"default\"} 1");
}

#[test]
fn a_run_that_never_came_to_be_keeps_the_last_success() {
    let folder = Scratch::new("keeps");
    write(&file_in(&folder), [row("default")]);
    let ending = Ending::DatabaseUnavailable("no database".into());
    let outcome = Outcome::without_run("default", ending, Duration::from_secs(2));
    let text = write(&file_in(&folder), [Row::new(&outcome)]);
    assert_has(&text, "campaign_sync_last_success_timestamp_seconds{account=\"default\"} 1767473859.25");
    assert_has(&text, "campaign_sync_dead_letters{account=\"default\"} 7");
    assert_has(&text, "campaign_sync_last_exit_code{account=\"default\"} 5");
    assert_has(&text, "campaign_sync_run_duration_seconds{account=\"default\"} 2");
}

#[test]
fn an_account_that_never_was_synced_has_a_very_old_success() {
    let folder = Scratch::new("never");
    let text = write(&file_in(&folder), [Row::failed("default", 2)]);
    assert_has(&text, "campaign_sync_last_success_timestamp_seconds{account=\"default\"} 0");
}

#[test]
fn listings_that_fail_in_a_row_are_counted() {
    let folder = Scratch::new("listing");
    let after = |listing, expected| {
        let text = write(&file_in(&folder), [Row { listing, ..row("default") }]);
        assert_has(
            &text,
            &format!("campaign_sync_consecutive_listing_failures{{account=\"default\"}} {expected}"),
        );
    };
    after(Listing::Failed, 1);
    after(Listing::Unknown, 1);
    after(Listing::Failed, 2);
    after(Listing::Complete, 0);
}

#[test]
fn only_what_the_platform_denies_is_a_failed_listing() {
    let of = |ending| listing(&Outcome::without_run("default", ending, Duration::ZERO));
    let after = Duration::from_secs(300);
    assert_eq!(of(Ending::Listing("no end".into())), Listing::Failed);
    assert_eq!(of(Ending::GaveUp { after, api: String::new(), last: "503".into() }), Listing::Failed);
    for ending in [
        Ending::Interrupted(15),
        Ending::Deadline,
        Ending::CredentialsRefused("no".into()),
        Ending::DatabaseUnavailable("no".into()),
    ] {
        assert_eq!(of(ending), Listing::Unknown);
    }
}

#[test]
fn other_accounts_stay_and_names_need_no_care() {
    let folder = Scratch::new("others");
    let odd = "a\"b\\n\nc, le=\"x\"} 5";
    let first = write(&file_in(&folder), [row("north"), row(odd)]);
    let text = write(&file_in(&folder), [row("south")]);
    assert_has(&text, r#"campaign_sync_last_exit_code{account="a\"b\\n\nc, le=\"x\"} 5"} 0"#);
    let without_south: Vec<&str> = text.lines().filter(|line| !line.contains("\"south\"")).collect();
    assert_eq!(first.lines().collect::<Vec<_>>(), without_south);
}

#[test]
fn a_command_that_fails_before_it_knows_its_accounts_has_failed_for_all_of_the_file() {
    let folder = Scratch::new("all-failed");
    MetricsFile::new(&file_in(&folder)).fail(2, &[]);
    assert_has(
        &fs::read_to_string(file_in(&folder)).unwrap(),
        "campaign_sync_last_exit_code{account=\"default\"} 2",
    );
    fs::remove_file(file_in(&folder)).unwrap();
    write(&file_in(&folder), [row("north"), row("south")]);
    let mut file = MetricsFile::new(&file_in(&folder));
    file.fail(2, &[]);
    file.fail(4, &["south".to_owned()]);
    let text = fs::read_to_string(file_in(&folder)).unwrap();
    assert_has(&text, "campaign_sync_last_exit_code{account=\"north\"} 2");
    assert_has(&text, "campaign_sync_last_exit_code{account=\"south\"} 4");
    assert_has(&text, "campaign_sync_requests_total{account=\"south\",status=\"2xx\"} 100");
}

#[test]
fn the_file_is_readable_by_all_and_nothing_is_left_beside_it() {
    let folder = Scratch::new("mode");
    let stale = folder.path().join(".campaign_sync.prom.0123456789abcdef.tmp");
    let fresh = folder.path().join(".campaign_sync.prom.fedcba9876543210.tmp");
    fs::write(&stale, "half").unwrap();
    fs::write(&fresh, "half").unwrap();
    let long_ago = SystemTime::now() - 2 * Duration::from_secs(600);
    fs::File::options().write(true).open(&stale).unwrap().set_modified(long_ago).unwrap();
    write(&file_in(&folder), [row("default")]);
    let mode = fs::metadata(file_in(&folder)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    let another = fresh.file_name().unwrap().to_str().unwrap();
    assert_eq!(folder.names(), [another, "campaign_sync.prom"], "what another process is writing stays");
}

#[test]
fn what_a_killed_process_left_is_removed_and_what_another_one_writes_is_not() {
    let folder = Scratch::new("killed");
    let [left, writing] = ["0123456789abcdef", "fedcba9876543210"]
        .map(|name| folder.path().join(format!(".campaign_sync.prom.{name}.tmp")));
    let file = |path| {
        let file = fs::File::create(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        file
    };
    drop(file(&left));
    let locked = file(&writing);
    locked.lock().unwrap();
    write(&file_in(&folder), [row("default")]);
    assert_eq!(folder.names(), [writing.file_name().unwrap().to_str().unwrap(), "campaign_sync.prom"]);
}

#[test]
fn a_link_stays_a_link() {
    let folder = Scratch::new("link");
    let target = folder.path().join("elsewhere.prom");
    fs::write(&target, "").unwrap();
    symlink(&target, file_in(&folder)).unwrap();
    write(&file_in(&folder), [row("default")]);
    assert!(fs::symlink_metadata(file_in(&folder)).unwrap().is_symlink());
    assert!(fs::read_to_string(&target).unwrap().contains("campaign_sync_"));
}

#[test]
fn what_is_not_ours_is_never_replaced() {
    let folder = Scratch::new("foreign");
    for text in ["node_load1 0.5\n", "root:x:0:0::/root:/bin/sh\n", "\u{feff}"] {
        fs::write(file_in(&folder), text).unwrap();
        write(&file_in(&folder), [row("default")]);
        assert_eq!(fs::read_to_string(file_in(&folder)).unwrap(), text);
    }
    fs::write(file_in(&folder), b"\xff\xfe").unwrap();
    let mut file = MetricsFile::new(&file_in(&folder));
    file.add(row("default"), Instant::now());
    assert_eq!(fs::read(file_in(&folder)).unwrap(), b"\xff\xfe");
    // Ours, but for its size; the file has holes where it would take room.
    fs::write(file_in(&folder), "").unwrap();
    write(&file_in(&folder), [row("default")]);
    fs::File::options().write(true).open(file_in(&folder)).unwrap().set_len(MOST_BYTES + 1).unwrap();
    let mut file = MetricsFile::new(&file_in(&folder));
    file.add(row("default"), Instant::now());
    assert_eq!(fs::metadata(file_in(&folder)).unwrap().len(), MOST_BYTES + 1);
    MetricsFile::new(Path::new("/dev/null")).add(row("default"), Instant::now());
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    assert_eq!(folder.names(), ["campaign_sync.prom"]);
}

#[test]
fn many_accounts_are_written_seldom_and_all_in_the_end() {
    let folder = Scratch::new("seldom");
    let mut file = MetricsFile::new(&file_in(&folder));
    let now = Instant::now();
    file.add(row("first"), now);
    file.add(row("second"), now + Duration::from_secs(1));
    let text = fs::read_to_string(file_in(&folder)).unwrap();
    assert!(text.contains("\"first\"") && !text.contains("\"second\""));
    file.add(row("third"), now + Duration::from_secs(2));
    file.add(row("fourth"), now + Duration::from_secs(3));
    file.write();
    let text = fs::read_to_string(file_in(&folder)).unwrap();
    for account in ["first", "second", "third", "fourth"] {
        assert_has(
            &text,
            &format!("campaign_sync_requests_total{{account=\"{account}\",status=\"2xx\"}} 100"),
        );
    }
}
