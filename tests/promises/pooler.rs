//! Nothing relies on what a session remembers: whole runs through PgBouncer, which gives each transaction another one.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mock_api::{EMAIL, PASSWORD, Settings};

use crate::statements::prepared_after;
use crate::support::{Database, PATIENCE, Program, eventually, unpacked};

/// PgBouncer in transaction mode before one database; ends with its value.
pub struct Bouncer {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Bouncer {
    /// Nothing where the program is not to be had.
    pub fn before(database: &str) -> Option<Self> {
        let (program, libraries) = unpacked("pgbouncer", "pgbouncer")?;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = std::env::temp_dir().join(format!("campaign-sync-bouncer-{port}"));
        std::fs::create_dir_all(&folder).unwrap();
        // Where the user that it runs as can reach it, whoever owns the checkout.
        for file in libraries.iter().chain([&program]) {
            std::fs::copy(file, folder.join(file.file_name().unwrap())).unwrap();
        }
        let program = folder.join("pgbouncer");
        let settings = folder.join("pgbouncer.ini");
        std::fs::write(&settings, settings_for(database, port)).unwrap();
        // It refuses to run as root.
        let root =
            std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).unwrap()
                == 0;
        let mut command = if root {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "nobody", "--clear-groups", "--pdeathsig", "TERM"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let child = command
            .arg(&settings)
            .env("LD_LIBRARY_PATH", &folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let bouncer = Self { child, folder, port };
        eventually(PATIENCE, "PgBouncer listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(bouncer)
    }

    /// Has it lead to another server from now on.
    pub fn lead_to(&self, database: &str) {
        std::fs::write(self.folder.join("pgbouncer.ini"), settings_for(database, self.port)).unwrap();
        let reloads = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status().unwrap();
        assert!(reloads.success());
    }

    pub fn url(&self) -> String {
        format!("postgres://anybody@127.0.0.1:{}/bounced?sslmode=disable", self.port)
    }
}

fn settings_for(database: &str, port: u16) -> String {
    let server: postgres::Config = database.parse().unwrap();
    let (user, password) =
        (server.get_user().unwrap(), std::str::from_utf8(server.get_password().unwrap()).unwrap());
    format!(
        "[databases]\nbounced = host=127.0.0.1 port={} dbname={} user={user} password={password}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
         pool_mode = transaction\ndefault_pool_size = 3\nserver_login_retry = 1\n",
        server.get_ports()[0],
        server.get_dbname().unwrap()
    )
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ended_already = (self.child.kill(), self.child.wait());
        let _gone_already = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn three_processes_sync_through_a_transaction_pooler() {
    let database = Database::create();
    let Some(bouncer) = Bouncer::before(&database.url()) else {
        return;
    };
    assert_eq!(
        prepared_after(&bouncer.url(), 100),
        0,
        "they would be another session's by the next transaction"
    );
    let latency = Duration::from_millis(20);
    let server = mock_api::start(Settings { sync_latency: latency, ..Settings::fast(1_000) }).unwrap();
    let three = [(); 3].map(|()| {
        Program::new(&["sync"]).api(&server.url(), EMAIL, PASSWORD).database(&bouncer.url()).spawn()
    });
    for running in three {
        running.wait().expect_code(0);
    }
    assert_eq!((database.count("campaigns"), database.count("sync_tasks")), (1_000, 0));
    assert!(server.ledger().syncs_asked().values().all(|times| *times == 1));
    assert_eq!(server.ledger().tokens, 1);
}
