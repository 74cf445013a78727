//! From the settings found to one consistent `Conninfo`: each value parsed, checked, or given its default.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use postgres::config::{ChannelBinding, SslNegotiation};

use super::defaults::{self, Home};
use super::parameters::Settings;
use super::password_file::PasswordFile;
use super::{Address, Conninfo, ConninfoError, Host, Keepalive, RootCertificates, SslMode};
use crate::http::Secret;

/// Makes the one consistent value, or says which setting is in the way.
pub(super) fn conninfo(
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
        channel_binding: channel_binding(settings)?,
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
            let set = settings
                .get("password")
                .map(|text| (Secret::new(text.to_owned()), settings.origin("password").to_owned()));
            let found = set.or_else(|| {
                let path = passwords.as_deref()?;
                let file = PasswordFile::read(path);
                let names = defaults::password_file_names(&address);
                let password = names.iter().find_map(|name| file.password(name, port, dbname, user))?;
                Some((password, path.display().to_string()))
            });
            let (password, password_origin) = found.unzip();
            Ok(Host { address, hostaddr, port, password, password_origin })
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

fn channel_binding(settings: &Settings) -> Result<ChannelBinding, ConninfoError> {
    let known = [
        ("disable", ChannelBinding::Disable),
        ("prefer", ChannelBinding::Prefer),
        ("require", ChannelBinding::Require),
    ];
    one_of(settings, "channel_binding", ChannelBinding::Prefer, &known)
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
