//! TLS to the platform: a certificate that is not to be trusted ends the connection before the credentials are sent, and
//! what is said of it names the cure.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::impostor::listen;
use crate::support::{Folder, Outcome, Program};

/// A server at 127.0.0.1 that answers `/health` and `/auth/token` by TLS, and its authority's certificate in a file.
struct Platform {
    url: String,
    authority: String,
    heard: Arc<Mutex<String>>,
    _folder: Folder,
}

impl Platform {
    fn new(params: CertificateParams) -> Self {
        let (key, own) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = authority.self_signed(&key).unwrap().pem();
        let certificate = params.signed_by(&own, &Issuer::new(authority, key)).unwrap().pem();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(own.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap();
        let (listener, url) = listen("https");
        let heard = Arc::new(Mutex::new(String::new()));
        let (config, ears) = (Arc::new(config), heard.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever does not like the certificate goes away.
                let _gone = serve(stream, &config, &ears);
            }
        });
        let folder = Folder::new("authority");
        let authority = folder.file("authority.pem", &pem, 0o644);
        Self { url, authority, heard, _folder: folder }
    }

    fn check(&self, trusting: bool) -> Outcome {
        let nowhere = "postgres://someone@127.0.0.1:1/somewhere";
        let program = Program::new(&["check", "--give-up-after", "100ms"]).database(nowhere);
        let program = program.api(&self.url, "ads@example.com", "over-tls-alone");
        if trusting { program.env("SSL_CERT_FILE", &self.authority) } else { program }.run().expect_code(5)
    }
}

fn serve(stream: TcpStream, config: &Arc<ServerConfig>, heard: &Mutex<String>) -> std::io::Result<()> {
    let connection = ServerConnection::new(config.clone()).expect("a configuration");
    let mut stream = StreamOwned::new(connection, stream);
    let mut request = [0; 4096];
    let length = stream.read(&mut request)?;
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    let body = if request.starts_with("POST /auth/token ") {
        r#"{"access_token": "a-token", "token_type": "Bearer", "expires_in": 3600}"#
    } else {
        r#"{"status": "ok"}"#
    };
    heard.lock().unwrap().push_str(&request);
    let length = body.len();
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn named(name: &str) -> CertificateParams {
    CertificateParams::new([name.to_owned()]).unwrap()
}

/// It says each of the words in one line of the API's, and nobody heard a request.
#[track_caller]
fn assert_refused(platform: &Platform, outcome: &Outcome, words: &[&str]) {
    let of_the_api: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("API: ")).collect();
    let [said] = of_the_api[..] else { panic!("{outcome}") };
    for word in words.iter().chain([&platform.url.as_str(), &"API: cannot connect: TLS: "]) {
        assert!(said.contains(word), "{word}: {outcome}");
    }
    assert_eq!(*platform.heard.lock().unwrap(), "", "nothing was sent");
}

#[test]
fn a_trusted_certificate_lets_the_credentials_through() {
    let platform = Platform::new(named("127.0.0.1"));
    let outcome = platform.check(true);
    assert!(outcome.stdout.contains("ok  API") && outcome.stdout.contains("ok  credentials"), "{outcome}");
    assert!(platform.heard.lock().unwrap().contains("Basic "));
}

#[test]
fn an_authority_that_nobody_knows_is_refused_and_the_variable_that_names_it_told() {
    let platform = Platform::new(named("127.0.0.1"));
    assert_refused(&platform, &platform.check(false), &["authority that is not trusted", "SSL_CERT_FILE"]);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let platform = Platform::new(named("ads.example.com"));
    assert_refused(&platform, &platform.check(true), &["is for another name", "--api-url"]);
}

#[test]
fn a_certificate_that_has_expired_is_refused() {
    let mut params = named("127.0.0.1");
    (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    let platform = Platform::new(params);
    assert_refused(&platform, &platform.check(true), &["has expired", "clock"]);
}

#[test]
fn a_server_that_speaks_plain_http_is_told_from_one_that_is_away() {
    let (listener, url) = listen("https");
    let plain = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _hello = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").unwrap();
    });
    let program = Program::new(&["check"]).api(&url, "ads@example.com", "over-tls-alone");
    let outcome = program.database("postgres://someone@127.0.0.1:1/somewhere").run().expect_code(5);
    plain.join().unwrap();
    assert!(
        outcome.stderr.contains(&url) && outcome.stderr.contains("does it speak plain http"),
        "{outcome}"
    );
}

#[test]
fn no_older_tls_is_spoken_than_1_2() {
    let (listener, url) = listen("https");
    let old = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 4096];
        let length = stream.read(&mut hello).unwrap();
        // A `ServerHello` that settles for TLS 1.1, and a cipher of its time.
        let chosen = [&[22, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2][..], &[7; 32], &[0, 0xc0, 0x13, 0]].concat();
        stream.write_all(&chosen).unwrap();
        let mut rest = Vec::new();
        let _reset_or_closed = stream.read_to_end(&mut rest);
        (hello[..length].to_vec(), rest)
    });
    let program =
        Program::new(&["check", "--give-up-after", "100ms"]).api(&url, "ads@example.com", "over-tls");
    let outcome = program.database("postgres://someone@127.0.0.1:1/somewhere").run().expect_code(5);
    let (hello, rest) = old.join().unwrap();
    assert!(outcome.stderr.contains("API: cannot connect: TLS: "), "{outcome}");
    assert_eq!((hello[0], rest.first()), (22, Some(&21)), "a greeting, and then an alert: {rest:?}");
    assert!(rest.len() < 20, "nothing else was said: {rest:?}");
}
