//! A throwaway Postgres of the test's own. It ends with the test, however that ends, and leaves nothing behind.

use std::ffi::OsString;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use campaign_sync::store::{Conninfo, ConninfoError, Pool, StoreError};

use crate::support;

/// A server as `postgres.sh` runs it, whose superuser needs no password.
pub struct Cluster {
    pub port: u16,
    _server: support::Cluster,
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
        let directory = fresh_directory("files");
        let mut options = vec!["--hba".to_owned(), "host all postgres 127.0.0.1/32 trust".to_owned()];
        for line in pg_hba.lines() {
            options.extend(["--hba".into(), line.into()]);
        }
        for (name, text) in files {
            let path = directory.join(name);
            write_private(&path, text);
            options.extend(["--file".into(), (*name).into(), shown(&path).into()]);
        }
        for setting in settings {
            options.extend(["-c".into(), (*setting).into()]);
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let server = support::Cluster::with_options(&options);
        let _only_clutter = fs::remove_dir_all(directory);
        let address = server.url().rsplit(':').next().and_then(|rest| rest.split('/').next());
        Self { port: address.unwrap().parse().unwrap(), _server: server }
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

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}
