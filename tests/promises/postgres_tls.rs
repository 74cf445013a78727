//! Each `sslmode` keeps the promise that libpq makes for it, against a real server.

use std::fs;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::support::postgres_cluster::{Cluster, file};

/// A certificate authority in memory.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    /// Certificate and key for names, in PEM.
    fn issue(&self, params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

fn for_names(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

const PG_HBA: &str = "hostssl all alice 127.0.0.1/32 scram-sha-256\nhostssl all carol 127.0.0.1/32 cert";

fn with_certificate((certificate, key): &(String, String), client_authority: &str) -> Cluster {
    Cluster::start(
        PG_HBA,
        &[("server.crt", certificate), ("server.key", key), ("clients.crt", client_authority)],
        &["ssl=on", "ssl_ca_file=clients.crt"],
    )
}

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::new("our authority"));
static OTHER_AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::new("another authority"));

/// A server whose certificate is from our authority, for `db.example` and for the address 127.0.0.1.
fn sound() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let issued = AUTHORITY.issue(for_names(&["db.example", "127.0.0.1"]));
        let cluster = with_certificate(&issued, &AUTHORITY.pem);
        let mut admin = cluster.pool(&[]).get().unwrap();
        admin.batch_execute("CREATE ROLE alice LOGIN PASSWORD 'hunter2'; CREATE ROLE carol LOGIN").unwrap();
        cluster
    })
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The settings of a host that is to be found at 127.0.0.1.
fn named<'a>(host: &'a str, mode: &'a str, roots: &'a Path) -> [(&'a str, &'a str); 4] {
    [("PGHOST", host), ("PGHOSTADDR", "127.0.0.1"), ("PGSSLMODE", mode), ("PGSSLROOTCERT", shown(roots))]
}

#[test]
fn verify_full_accepts_the_right_name_and_address_from_a_trusted_authority() {
    let roots = file(&AUTHORITY.pem);
    for host in ["db.example", "127.0.0.1"] {
        assert_eq!(sound().encrypted(&named(host, "verify-full", &roots)), Ok(true), "{host}");
    }
}

#[test]
fn verify_full_refuses_another_name_and_says_so() {
    let roots = file(&AUTHORITY.pem);
    let message = sound().refusal(&named("other.example", "verify-full", &roots));
    assert!(
        message.contains("certificate is for another name") && message.contains("other.example"),
        "{message}"
    );
}

#[test]
fn verify_ca_accepts_another_name() {
    let roots = file(&AUTHORITY.pem);
    assert_eq!(sound().encrypted(&named("other.example", "verify-ca", &roots)), Ok(true));
}

#[test]
fn an_authority_that_is_not_trusted_is_refused_by_all_modes_that_verify() {
    let roots = file(&OTHER_AUTHORITY.pem);
    for mode in ["verify-full", "verify-ca", "require"] {
        let message = sound().refusal(&named("db.example", mode, &roots));
        assert!(message.contains("not trusted (set sslrootcert (PGSSLROOTCERT)"), "{mode}: {message}");
    }
    let message = sound().refusal(&[("PGSSLROOTCERT", "system")]);
    assert!(message.contains("not trusted"), "{message}");
}

#[test]
fn weaker_modes_encrypt_without_verifying() {
    for mode in ["require", "prefer"] {
        assert_eq!(sound().encrypted(&[("PGSSLMODE", mode)]), Ok(true), "{mode}");
    }
    for mode in ["disable", "allow"] {
        assert_eq!(sound().encrypted(&[("PGSSLMODE", mode)]), Ok(false), "{mode}");
    }
}

#[test]
fn allow_uses_tls_when_plain_text_is_refused() {
    let settings = [("PGUSER", "alice"), ("PGPASSWORD", "hunter2"), ("PGSSLMODE", "allow")];
    assert_eq!(sound().encrypted(&settings), Ok(true));
    let message =
        sound().refusal(&[("PGUSER", "alice"), ("PGPASSWORD", "hunter2"), ("PGSSLMODE", "disable")]);
    assert!(message.contains("pg_hba.conf") && !message.contains("hunter2"), "{message}");
}

#[test]
fn an_expired_certificate_is_refused_when_verified() {
    let mut params = for_names(&["127.0.0.1"]);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    let cluster = with_certificate(&AUTHORITY.issue(params), &AUTHORITY.pem);
    let roots = file(&AUTHORITY.pem);
    for mode in ["verify-full", "verify-ca"] {
        let message = cluster.refusal(&named("127.0.0.1", mode, &roots));
        assert!(message.contains("has expired"), "{message}");
    }
    assert_eq!(cluster.encrypted(&[("PGSSLMODE", "require")]), Ok(true));
}

#[test]
fn a_self_signed_certificate_needs_to_be_trusted_itself() {
    let key = KeyPair::generate().unwrap();
    // As `openssl req -x509` makes it: server and authority in one.
    let mut params = for_names(&["127.0.0.1"]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    let cluster = with_certificate(&(pem.clone(), key.serialize_pem()), &pem);
    assert_eq!(cluster.encrypted(&[("PGSSLMODE", "require")]), Ok(true));
    let others = file(&AUTHORITY.pem);
    for mode in ["verify-full", "verify-ca"] {
        let message = cluster.refusal(&named("127.0.0.1", mode, &others));
        assert!(message.contains("not trusted"), "{message}");
    }
    let own = file(&pem);
    assert_eq!(cluster.encrypted(&named("127.0.0.1", "verify-full", &own)), Ok(true));
    let message = cluster.refusal(&named("other.example", "verify-full", &own));
    assert!(message.contains("another name"), "{message}");
}

#[test]
fn a_server_without_tls_is_refused_by_require_and_accepted_by_prefer() {
    let cluster = Cluster::start("", &[], &["ssl=off"]);
    let roots = file(&AUTHORITY.pem);
    let message = cluster.refusal(&[("PGSSLMODE", "require")]);
    assert!(message.contains("the server has no TLS (turn ssl on"), "{message}");
    let message = cluster.refusal(&named("db.example", "verify-full", &roots));
    assert!(message.contains("the server has no TLS"), "{message}");
    assert_eq!(cluster.encrypted(&[("PGSSLMODE", "prefer")]), Ok(false));
}

#[test]
fn a_client_certificate_logs_in_and_its_absence_does_not() {
    let mut params = for_names(&[]);
    params.distinguished_name.push(DnType::CommonName, "carol");
    let (certificate, key) = AUTHORITY.issue(params);
    let (certificate, key) = (file(&certificate), file(&key));
    let user = [("PGUSER", "carol"), ("PGSSLMODE", "require")];
    let certified = [("PGSSLCERT", shown(&certificate)), ("PGSSLKEY", shown(&key))];
    assert_eq!(sound().encrypted(&[user, certified].concat()), Ok(true));
    assert!(sound().refusal(&user).contains("certificate"));
}

#[test]
fn a_private_key_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let (certificate, key) = AUTHORITY.issue(for_names(&[]));
    let (certificate, key) = (file(&certificate), file(&key));
    fs::set_permissions(&*key, fs::Permissions::from_mode(0o644)).unwrap();
    let settings = [("PGSSLMODE", "require"), ("PGSSLCERT", shown(&certificate)), ("PGSSLKEY", shown(&key))];
    let conninfo = sound().conninfo(&settings).unwrap();
    let error = campaign_sync::store::Pool::new(&conninfo, 1).unwrap_err().to_string();
    assert!(error.contains("chmod 600") && error.contains(shown(&key)), "{error}");
}

#[test]
fn files_that_hold_no_certificate_are_named() {
    let empty = file("nothing\n");
    let conninfo = sound().conninfo(&named("db.example", "verify-full", &empty)).unwrap();
    let error = campaign_sync::store::Pool::new(&conninfo, 1).unwrap_err().to_string();
    assert!(error.starts_with(shown(&empty)) && error.contains("BEGIN CERTIFICATE"), "{error}");
}

#[test]
fn a_password_can_be_bound_to_the_tls_connection() {
    let alice = [("PGUSER", "alice"), ("PGPASSWORD", "hunter2"), ("PGCHANNELBINDING", "require")];
    assert_eq!(sound().encrypted(&[&alice[..], &[("PGSSLMODE", "require")]].concat()), Ok(true));
    let message = sound().refusal(&[("PGCHANNELBINDING", "require"), ("PGSSLMODE", "require")]);
    assert!(message.contains("channel binding"), "{message}");
}

#[test]
fn tls_may_begin_at_once_where_the_server_can() {
    let version: String = {
        let mut connection = sound().pool(&[]).get().unwrap();
        connection.query_one("SHOW server_version_num", &[]).unwrap().get(0)
    };
    let outcome = sound().encrypted(&[("PGSSLMODE", "require"), ("PGSSLNEGOTIATION", "direct")]);
    assert_eq!(outcome.is_ok(), version.parse::<u32>().unwrap() >= 170_000, "{outcome:?}");
}
