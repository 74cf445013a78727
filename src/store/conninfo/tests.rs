use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn read(variables: &[(&str, &str)]) -> Result<Conninfo, ConninfoError> {
    let variables: HashMap<&str, &str> = variables.iter().copied().collect();
    Conninfo::from_environment(&|name| variables.get(name).map(OsString::from))
}

fn host(conninfo: &Conninfo) -> (&Address, u16) {
    (&conninfo.hosts[0].address, conninfo.hosts[0].port)
}

#[test]
fn every_variable_of_libpq_is_heeded() {
    let conninfo = read(&[
        ("PGHOST", "db.example"),
        ("PGHOSTADDR", "192.0.2.7"),
        ("PGPORT", "6543"),
        ("PGUSER", "alice"),
        ("PGPASSWORD", "hunter2"),
        ("PGDATABASE", "sales"),
        ("PGSSLMODE", "require"),
        ("PGSSLNEGOTIATION", "direct"),
        ("PGSSLSNI", "0"),
        ("PGCHANNELBINDING", "require"),
        ("PGCONNECT_TIMEOUT", "3"),
        ("PGAPPNAME", "nightly"),
        ("PGOPTIONS", "-c work_mem=64MB"),
        ("PGTARGETSESSIONATTRS", "read-write"),
        ("PGREQUIRESSL", "1"),
    ])
    .unwrap();
    assert_eq!(host(&conninfo), (&Address::Tcp("db.example".into()), 6543));
    assert_eq!(conninfo.hosts[0].hostaddr, Some("192.0.2.7".parse().unwrap()));
    assert_eq!(conninfo.hosts[0].password, Some(Secret::new("hunter2".into())));
    assert_eq!((&*conninfo.user, &*conninfo.dbname), ("alice", "sales"));
    assert_eq!(conninfo.sslmode, SslMode::Require);
    assert_eq!(conninfo.sslnegotiation, SslNegotiation::Direct);
    assert!(!conninfo.sslsni);
    assert_eq!(conninfo.channel_binding, ChannelBinding::Require);
    assert_eq!(conninfo.connect_timeout, Duration::from_secs(3));
    assert_eq!(conninfo.application_name, "nightly");
    assert_eq!(conninfo.options.as_deref(), Some("-c work_mem=64MB"));
    assert!(conninfo.read_write);
    assert_eq!(conninfo.to_string(), "postgres://alice@db.example:6543/sales");
}

#[test]
fn what_is_not_said_has_libpqs_defaults() {
    let conninfo = read(&[("PGUSER", "alice"), ("PGPORT", "59999")]).unwrap();
    assert_eq!(host(&conninfo), (&Address::Tcp("localhost".into()), 59999));
    assert_eq!(conninfo.dbname, "alice");
    assert_eq!((conninfo.sslmode, conninfo.sslrootcert), (SslMode::Prefer, None));
    assert_eq!(conninfo.application_name, "campaign-sync");
    assert_eq!((conninfo.options, conninfo.read_write), (None, false));
    assert!(!read(&[]).unwrap().user.is_empty(), "the operating system's user is the default");
}

#[test]
fn the_url_wins_over_variables_and_they_fill_its_gaps() {
    let conninfo = read(&[
        ("DATABASE_URL", " postgres://bob@one:1111/crm?sslmode=disable\n"),
        ("PGUSER", "alice"),
        ("PGHOST", "two"),
        ("PGPASSWORD", "hunter2"),
        ("PGAPPNAME", "nightly"),
        ("PGSSLMODE", "nonsense that the URL overrides"),
    ])
    .unwrap();
    assert_eq!(conninfo.to_string(), "postgres://bob@one:1111/crm");
    assert_eq!(conninfo.sslmode, SslMode::Disable);
    assert_eq!(conninfo.hosts[0].password, Some(Secret::new("hunter2".into())));
    assert_eq!(conninfo.application_name, "nightly");
}

#[test]
fn several_hosts_have_their_own_ports_or_share_one() {
    let several = read(&[("DATABASE_URL", "postgres://u@a:1,b:2,%2Ftmp/d")]).unwrap();
    assert_eq!(several.to_string(), "postgres://u@a:1,b:2,%2Ftmp:5432/d");
    let shared = read(&[("PGUSER", "u"), ("PGHOST", "a,::1"), ("PGPORT", "7")]).unwrap();
    assert_eq!(shared.to_string(), "postgres://u@a:7,[::1]:7/u");
}

#[test]
fn a_wrong_value_is_an_error_that_names_the_setting_and_a_right_one() {
    for (variable, value, hint) in [
        ("PGPORT", "99999", "5432"),
        ("PGPORT", "0", "5432"),
        ("PGPORT", "1,2", "one for each"),
        ("PGSSLMODE", "foo", "verify-full"),
        ("PGHOSTADDR", "db.example", "192.0.2.7"),
        ("PGHOST", "a b", "db.example.com"),
        ("PGCONNECT_TIMEOUT", "soon", "10"),
        ("PGTARGETSESSIONATTRS", "standby", "read-write"),
        ("PGCHANNELBINDING", "yes", "require"),
        ("PGSSLNEGOTIATION", "direct", "sslmode=require"),
        ("PGREQUIREPEER", "postgres", "verify-full"),
        ("PGCLIENTENCODING", "LATIN1", "UTF8"),
        ("DATABASE_URL", "host=h keepalives_idle=x", "e.g. 30"),
        ("DATABASE_URL", "postgres://h:99999/d", "5432"),
    ] {
        let error = read(&[(variable, value)]).unwrap_err().to_string();
        assert!(error.starts_with(variable) && error.contains(hint), "{variable}={value}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_variable_that_is_not_utf8_is_named() {
    use std::os::unix::ffi::OsStringExt;
    let error =
        Conninfo::from_environment(&|name| (name == "PGUSER").then(|| OsString::from_vec(vec![0xff])));
    assert_eq!(error.unwrap_err().to_string(), "PGUSER is not UTF-8; set it to UTF-8 text");
}

#[test]
fn system_roots_mean_full_verification_and_nothing_weaker() {
    let system = read(&[("PGHOST", "h"), ("PGSSLROOTCERT", "system")]).unwrap();
    assert_eq!((system.sslmode, system.sslrootcert), (SslMode::VerifyFull, Some(RootCertificates::System)));
    let error = read(&[("PGHOST", "h"), ("PGSSLROOTCERT", "system"), ("PGSSLMODE", "require")]).unwrap_err();
    assert!(error.to_string().starts_with("PGSSLMODE is \"require\""), "{error}");
}

#[test]
fn verification_without_a_trusted_authority_is_refused_not_weakened() {
    let error = read(&[("PGHOST", "h"), ("PGSSLMODE", "verify-full")]).unwrap_err().to_string();
    assert!(error.contains("PGSSLROOTCERT"), "{error}");
    let error = read(&[("PGHOST", "h"), ("PGSSLMODE", "require"), ("PGSSLROOTCERT", "/nonexistent/ca.pem")]);
    assert!(error.unwrap_err().to_string().starts_with("PGSSLROOTCERT is \"/nonexistent/ca.pem\""));
}

#[test]
fn neither_display_nor_debug_shows_the_password() {
    let conninfo =
        read(&[("DATABASE_URL", "postgres://u:hunter2@h/d?password=hunter2&options=-c%20a=b")]).unwrap();
    assert!(!format!("{conninfo} {conninfo:?}").contains("hunter2"));
}

proptest! {
    #[test]
    fn no_environment_makes_it_panic(
        url in "(postgres://)?[a-z0-9:@/?&=,%\\[\\] '\\\\.]{0,40}",
        host in "[a-z/,@.:]{0,12}",
        port in "[0-9,]{0,6}",
        mode in "(disable|require|verify-full|x|)",
    ) {
        let _ = read(&[("DATABASE_URL", &url), ("PGHOST", &host), ("PGPORT", &port), ("PGSSLMODE", &mode)]);
    }
}
