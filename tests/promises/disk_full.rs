//! The database's disk fills up in the middle of a run: nothing is lost, and once there is space again it goes on.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mock_api::{Server, Settings};

use crate::support::{Cluster, Database, Outcome, PATIENCE, Program, Running, eventually};

const CAMPAIGNS: u32 = 1_500;

/// A server on a disk of its own, in memory, that only it sees.
struct SmallDisk {
    cluster: Cluster,
    mount: PathBuf,
}

impl SmallDisk {
    /// Nothing, with a line that says so, where no disk can be mounted.
    fn new(name: &str) -> Option<Self> {
        // Where the server's user can reach it, whoever owns the checkout.
        let mount = std::env::temp_dir().join(format!("campaign-sync-disk-{}-{name}", std::process::id()));
        fs::create_dir_all(&mount).unwrap();
        let mounted = r#"mount -t tmpfs -o size=160m,mode=0755 none "$0" && exec "$@""#;
        let starter = ["unshare", "--mount", "sh", "-c", mounted, mount.to_str().unwrap()];
        let may = Command::new(starter[0]).args(&starter[1..]).arg("true").stderr(Stdio::null()).status();
        if !may.is_ok_and(|status| status.success()) {
            println!("skipped: only root may mount the small disk that is to fill up");
            let _only_clutter = fs::remove_dir(mount);
            return None;
        }
        let settings = ["-c", "wal_recycle=off", "-c", "min_wal_size=32MB", "-c", "max_wal_size=64MB"];
        Some(Self { cluster: Cluster::by(&starter, &mount.join("server"), &settings), mount })
    }

    /// A file that takes all the space there is; from here, the disk is seen through the server's keeper.
    fn filler(&self) -> PathBuf {
        let inside = self.mount.strip_prefix("/").unwrap().join("filler");
        Path::new(&format!("/proc/{}/root", self.cluster.id())).join(inside)
    }

    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.filler()).unwrap();
        for size in [1 << 20, 4_096, 1] {
            let piece = vec![b'.'; size];
            while file.write_all(&piece).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _never_filled = fs::remove_file(self.filler());
        // The disk goes with the last who sees it; what is left is where it was mounted.
        self.cluster.end();
        let _only_clutter = fs::remove_dir(&self.mount);
    }
}

fn platform() -> Server {
    let latency = Duration::from_millis(10);
    mock_api::start(Settings { sync_latency: latency, ..Settings::fast(CAMPAIGNS) }).unwrap()
}

/// A run in whose middle the disk is full.
fn run_into_full_disk(disk: &SmallDisk, server: &Server, database: &Database, patience: &str) -> Running {
    let program = Program::sync(server, database).args(&["--give-up-after", patience, "--workers", "8"]);
    let mut running = program.env("RUST_LOG", "debug").timeout(2 * PATIENCE).spawn();
    eventually(PATIENCE, "some are synced", || server.ledger().syncs > 100 || !running.is_running());
    disk.fill();
    running
}

fn expect_whole(database: &Database, server: &Server, outcome: &Outcome) {
    let left = ["sync_tasks", "dead_letters", "workers"].map(|table| database.count(table));
    assert_eq!((database.count("campaigns"), left), (i64::from(CAMPAIGNS), [0; 3]), "{outcome}");
    // Answers that could not be stored before their process gave up are asked for once more.
    assert!(server.ledger().syncs_done().values().all(|times| *times <= 2), "{outcome}");
}

#[test]
fn a_run_waits_for_space_on_the_databases_disk_and_then_goes_on() {
    let Some(disk) = SmallDisk::new("tables") else { return };
    let (server, database) = (platform(), Database::create_in(&disk.cluster));
    let running = run_into_full_disk(&disk, &server, &database, "60s");
    eventually(PATIENCE, "the program meets the full disk", || {
        running.stderr().contains("No space left on device")
    });
    disk.free();

    let outcome = running.wait().expect_code(0);
    expect_whole(&database, &server, &outcome);
    let said = |words: &str| outcome.stderr.lines().filter(|line| line.contains(words)).count();
    assert!((said("; trying again"), said("is available again")) <= (1, 1), "{outcome}");
}

#[test]
fn a_run_that_gives_up_on_a_full_disk_says_so_and_the_next_one_completes_it() {
    let Some(disk) = SmallDisk::new("impatient") else { return };
    let (server, database) = (platform(), Database::create_in(&disk.cluster));
    let outcome = run_into_full_disk(&disk, &server, &database, "1s").wait().expect_code(5);
    let said = &outcome.json()[0]["error"];
    assert!(said.as_str().unwrap().contains("free space on the database's disk"), "{outcome}");
    let check = Program::new(&["check"]).api(&server.url(), mock_api::EMAIL, mock_api::PASSWORD);
    let check = check.database(&database.url()).run().expect_code(5);
    assert!(check.stderr.contains("free space on the database's disk"), "{check}");
    disk.free();
    let kept: Option<String> = database.value("SELECT last_error FROM sync_runs");
    // Where not even the run's own row had room left to be changed in, the output has no run either.
    let no_room = kept.is_none() && outcome.json()[0]["run_id"].is_null();
    assert!(kept.is_some_and(|error| error.contains("free space")) || no_room, "{outcome}");

    let outcome = Program::sync(&server, &database).run().expect_code(0);
    expect_whole(&database, &server, &outcome);
}

#[test]
fn a_server_that_goes_down_for_want_of_space_for_its_log_costs_nothing_but_time() {
    let Some(mut disk) = SmallDisk::new("log") else { return };
    let (server, database) = (platform(), Database::create_in(&disk.cluster));
    let running = run_into_full_disk(&disk, &server, &database, "60s");
    // There is nowhere to put the next part of the log: that is the end of a server.
    let mut client = database.connect();
    eventually(PATIENCE, "the server goes down", || {
        client.batch_execute("SELECT pg_switch_wal(), txid_current()").is_err_and(|error| error.is_closed())
    });
    disk.free();
    disk.cluster.restart_immediate();

    let outcome = running.wait().expect_code(0);
    expect_whole(&database, &server, &outcome);
}
