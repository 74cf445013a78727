//! A Postgres server that lives as long as its value, by way of `postgres.sh`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A server of one's own, for tests that pull it away. For all others the shared one under
/// [`Database::create`](super::Database::create) is faster.
pub struct Cluster {
    script: Child,
    /// Closing it ends the server, so it also ends when this process is killed outright.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    url: String,
    suspended: AtomicBool,
}

impl Cluster {
    /// A new server without durability (`fsync=off`).
    pub fn new() -> Self {
        Self::with_options(&[])
    }

    /// A new server with `options` of `postgres.sh serve`: `--tls CERT KEY`, `--standby-of URL`, `-c setting=value`.
    pub fn with_options(options: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("postgres-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self::by(&[], &PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name), options)
    }

    /// The same in this directory, started by another program that becomes it.
    pub fn by(starter: &[&str], directory: &Path, options: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/postgres.sh");
        let serve = ["bash", script, "serve"];
        let mut words = starter.iter().chain(&serve);
        let mut script = Command::new(words.next().expect("bash at least"))
            .args(words)
            .arg(directory)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for the tests: the server is ended by them.
            .process_group(0)
            .spawn()
            .expect("bash runs");
        let orders = script.stdin.take();
        let answers = BufReader::new(script.stdout.take().expect("stdout is piped"));
        let mut cluster =
            Self { script, orders, answers, url: String::new(), suspended: AtomicBool::new(false) };
        cluster.url = cluster.ready();
        cluster
    }

    /// The address of its database `postgres`, with the superuser's password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The process that keeps it.
    pub fn id(&self) -> u32 {
        self.script.id()
    }

    /// Shuts down, cutting all connections; later ones are refused until [`start`](Self::start).
    pub fn stop(&mut self) {
        self.order("stop");
        assert_eq!(self.answer(), "stopped");
    }

    /// Starts again after [`stop`](Self::stop), at the same address.
    pub fn start(&mut self) {
        self.order("start");
        assert_eq!(self.ready(), self.url);
    }

    /// Crashes: connections break, and nobody answers until [`start`](Self::start).
    pub fn crash(&mut self) {
        self.order("crash");
        assert_eq!(self.answer(), "stopped");
    }

    /// Crashes and comes back: connections break, and the server recovers from its log.
    pub fn restart_immediate(&mut self) {
        self.crash();
        self.start();
    }

    /// Suspends all its processes: connections stay, and nothing is answered.
    pub fn suspend(&self) {
        self.signal("STOP");
        self.suspended.store(true, Ordering::Relaxed);
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.signal("CONT");
        self.suspended.store(false, Ordering::Relaxed);
    }

    fn signal(&self, name: &str) {
        let (_, address) = self.url.rsplit_once(':').expect("a port");
        let (port, _) = address.split_once('/').expect("a database");
        // The postmaster by its port, then its children.
        let script = r#"for pid in $(pgrep -f -- "-p $1 -c listen_addresses"); do kill -"$0" "$pid" $(pgrep -P "$pid"); done"#;
        let sent = Command::new("sh").args(["-c", script, name, port]).status();
        assert!(sent.expect("sh runs").success(), "kill -{name}");
    }

    /// Ends it before its value does.
    pub fn end(&mut self) {
        if self.suspended.load(Ordering::Relaxed) {
            self.resume();
        }
        drop(self.orders.take());
        let _ = self.script.wait();
    }

    fn order(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("open until dropped");
        writeln!(orders, "{order}").expect("postgres.sh listens");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("postgres.sh answers");
        assert!(!line.is_empty(), "postgres.sh ended; its reason stands above");
        line.trim_end().to_owned()
    }

    fn ready(&mut self) -> String {
        let answer = self.answer();
        answer.strip_prefix("ready ").unwrap_or_else(|| panic!("postgres.sh says {answer:?}")).to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end();
    }
}

/// The server that all databases of a test program share; under `make test`, all programs.
pub(super) fn shared_url() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    static CLUSTER: OnceLock<std::sync::Mutex<Cluster>> = OnceLock::new();
    URL.get_or_init(|| {
        std::env::var("CAMPAIGN_SYNC_TEST_DATABASE").unwrap_or_else(|_| {
            let cluster = Cluster::new();
            let url = cluster.url().to_owned();
            // Never dropped: it ends when the exit of this process closes the pipe.
            let _ = CLUSTER.set(std::sync::Mutex::new(cluster));
            url
        })
    })
}
