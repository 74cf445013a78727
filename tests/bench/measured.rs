//! Processes that are measured, and what they need around them.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

const EMAIL: &str = "ads@example.com";
const PASSWORD: &str = "correct-horse-battery-staple";
/// What `/proc` counts processor time in; the same on every Linux that has it.
const TICKS_PER_SECOND: f64 = 100.0;

/// The programs, and the Postgres server they use.
pub struct Tools {
    folder: PathBuf,
    server: String,
}

impl Tools {
    /// Beside this program, as cargo lays them out.
    pub fn find(server: String) -> Result<Self> {
        let own = std::env::current_exe()?;
        let folder = own.parent().and_then(Path::parent).ok_or("not within cargo's folders")?.to_owned();
        Ok(Self { folder, server })
    }

    /// The static binary, once it is built.
    pub fn static_binary(&self) -> Option<PathBuf> {
        let path = self.folder.parent()?.join("dist/campaign-sync");
        path.exists().then_some(path)
    }

    /// A path for something of no lasting worth.
    pub fn scratch(&self, name: &str) -> String {
        self.folder.join(format!("bench-{}-{name}", std::process::id())).to_string_lossy().into_owned()
    }

    pub fn sync(&self, mock: &Mock, database: &Database, flags: &[&str]) -> Program {
        self.with(&self.folder.join("campaign-sync"), mock, database, &["sync"]).args(flags)
    }

    pub fn with(&self, binary: &Path, mock: &Mock, database: &Database, arguments: &[&str]) -> Program {
        Program::new(binary)
            .args(arguments)
            .env("AD_PLATFORM_API_URL", &mock.url)
            .env("AD_PLATFORM_EMAIL", EMAIL)
            .env("AD_PLATFORM_PASSWORD", PASSWORD)
            .env("DATABASE_URL", &database.url)
    }

    pub fn sync_all(&self, accounts: &Accounts, database: &Database) -> Program {
        Program::new(&self.folder.join("campaign-sync"))
            .args(&["sync", "--accounts", &accounts.path])
            .env("BENCH_PASSWORD", PASSWORD)
            .env("DATABASE_URL", &database.url)
    }

    /// The seconds of each tenth of a million tasks.
    pub fn million(&self, database: &Database) -> Result<Vec<f64>> {
        let output = Command::new(self.folder.join("examples/million")).arg(&database.url).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        let said = String::from_utf8(output.stdout)?;
        let tenths = said.lines().filter(|line| line.starts_with("tenth"));
        // `tenth  1: claims 1.23 s, commits 4.56 s`
        let seconds = |line: &str| line.split(' ').filter_map(|word| word.parse::<f64>().ok()).sum();
        Ok(tenths.map(seconds).collect())
    }

    pub fn bare_loop(&self, mock: &Mock, campaigns: u32, database: Option<&Database>) -> Program {
        let arguments = [&mock.url, EMAIL, PASSWORD, &campaigns.to_string(), "16"];
        let program = Program::new(&self.folder.join("examples/bare-loop")).args(&arguments);
        match database {
            Some(database) => program.args(&[&database.url]),
            None => program,
        }
    }
}

/// An accounts file, gone after the run.
pub struct Accounts {
    pub path: String,
}

impl Accounts {
    /// Of so many, each with its own client id, by which the mock keeps their limits apart.
    pub fn write(tools: &Tools, mock: &Mock, count: u32, limit: Option<&str>) -> Result<Self> {
        let path = tools.scratch("accounts.toml");
        let limit = limit.map_or(String::new(), |limit| format!("rate_limit = \"{limit}\"\n"));
        let account = |n: u32| {
            format!(
                "[[account]]\nname = \"a{n}\"\nclient_id = \"a{n}\"\napi_url = \"{}\"\nemail = \"{EMAIL}\"\n\
                 password_env = \"BENCH_PASSWORD\"\npage_size = 100\n{limit}",
                mock.url
            )
        };
        std::fs::write(&path, (0..count).map(account).collect::<String>())?;
        Ok(Self { path })
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_file(&self.path);
    }
}

/// A program before it runs.
pub struct Program(Command);

impl Program {
    fn new(path: &Path) -> Self {
        let mut command = Command::new(path);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command)
    }

    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.0.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    pub fn spawn(mut self) -> Result<Running> {
        let begun = Instant::now();
        // Without the environment, which holds passwords.
        let line = format!("{:?} {:?}", self.0.get_program(), self.0.get_args().collect::<Vec<_>>());
        Ok(Running { child: self.0.spawn()?, begun, line })
    }
}

/// A program that runs.
pub struct Running {
    child: Child,
    begun: Instant,
    line: String,
}

/// What it took.
#[derive(Clone, Debug)]
pub struct Run {
    pub elapsed: Duration,
    pub cpu: Duration,
    pub peak_mb: f64,
    pub threads: u32,
}

impl Running {
    /// Watches it to its end: its peak of memory while it runs, its processor time when it has ended and before it is
    /// reaped.
    pub fn wait(mut self) -> Result<Run> {
        let folder = PathBuf::from(format!("/proc/{}", self.child.id()));
        let (mut peak_mb, mut threads) = (0.0, 0);
        let (elapsed, cpu) = loop {
            let stat = std::fs::read_to_string(folder.join("stat"))?;
            // Behind the name, which may hold anything: the state, and from the 12th on the times.
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let ticks = |n: usize| fields.get(n).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
            if fields.first() == Some(&"Z") {
                break (
                    self.begun.elapsed(),
                    Duration::from_secs_f64((ticks(11) + ticks(12)) / TICKS_PER_SECOND),
                );
            }
            let status = std::fs::read_to_string(folder.join("status")).unwrap_or_default();
            let number = |name: &str| {
                let text = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                text.and_then(|text| text.split_whitespace().next()?.parse::<u32>().ok())
            };
            peak_mb = number("VmHWM").map_or(peak_mb, |kb| f64::from(kb) / 1024.0);
            threads = threads.max(number("Threads").unwrap_or(0));
            std::thread::sleep(Duration::from_millis(1));
        };
        let status = self.child.wait()?;
        if !status.success() {
            return Err(format!("{}: {status}", self.line).into());
        }
        Ok(Run { elapsed, cpu, peak_mb, threads })
    }
}

/// The platform's mock as a process of its own.
pub struct Mock {
    child: Child,
    pub url: String,
}

impl Mock {
    pub fn start(tools: &Tools, flags: &[&str]) -> Result<Self> {
        let mut command = Command::new(tools.folder.join("mock-api"));
        let mut child = command.args(flags).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        let url = line.trim().strip_prefix("listening on ").ok_or("the mock does not listen")?.to_owned();
        Ok(Self { child, url })
    }

    /// A number of its ledger.
    pub fn ledger(&self, field: &str) -> Result<f64> {
        let body = ureq::get(format!("{}/ledger", self.url)).call()?.body_mut().read_to_string()?;
        let ledger: serde_json::Value = serde_json::from_str(&body)?;
        ledger[field].as_f64().ok_or_else(|| format!("the ledger has no {field}").into())
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A migrated database that is gone after the run.
pub struct Database {
    server: String,
    name: String,
    pub url: String,
}

impl Database {
    pub fn create(tools: &Tools) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut client = postgres::Client::connect(&tools.server, postgres::NoTls)?;
        client.batch_execute(&format!("CREATE DATABASE {name}"))?;
        // What one run has left to be written is not to be paid by the next.
        client.batch_execute("CHECKPOINT")?;
        let (server, _) = tools.server.rsplit_once('/').ok_or("the URL names no database")?;
        let url = format!("{server}/{name}");
        let migrate = Program::new(&tools.folder.join("campaign-sync")).args(&["migrate"]);
        migrate.env("DATABASE_URL", &url).spawn()?.wait()?;
        Ok(Self { server: tools.server.clone(), name, url })
    }
}

impl Database {
    /// The transactions that were committed in it.
    pub fn commits(&self) -> Result<f64> {
        let mut client = postgres::Client::connect(&self.server, postgres::NoTls)?;
        let row = client.query_one(
            "SELECT xact_commit::float8 FROM pg_stat_database WHERE datname = $1",
            &[&self.name],
        )?;
        Ok(row.get(0))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Ok(mut client) = postgres::Client::connect(&self.server, postgres::NoTls) {
            let _goes_with_the_server =
                client.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
        }
    }
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
