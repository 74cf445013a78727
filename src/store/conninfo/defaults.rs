//! What libpq assumes when nothing is said: the user, the server, and files in the home directory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Address;

/// Where a local server's socket is, by Debian's and by PostgreSQL's own default.
const SOCKET_DIRECTORIES: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];

/// The system's directory of `pg_service.conf`, by Debian's default.
const SYSTEM_DIRECTORY: &str = "/etc/postgresql-common";

/// A local server's socket if there is one, else `localhost`.
pub(super) fn address(port: u16) -> Address {
    let found =
        SOCKET_DIRECTORIES.into_iter().map(Path::new).find(|d| d.join(format!(".s.PGSQL.{port}")).exists());
    found.map_or_else(|| Address::Tcp("localhost".into()), |directory| Address::Unix(directory.into()))
}

/// Under which names a server may stand in the password file: a socket in a default directory is `localhost`.
pub(super) fn password_file_names(address: &Address) -> Vec<String> {
    match address {
        Address::Tcp(name) => vec![name.clone()],
        Address::Unix(path) => {
            let local = SOCKET_DIRECTORIES.iter().any(|directory| path == Path::new(directory));
            let path = path.to_string_lossy().into_owned();
            if local { vec!["localhost".into(), path] } else { vec![path] }
        }
    }
}

/// The name of this process's user in `/etc/passwd`, or else what the environment says.
pub(super) fn os_user(from_environment: Option<String>) -> Option<String> {
    let uid = fs::metadata("/proc/self").ok().map(|metadata| metadata.uid().to_string());
    let listed = uid.and_then(|uid| user_with_id(&fs::read_to_string("/etc/passwd").ok()?, &uid));
    listed.or(from_environment)
}

fn user_with_id(passwd: &str, uid: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

/// The user's home directory, if it is known.
pub(super) struct Home(Option<PathBuf>);

impl Home {
    /// `home` is the value of `HOME`.
    pub(super) fn new(home: Option<String>) -> Self {
        Self(home.map(PathBuf::from))
    }

    /// A file of `~/.postgresql`, if it exists.
    pub(super) fn existing(&self, name: &str) -> Option<PathBuf> {
        let path = self.0.as_ref()?.join(".postgresql").join(name);
        path.is_file().then_some(path)
    }

    /// The password file: the one that is named, or `~/.pgpass`.
    pub(super) fn password_file(&self, named: Option<&str>) -> Option<PathBuf> {
        named.map(PathBuf::from).or_else(|| Some(self.0.as_ref()?.join(".pgpass")))
    }

    /// Where to look for a service, and whether the file must exist.
    pub(super) fn service_files(
        &self,
        named: Option<String>,
        system_directory: Option<String>,
    ) -> Vec<(PathBuf, bool)> {
        let own = match named {
            Some(path) => Some((PathBuf::from(path), true)),
            None => self.0.as_ref().map(|home| (home.join(".pg_service.conf"), false)),
        };
        let system = PathBuf::from(system_directory.unwrap_or_else(|| SYSTEM_DIRECTORY.into()));
        own.into_iter().chain([(system.join("pg_service.conf"), false)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbroken\n";
        assert_eq!(user_with_id(passwd, "1000").as_deref(), Some("alice"));
        assert_eq!(user_with_id(passwd, "7"), None);
    }

    #[test]
    fn a_socket_in_a_default_directory_is_localhost_in_the_password_file() {
        let names = |path: &str| password_file_names(&Address::Unix(path.into()));
        assert_eq!(names("/tmp"), ["localhost", "/tmp"]);
        assert_eq!(names("/srv/pg"), ["/srv/pg"]);
    }
}
