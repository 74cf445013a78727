//! Several machines, one of which loses its network for longer than its lease lasts.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use mock_api::{EMAIL, PASSWORD, Settings};

use crate::support::{Cluster, Database, Folder, PATIENCE, Program, Running, Signal, eventually};

const CAMPAIGNS: u32 = 800;
const WORKERS: usize = 4;

/// A machine's cable: how its programs are started, where they find the others, and a way to cut it.
enum Machine {
    /// A network namespace with an address of its own.
    Namespace { name: String, link: String, host: String },
    /// A process like all others, behind relays that can stop passing anything on.
    Relayed { cut: Arc<AtomicBool>, api: String, database: String },
}

fn ip(words: &str) -> bool {
    let status = Command::new("ip").args(words.split(' ')).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Machine {
    /// A namespace, where the kernel permits it; else a relayed process.
    fn new(api_port: u16, database_port: u16) -> Self {
        static MACHINES: AtomicU32 = AtomicU32::new(0);
        let number = MACHINES.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}n{number}", std::process::id());
        let (name, link, peer) = (format!("cs{id}"), format!("ca{id}"), format!("cb{id}"));
        // Each has a small network of its own with this machine.
        let net = format!("10.213.{}", std::process::id() % 250);
        let (host, own) = (format!("{net}.{}", number * 4 + 1), format!("{net}.{}", number * 4 + 2));
        let made = ip(&format!("netns add {name}"))
            && ip(&format!("link add {link} type veth peer name {peer} netns {name}"))
            && ip(&format!("addr add {host}/30 dev {link}"))
            && ip(&format!("link set {link} up"))
            && ip(&format!("-n {name} addr add {own}/30 dev {peer}"))
            && ip(&format!("-n {name} link set {peer} up"));
        let machine = Self::Namespace { name, link, host };
        if made {
            return machine;
        }
        drop(machine);
        println!("no network namespaces here: the second machine is a process behind relays");
        let cut = Arc::new(AtomicBool::new(false));
        let relayed = |port: u16| relay(format!("127.0.0.1:{port}"), &cut);
        let (api, database) = (relayed(api_port), relayed(database_port));
        Self::Relayed { cut, api, database }
    }

    fn sync(&self, api_port: u16, database: &Database, further: &[&str]) -> Running {
        let workers = WORKERS.to_string();
        let arguments = [&["sync", "--json", "--allow-http", "--workers", &workers], further].concat();
        let url = database.url();
        let (front, rest) = url.split_once("@127.0.0.1:").unwrap();
        let (port, name) = rest.split_once('/').unwrap();
        let (program, api, address) = match self {
            Self::Namespace { name, host, .. } => {
                let starter = ["ip", "netns", "exec", name];
                (Program::by(&starter, &arguments), format!("{host}:{api_port}"), format!("{host}:{port}"))
            }
            Self::Relayed { api, database, .. } => (Program::new(&arguments), api.clone(), database.clone()),
        };
        program
            .api(&format!("http://{api}"), EMAIL, PASSWORD)
            .database(&format!("{front}@{address}/{name}"))
            .timeout(2 * PATIENCE)
            .spawn()
    }

    fn cut(&self) {
        match self {
            Self::Namespace { link, .. } => assert!(ip(&format!("link set {link} down"))),
            Self::Relayed { cut, .. } => cut.store(true, Ordering::SeqCst),
        }
    }

    fn mend(&self) {
        match self {
            Self::Namespace { link, .. } => assert!(ip(&format!("link set {link} up"))),
            Self::Relayed { cut, .. } => cut.store(false, Ordering::SeqCst),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Self::Namespace { name, link, .. } = self {
            ip(&format!("link del {link}"));
            ip(&format!("netns del {name}"));
        }
    }
}

/// Passes connections on to `address`, and nothing at all while it is cut. Gives its own address.
fn relay(address: String, cut: &Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().to_string();
    let cut = cut.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(&address).unwrap());
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (from, to, cut) = (from.try_clone().unwrap(), to.try_clone().unwrap(), cut.clone());
                std::thread::spawn(move || pass(from, to, &cut));
            }
        }
    });
    own
}

fn pass(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let mut bytes = [0; 16_384];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        while cut.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _closed_already = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// Machines, and what they all reach over their cables.
struct World {
    machines: Vec<Machine>,
    server: mock_api::Server,
    database: Database,
    api_port: u16,
    _cluster: Cluster,
}

impl World {
    fn of(machines: u32, settings: Settings) -> Self {
        let cluster = Cluster::with_options(&[
            "-c",
            "listen_addresses=*",
            "--hba",
            "host all all 0.0.0.0/0 scram-sha-256",
        ]);
        let database = Database::create_in(&cluster);
        let server = mock_api::start(Settings { address: "0.0.0.0:0".into(), ..settings }).unwrap();
        let port =
            |url: &str| url.rsplit(':').next().unwrap().split('/').next().unwrap().parse::<u16>().unwrap();
        let api_port = port(&server.url());
        let machines = (0..machines).map(|_| Machine::new(api_port, port(&database.url())));
        Self { machines: machines.collect(), server, database, api_port, _cluster: cluster }
    }
}

#[test]
fn a_machine_that_is_cut_off_for_longer_than_its_lease_loses_and_doubles_nothing() {
    let world =
        World::of(2, Settings { sync_latency: Duration::from_millis(100), ..Settings::fast(CAMPAIGNS) });
    let World { machines, server, database, api_port, .. } = &world;

    let first = machines[0].sync(*api_port, database, &[]);
    eventually(PATIENCE, "the first machine works", || server.ledger().syncs_done().len() > 10);
    let second = machines[1].sync(*api_port, database, &[]);
    let at_work = || database.column::<i64>("SELECT synced FROM workers ORDER BY worker_id");
    eventually(PATIENCE, "both machines work", || at_work().len() == 2 && at_work().iter().all(|n| *n > 10));
    machines[1].cut();
    eventually(PATIENCE, "the lease of the second one ends", || at_work().len() == 1);
    machines[1].mend();
    let outcomes = [first.wait().expect_code(0), second.wait().expect_code(0)];

    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (CAMPAIGNS.into(), 0));
    assert_eq!((database.count("dead_letters"), database.count("workers")), (0, 0));
    let run = database.rows("SELECT state, listed, synced FROM sync_runs", &[]);
    let run: Vec<(String, i64, i64)> = run.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(run, [("complete".to_owned(), 800, 800)], "{}\n{}", outcomes[0], outcomes[1]);
    let ledger = server.ledger();
    let done = ledger.syncs_done();
    let doubled: usize = done.values().map(|times| times - 1).sum();
    // What was under way when the cable was cut, and what had just been answered.
    assert!(doubled <= 2 * WORKERS, "{doubled} syncs were made twice\n{}", outcomes[1]);
    assert_eq!(done.len(), CAMPAIGNS as usize);
}

#[test]
fn of_three_machines_with_one_file_one_is_killed_one_is_cut_off_and_the_third_completes_all_accounts() {
    const ACCOUNTS: usize = 24;
    let world = World::of(3, Settings { sync_latency: Duration::from_secs(5), ..Settings::fast(40) });
    let World { machines, server, database, api_port, .. } = &world;
    let folder = Folder::new("machines");
    let account = |n| {
        format!(
            "[[account]]\nname = \"account-{n}\"\nclient_id = \"client-{n}\"\npassword_env = \"AD_PLATFORM_PASSWORD\"\nworkers = 2\n"
        )
    };
    let file = folder.file("accounts.toml", &(0..ACCOUNTS).map(account).collect::<String>(), 0o600);
    Program::new(&["migrate"]).database(&database.url()).run().expect_code(0);
    let further = ["--accounts", file.as_str()];
    let [mut first, second, third] =
        [0, 1, 2].map(|number: usize| machines[number].sync(*api_port, database, &further));
    let at_work = || database.count("(SELECT DISTINCT pid FROM workers) at_work");
    eventually(PATIENCE, "all three are at work", || at_work() == 3);
    server.change(|settings| settings.sync_latency = Duration::from_millis(200));
    eventually(PATIENCE, "rows are stored", || database.count("campaigns") > 100);
    first.signal(Signal::Kill);
    machines[1].cut();
    let outcome = third.wait().expect_code(0);
    let complete = outcome.stdout.matches(r#""state":"complete""#).count();
    assert_eq!(complete, ACCOUNTS, "whoever began it, it is complete\n{outcome}");
    let rows = i64::try_from(ACCOUNTS * 40).unwrap();
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (rows, 0));
    // The one that comes back finds nothing left to do.
    machines[1].mend();
    second.wait().expect_code(0);
    assert_eq!(database.count("sync_runs"), i64::try_from(ACCOUNTS).unwrap());
    assert_eq!(database.column::<i64>("SELECT DISTINCT synced FROM sync_runs"), [40]);
    assert_eq!((database.count("dead_letters"), database.count("workers")), (0, 0));
    // At most what the one that was killed had in hand, and the other one until it learns that its lease has ended: of each
    // account up to sixteen tasks a worker.
    let in_hand = 2 * ACCOUNTS / 3 * 2 * 16;
    let doubled: usize =
        server.ledger().syncs_done().values().map(|times| times.saturating_sub(ACCOUNTS)).sum();
    assert!(doubled <= in_hand, "{doubled} syncs were made twice");
}
