//! The built program, run as a user runs it.

use std::fmt;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// A command line of `campaign-sync` in an environment that has nothing but `PATH`, an empty config file and what is set here.
pub struct Program {
    command: Command,
    timeout: Duration,
}

/// Signals as `kill` names them.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    Int,
    Term,
    Stop,
    Cont,
    Kill,
}

impl Program {
    /// `campaign-sync` with `arguments`.
    pub fn new(arguments: &[&str]) -> Self {
        Self::by(&[], arguments)
    }

    /// The same, started by another program that becomes it, as `ip netns exec NAME` does.
    pub fn by(starter: &[&str], arguments: &[&str]) -> Self {
        // Another build of it, such as the one that is given to users, where that is to be tried.
        let other = std::env::var("CAMPAIGN_SYNC_TEST_PROGRAM").ok();
        let program = other.as_deref().unwrap_or(env!("CARGO_BIN_EXE_campaign-sync"));
        let mut words = starter.iter().chain([&program]).chain(arguments);
        let mut command = Command::new(words.next().unwrap_or(&program));
        command.env_clear().args(words);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        // Whatever settings this machine has.
        command.env("CAMPAIGN_SYNC_CONFIG", "/dev/null");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command, timeout: PATIENCE }
    }

    /// Where the API is, and who asks.
    pub fn api(self, url: &str, email: &str, password: &str) -> Self {
        self.env("AD_PLATFORM_API_URL", url)
            .env("AD_PLATFORM_EMAIL", email)
            .env("AD_PLATFORM_PASSWORD", password)
    }

    /// Where the rows go.
    pub fn database(self, url: &str) -> Self {
        self.env("DATABASE_URL", url)
    }

    /// `sync --json` from a mock, whose credentials it has, into a database.
    pub fn sync(server: &mock_api::Server, database: &super::Database) -> Self {
        Self::new(&["sync", "--json"])
            .api(&server.url(), mock_api::EMAIL, mock_api::PASSWORD)
            .database(&database.url())
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn arg(mut self, argument: &str) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// How long it may take before it is killed and the test fails (default: [`PATIENCE`]).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(self) -> Outcome {
        self.spawn().wait()
    }

    /// Starts it in the background; it is killed when the value is dropped.
    #[track_caller]
    pub fn spawn(mut self) -> Running {
        let line = format!("{:?}", self.command.get_args().collect::<Vec<_>>());
        let mut child = self.command.spawn().expect("the program starts");
        let stdout = Capture::of(child.stdout.take().expect("piped"));
        let stderr = Capture::of(child.stderr.take().expect("piped"));
        Running { line, child, stdout, stderr, started: Instant::now(), timeout: self.timeout }
    }
}

/// A run under way.
pub struct Running {
    line: String,
    child: Child,
    stdout: Capture,
    stderr: Capture,
    started: Instant,
    timeout: Duration,
}

impl Running {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its child can be waited for").is_none()
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        // Not reaped before this look, so the id is still its own.
        if self.is_running() {
            let name = format!("{signal:?}").to_uppercase();
            let script = r#"kill -"$0" "$1""#; // the shell's own: not every system has the program
            let sent = Command::new("sh").args(["-c", script, &name, &self.id().to_string()]).status();
            assert!(sent.expect("sh runs").success(), "kill -{name}");
        }
    }

    /// Kills it outright, as `kill -9`, and collects what is left.
    #[track_caller]
    pub fn kill(mut self) -> Outcome {
        self.signal(Signal::Kill);
        self.wait()
    }

    /// Waits for its end; kills it and fails, with all it wrote, when the time is over.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        let mut status = None;
        while status.is_none() && self.started.elapsed() < self.timeout {
            status = self.child.try_wait().expect("its child can be waited for");
            if status.is_none() {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let late = status.is_none();
        if late {
            let _ = self.child.kill();
        }
        let outcome = Outcome {
            line: self.line.clone(),
            status: status.unwrap_or_else(|| self.child.wait().expect("killed")),
            elapsed: self.started.elapsed(),
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
        };
        assert!(!late, "still running after {:?}\n{outcome}", self.timeout);
        outcome
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a run ended and what it said.
pub struct Outcome {
    line: String,
    pub status: ExitStatus,
    pub elapsed: Duration,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// The exit code; none if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The number of the signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Fails, with everything it said, unless it exited with `code`.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "\n{self}");
        self
    }

    /// Each line of stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> Vec<serde_json::Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?}: {e}\n{self}"));
        self.stdout.lines().map(parse).collect()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, status, elapsed, stdout, stderr } = self;
        write!(
            f,
            "campaign-sync {line}: {status} after {elapsed:?}\n-- stdout\n{stdout}-- stderr\n{stderr}--"
        )
    }
}

/// Reads a pipe to its end beside the test, so that the program never waits for a reader.
struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 8192];
            while let Ok(length @ 1..) = pipe.read(&mut chunk) {
                sink.lock().unwrap().extend_from_slice(&chunk[..length]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.so_far()
    }
}
