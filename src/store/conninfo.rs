//! Which database, and how to reach it: libpq's rules, turned into one validated value.
//!
//! Strongest first, as in libpq: `DATABASE_URL`, the service that it or `PGSERVICE` names, the `PG*` variables, defaults.

mod connection_string;
mod defaults;
mod parameters;
mod password_file;
mod service_file;

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use postgres::config::SslNegotiation;

use self::defaults::Home;
use self::parameters::Settings;
use self::password_file::PasswordFile;
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
        from_settings(&settings, &home, os_user)
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

fn from_settings(
    settings: &Settings,
    home: &Home,
    os_user: Option<String>,
) -> Result<Conninfo, ConninfoError> {
    let Some(user) = settings.get("user").map(str::to_owned).or(os_user) else {
        return Err(ConninfoError::new("no database user is known; set PGUSER, e.g. PGUSER=alice"));
    };
    let dbname = settings.get("dbname").unwrap_or(&user).to_owned();
    let hosts = hosts(settings, home, &user, &dbname)?;
    let sslrootcert = settings.get("sslrootcert");
    let sslmode = sslmode(settings, sslrootcert == Some("system"))?;

    let wants_tls = sslmode != SslMode::Disable && hosts.iter().any(|h| matches!(h.address, Address::Tcp(_)));
    let (sslrootcert, client_certificate) = if wants_tls {
        (root_certificates(settings, home, sslmode)?, client_certificate(settings, home)?)
    } else {
        (None, None)
    };
    Ok(Conninfo {
        sslmode,
        sslrootcert,
        client_certificate,
        sslsni: flag(settings, "sslsni", true)?,
        sslnegotiation: sslnegotiation(settings, sslmode)?,
        connect_timeout: connect_timeout(settings)?,
        application_name: settings
            .get("application_name")
            .or(settings.get("fallback_application_name"))
            .unwrap_or("campaign-sync")
            .to_owned(),
        options: settings.get("options").map(str::to_owned),
        read_write: read_write(settings)?,
        keepalive: keepalive(settings)?,
        hosts,
        user,
        dbname,
    })
}

fn hosts(settings: &Settings, home: &Home, user: &str, dbname: &str) -> Result<Vec<Host>, ConninfoError> {
    let list = |keyword| settings.get(keyword).map(|text| text.split(',').map(str::trim).collect::<Vec<_>>());
    let names = list("host");
    let addresses = list("hostaddr");
    let count = names.as_ref().or(addresses.as_ref()).map_or(1, Vec::len);
    if addresses.as_ref().is_some_and(|addresses| addresses.len() != count) {
        return Err(settings.invalid("hostaddr", format!("there must be one for each of the {count} hosts")));
    }
    let ports = list("port").unwrap_or_else(|| vec![""]);
    if ports.len() != 1 && ports.len() != count {
        return Err(
            settings.invalid("port", format!("there must be one, or one for each of the {count} hosts"))
        );
    }
    let passwords = home.password_file(settings.get("passfile"));
    let item = |list: &Option<Vec<&str>>, i: usize| list.as_ref().map_or("", |list| list[i]).to_owned();
    (0..count)
        .map(|i| {
            let port = port(settings, ports.get(i).or(ports.first()).copied().unwrap_or_default())?;
            let name = item(&names, i);
            let hostaddr = match item(&addresses, i) {
                text if text.is_empty() => None,
                text => Some(parse(settings, "hostaddr", &text, "must be an IP address, e.g. 192.0.2.7")?),
            };
            let address = address(settings, name, hostaddr, port)?;
            let password = settings.get("password").map(|text| Secret::new(text.to_owned())).or_else(|| {
                let file = PasswordFile::read(passwords.as_deref()?);
                defaults::password_file_names(&address)
                    .iter()
                    .find_map(|name| file.password(name, port, dbname, user))
            });
            Ok(Host { address, hostaddr, port, password })
        })
        .collect()
}

fn address(
    settings: &Settings,
    name: String,
    hostaddr: Option<IpAddr>,
    port: u16,
) -> Result<Address, ConninfoError> {
    if name.starts_with('/') && hostaddr.is_none() {
        return Ok(Address::Unix(name.into()));
    }
    if name.starts_with('@') {
        return Err(settings.invalid("host", "abstract sockets are not supported; e.g. /var/run/postgresql"));
    }
    if name.chars().any(|c| c.is_whitespace() || c.is_control() || "/?#@".contains(c)) {
        // Not shown: in a URL with an unescaped character it may hold a piece of the password.
        let origin = settings.origin("host");
        return Err(ConninfoError::new(format!("{origin} is not the name of a host, e.g. db.example.com")));
    }
    Ok(match (name.is_empty(), hostaddr) {
        (true, Some(ip)) => Address::Tcp(ip.to_string()),
        (true, None) => defaults::address(port),
        (false, _) => Address::Tcp(name),
    })
}

fn port(settings: &Settings, text: &str) -> Result<u16, ConninfoError> {
    if text.is_empty() {
        return Ok(5432);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(settings.invalid("port", "must be between 1 and 65535, e.g. 5432")),
        Ok(port) => Ok(port),
    }
}

fn sslmode(settings: &Settings, system_roots: bool) -> Result<SslMode, ConninfoError> {
    let default = if system_roots { SslMode::VerifyFull } else { SslMode::Prefer };
    let mode = one_of(
        settings,
        "sslmode",
        default,
        &[
            ("disable", SslMode::Disable),
            ("allow", SslMode::Allow),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ],
    )?;
    if system_roots && mode != SslMode::VerifyFull {
        return Err(settings.invalid("sslmode", "sslrootcert=system allows only verify-full"));
    }
    Ok(mode)
}

fn sslnegotiation(settings: &Settings, mode: SslMode) -> Result<SslNegotiation, ConninfoError> {
    let known = [("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)];
    let negotiation = one_of(settings, "sslnegotiation", SslNegotiation::Postgres, &known)?;
    let weak = matches!(mode, SslMode::Disable | SslMode::Allow | SslMode::Prefer);
    if negotiation == SslNegotiation::Direct && weak {
        return Err(settings.invalid("sslnegotiation", "needs sslmode=require, verify-ca or verify-full"));
    }
    Ok(negotiation)
}

fn root_certificates(
    settings: &Settings,
    home: &Home,
    mode: SslMode,
) -> Result<Option<RootCertificates>, ConninfoError> {
    let verifies = matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
    match settings.get("sslrootcert") {
        Some("system") => Ok(Some(RootCertificates::System)),
        _ if matches!(mode, SslMode::Allow | SslMode::Prefer) => Ok(None),
        Some(path) if PathBuf::from(path).is_file() => Ok(Some(RootCertificates::File(path.into()))),
        Some(_) => Err(settings.invalid("sslrootcert", "there is no such file; name a PEM file, or system")),
        None => match home.existing("root.crt") {
            Some(path) => Ok(Some(RootCertificates::File(path))),
            None if verifies => Err(ConninfoError::new(format!(
                "{} asks for a verified certificate, but no authority is trusted; set sslrootcert (PGSSLROOTCERT) \
                 to the authority's PEM file, or to system",
                settings.origin("sslmode")
            ))),
            None => Ok(None),
        },
    }
}

fn client_certificate(settings: &Settings, home: &Home) -> Result<Option<(PathBuf, PathBuf)>, ConninfoError> {
    let given = |keyword: &'static str| match settings.get(keyword).map(PathBuf::from) {
        Some(path) if !path.is_file() => {
            Err(settings.invalid(keyword, "there is no such file; name a PEM file"))
        }
        path => Ok(path),
    };
    let Some(certificate) = given("sslcert")?.or_else(|| home.existing("postgresql.crt")) else {
        return Ok(None);
    };
    match given("sslkey")?.or_else(|| home.existing("postgresql.key")) {
        Some(key) => Ok(Some((certificate, key))),
        None => Err(ConninfoError::new(format!(
            "client certificate {} has no private key; set sslkey (PGSSLKEY) to the key's PEM file",
            certificate.display()
        ))),
    }
}

fn connect_timeout(settings: &Settings) -> Result<Duration, ConninfoError> {
    const DEFAULT: Duration = Duration::from_secs(10);
    let Some(text) = settings.get("connect_timeout") else { return Ok(DEFAULT) };
    let seconds: i32 = parse(settings, "connect_timeout", text, "must be a number of seconds, e.g. 10")?;
    Ok(u64::try_from(seconds).ok().filter(|&s| s > 0).map_or(DEFAULT, Duration::from_secs))
}

fn read_write(settings: &Settings) -> Result<bool, ConninfoError> {
    match settings.get("target_session_attrs") {
        None | Some("any") => Ok(false),
        Some("read-write" | "primary") => Ok(true),
        Some(_) => Err(settings.invalid(
            "target_session_attrs",
            "campaigns are written, so it must be any, read-write or primary",
        )),
    }
}

fn keepalive(settings: &Settings) -> Result<Keepalive, ConninfoError> {
    let number = |keyword: &'static str, default: u32, unit: &str, example: &str| match settings.get(keyword)
    {
        None => Ok(default),
        Some(text) => parse(settings, keyword, text, &format!("must be a number of {unit}, e.g. {example}")),
    };
    let seconds = |keyword, default: u32| {
        number(keyword, default, "seconds", "30").map(|n| Duration::from_secs(n.into()))
    };
    Ok(Keepalive {
        enabled: flag(settings, "keepalives", true)?,
        idle: seconds("keepalives_idle", 30)?,
        interval: seconds("keepalives_interval", 10)?,
        count: number("keepalives_count", 3, "probes", "3")?,
        user_timeout: Duration::from_millis(
            number("tcp_user_timeout", 30_000, "milliseconds", "30000")?.into(),
        ),
    })
}

fn flag(settings: &Settings, keyword: &'static str, default: bool) -> Result<bool, ConninfoError> {
    one_of(settings, keyword, default, &[("0", false), ("1", true)])
}

fn one_of<T: Copy>(
    settings: &Settings,
    keyword: &'static str,
    default: T,
    known: &[(&str, T)],
) -> Result<T, ConninfoError> {
    let Some(text) = settings.get(keyword) else { return Ok(default) };
    known.iter().find(|(name, _)| *name == text).map(|&(_, value)| value).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|&(name, _)| name).collect();
        settings.invalid(keyword, format!("must be one of {}", names.join(", ")))
    })
}

fn parse<T: FromStr>(
    settings: &Settings,
    keyword: &'static str,
    text: &str,
    right: &str,
) -> Result<T, ConninfoError> {
    text.trim().parse().map_err(|_| settings.invalid(keyword, right))
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
