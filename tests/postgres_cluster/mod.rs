//! A throwaway Postgres of the test's own. It ends with the test, however that ends, and leaves nothing behind.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use campaign_sync::store::{Conninfo, ConninfoError, Pool, StoreError};

/// Runs the server until standard input is closed, then stops it and removes its directory.
const KEEPER: &str = r#"directory=$1; shift
"$@" </dev/null >"$directory/log" 2>&1 &
server=$!
read -r _ || :
kill -INT $server
wait $server
rm -rf "$directory""#;

pub struct Cluster {
    pub port: u16,
    pub directory: PathBuf,
    keeper: Child,
}

/// A directory of this test's own.
pub fn fresh_directory(name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{number}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

impl Cluster {
    /// A cluster with `pg_hba` lines, files to put beside its data, and settings.
    pub fn start(pg_hba: &str, files: &[(&str, &str)], settings: &[&str]) -> Self {
        let directory = fresh_directory("cluster");
        let data = directory.join("data");
        hand_over(&directory);
        let mut initdb = server_program("initdb");
        initdb
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data);
        let made = initdb.output().expect("initdb starts");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        fs::write(data.join("pg_hba.conf"), format!("{pg_hba}\nhost all postgres 127.0.0.1/32 trust\n"))
            .unwrap();
        for (name, text) in files {
            write_private(&data.join(name), text);
            hand_over(&data.join(name));
        }
        for _ in 0..5 {
            if let Some((port, keeper)) = run(&directory, &data, settings) {
                return Self { port, directory, keeper };
            }
        }
        panic!("Postgres does not start: {}", fs::read_to_string(directory.join("log")).unwrap_or_default());
    }

    /// Settings for this server: variables of libpq, and those given.
    pub fn conninfo(&self, variables: &[(&str, &str)]) -> Result<Conninfo, ConninfoError> {
        let port = self.port.to_string();
        let mut all = vec![
            ("PGHOST", "127.0.0.1"),
            ("PGPORT", &*port),
            ("PGUSER", "postgres"),
            ("PGDATABASE", "postgres"),
        ];
        all.extend_from_slice(variables);
        conninfo(&all)
    }

    pub fn pool(&self, variables: &[(&str, &str)]) -> Pool {
        Pool::new(&self.conninfo(variables).unwrap(), 4).unwrap()
    }

    /// Connects once; whether the connection is encrypted.
    pub fn encrypted(&self, variables: &[(&str, &str)]) -> Result<bool, StoreError> {
        let mut connection = self.pool(variables).get()?;
        let row = connection.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]);
        Ok(row.unwrap().get(0))
    }

    /// Why connecting fails: a refusal, said in one line.
    pub fn refusal(&self, variables: &[(&str, &str)]) -> String {
        match self.encrypted(variables) {
            Err(StoreError::Refused { message }) => {
                assert!(!message.contains('\n'), "{message}");
                message
            }
            other => panic!("not refused: {other:?}"),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Reads settings; the last value of a variable counts, and no file of the user's is seen.
pub fn conninfo(variables: &[(&str, &str)]) -> Result<Conninfo, ConninfoError> {
    Conninfo::from_environment(&|name| {
        let found = variables.iter().rev().find(|(known, _)| *known == name);
        found.map(|(_, value)| OsString::from(value))
    })
}

/// A file that only its owner can read; gone when dropped.
pub struct PrivateFile(PathBuf);

impl Deref for PrivateFile {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        let _ = self.0.parent().map(fs::remove_dir_all);
    }
}

/// The text in a private file.
pub fn file(text: &str) -> PrivateFile {
    let path = fresh_directory("file").join("file");
    write_private(&path, text);
    PrivateFile(path)
}

pub fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Starts the server on a free port; nothing when another program took the port first.
fn run(directory: &Path, data: &Path, settings: &[&str]) -> Option<(u16, Child)> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = server_program("postgres");
    server.arg("-D").arg(data).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", "", "-F"]);
    for setting in settings {
        server.args(["-c", setting]);
    }
    let mut keeper = Command::new("sh")
        .args(["-c", KEEPER, "keeper"])
        .arg(directory)
        .arg(server.get_program())
        .args(server.get_args())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
        if log.contains("database system is ready to accept connections") {
            return Some((port, keeper));
        }
        if log.contains("FATAL") {
            // The server has ended by itself; its keeper must not remove the directory, which is still needed.
            let _ = keeper.kill();
            let _ = keeper.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
    drop(keeper.stdin.take());
    let _ = keeper.wait();
    panic!("Postgres is not ready after 30 s: {log}");
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A server program; as root it runs as the user `postgres`, because the server refuses to be root.
fn server_program(name: &str) -> Command {
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.filter_map(|entry| entry.ok().map(|e| e.path())).collect())
        .unwrap_or_default();
    versions.sort();
    let program = versions.iter().rev().map(|v| v.join("bin").join(name)).find(|path| path.exists());
    let program = program.unwrap_or_else(|| name.into());
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--"]).arg(program);
    command
}

fn hand_over(path: &Path) {
    if is_root() {
        let done = Command::new("chown").arg("postgres:postgres").arg(path).status().unwrap();
        assert!(done.success(), "chown {}", path.display());
    }
}
