//! Which database, and how to reach it: libpq's rules, turned into one validated value.
//!
//! Strongest first, as in libpq: `DATABASE_URL`, the service that it or `PGSERVICE` names, the `PG*` variables, defaults.

mod connection_string;
mod defaults;
mod parameters;
mod password_file;
mod resolve;
mod service_file;

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use postgres::config::{ChannelBinding, SslNegotiation};

use self::defaults::Home;
use self::parameters::Settings;
use crate::http::Secret;

/// Everything needed to open a connection; made by [`Conninfo::from_environment`] alone, so always consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conninfo {
    /// The servers, in the order in which they are tried; never empty.
    pub hosts: Vec<Host>,
    /// The role to log in as; default the operating system's user.
    pub user: String,
    /// The database; default the user's name.
    pub dbname: String,
    /// How much TLS is asked for; default `prefer`.
    pub sslmode: SslMode,
    /// Whose certificates are trusted; nothing when none is to be verified.
    pub sslrootcert: Option<RootCertificates>,
    /// Files of the client's certificate and of its private key, both PEM.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Whether the server's name is sent in clear when TLS begins; default true.
    pub sslsni: bool,
    /// How TLS begins: after a request (default), or at once (`direct`, PostgreSQL 17 or later).
    pub sslnegotiation: SslNegotiation,
    /// Whether the password exchange is bound to the TLS connection; default `prefer`.
    pub channel_binding: ChannelBinding,
    /// The longest wait for one address of one server; default 10 s, also for 0, which libpq takes for "for ever".
    pub connect_timeout: Duration,
    /// What `pg_stat_activity` shows; default `campaign-sync`.
    pub application_name: String,
    /// Command-line options for the server; sent only when given, because PgBouncer refuses them.
    pub options: Option<String>,
    /// Whether a server that takes no writes is passed over (`target_session_attrs=read-write` or `primary`).
    pub read_write: bool,
    /// How a dead peer is noticed.
    pub keepalive: Keepalive,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Host {
    /// The name to connect to, and that its certificate must carry; or the socket's directory.
    pub address: Address,
    /// The address to connect to instead of looking up the name.
    pub hostaddr: Option<IpAddr>,
    /// The TCP port, or the number in the socket's name; default 5432.
    pub port: u16,
    /// From the settings or from the password file, which may have another one for each server.
    pub password: Option<Secret>,
    /// Where that stands, for messages: a variable, a setting of `DATABASE_URL` or of a service, or a file.
    pub password_origin: Option<String>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host name or IP address.
    Tcp(String),
    /// The directory of a Unix socket.
    Unix(PathBuf),
}

/// libpq's `sslmode` (PostgreSQL documentation, section 34.19.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Plain text only.
    Disable,
    /// Plain text, or TLS if the server refuses that.
    Allow,
    /// TLS, or plain text if the server has none.
    Prefer,
    /// TLS; the certificate is verified only when root certificates are there, then as by `verify-ca`.
    Require,
    /// TLS with a certificate from a trusted authority, for whatever name.
    VerifyCa,
    /// TLS with a certificate from a trusted authority for the name that was asked for.
    VerifyFull,
}

/// Where trusted certificates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCertificates {
    /// A PEM file.
    File(PathBuf),
    /// The public authorities that browsers trust (`sslrootcert=system`), as built into the program.
    System,
}

/// TCP's means to notice that nobody is there any more. Zero durations and counts mean the system's own default.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Keepalive {
    /// Whether an idle connection is probed; default true.
    pub enabled: bool,
    /// Idle time before the first probe; default 30 s.
    pub idle: Duration,
    /// Time between probes; default 10 s.
    pub interval: Duration,
    /// Unanswered probes that end the connection; default 3.
    pub count: u32,
    /// The longest that sent data may stay unacknowledged; default 30 s.
    pub user_timeout: Duration,
}

/// A setting that is wrong: one line that names it and says what would be right. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConninfoError(String);

impl ConninfoError {
    pub(in crate::store) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for ConninfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConninfoError {}

impl Conninfo {
    /// Reads `DATABASE_URL`, the `PG*` variables and the files that they name; `get` gives a variable's value.
    ///
    /// # Errors
    /// When a setting is malformed, out of range, unknown, contradicts another, or asks for what is not supported.
    pub fn from_environment(get: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, ConninfoError> {
        let get = |name: &str| text_variable(get, name);
        let home = Home::new(get("HOME")?);
        let mut settings = Settings::default();
        if let Some(text) = get("DATABASE_URL")?.filter(|text| !text.trim().is_empty()) {
            connection_string::parse(&text, "DATABASE_URL", &mut settings)?;
        }
        if let Some(service) = settings.get("service").map(str::to_owned).or(get("PGSERVICE")?) {
            let named = settings.get("servicefile").map(str::to_owned).or(get("PGSERVICEFILE")?);
            let files = home.service_files(named, get("PGSYSCONFDIR")?);
            service_file::add_service(&service, &files, &mut settings)?;
        }
        for (keyword, variable) in parameters::variables() {
            settings.add_unless_empty(keyword, &get(variable)?.unwrap_or_default(), variable)?;
        }
        let os_user = defaults::os_user(get("USER")?.or(get("LOGNAME")?));
        resolve::conninfo(&settings, &home, os_user)
    }
}

/// A variable's value; an empty one counts as unset.
fn text_variable(
    get: &dyn Fn(&str) -> Option<OsString>,
    name: &str,
) -> Result<Option<String>, ConninfoError> {
    match get(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(Err(_)) => Err(ConninfoError::new(format!("{name} is not UTF-8; set it to UTF-8 text"))),
    }
}

/// What stays readable in a URL's parts.
const SHOWN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'$');

/// The database as a URL, for messages: user, hosts and name, and nothing that could be secret.
impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.hosts.iter().map(ToString::to_string).collect();
        f.write_str(&self.url(&hosts.join(",")))
    }
}

impl Conninfo {
    /// The database on one of its hosts, as `Display` shows it.
    pub(super) fn at(&self, host: &Host) -> String {
        self.url(&host.to_string())
    }

    fn url(&self, hosts: &str) -> String {
        let (user, dbname) =
            (utf8_percent_encode(&self.user, SHOWN), utf8_percent_encode(&self.dbname, SHOWN));
        format!("postgres://{user}@{hosts}/{dbname}")
    }
}

/// The server as it stands in a URL.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Address::Tcp(name) => write!(f, "{name}:{}", self.port),
            Address::Unix(path) => {
                write!(f, "{}:{}", utf8_percent_encode(&path.to_string_lossy(), SHOWN), self.port)
            }
        }
    }
}

#[cfg(test)]
mod tests;
