//! TLS for Postgres with the meaning that libpq gives each `sslmode`: how far the server's certificate is verified.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;
use zeroize::Zeroizing;

use super::conninfo::{Conninfo, ConninfoError, RootCertificates, SslMode};
use crate::settings_file::{self, CERTIFICATES_BYTES};

/// What makes the TLS side of connections, from the certificates that the settings name.
///
/// # Errors
/// When a file cannot be read or holds no usable certificate or key: names the file, the cause and the cure.
pub fn connector(conninfo: &Conninfo) -> Result<MakeRustlsConnect, ConninfoError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(conninfo, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ConninfoError::new(format!("TLS cannot be set up: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &conninfo.client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(read_certificates(certificate)?, read_key(key)?)
            .map_err(|error| file_error(certificate, &format!("{error}; does the key belong to it?")))?,
    };
    config.enable_sni = conninfo.sslsni;
    // Demanded by sslnegotiation=direct; servers older than PostgreSQL 17 take no notice of it.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(MakeRustlsConnect::new(config))
}

/// How far a certificate is verified. That the server holds its key is always verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Nothing,
    Chain,
    ChainAndName,
}

#[derive(Debug)]
struct Verifier {
    extent: Extent,
    trusted: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(conninfo: &Conninfo, provider: &CryptoProvider) -> Result<Self, ConninfoError> {
        let extent = match (conninfo.sslmode, &conninfo.sslrootcert) {
            (SslMode::VerifyFull, _) => Extent::ChainAndName,
            // libpq: "if a root CA file exists, require behaves like verify-ca".
            (SslMode::VerifyCa, _) | (SslMode::Require, Some(_)) => Extent::Chain,
            _ => Extent::Nothing,
        };
        let (mut roots, mut trusted) = (RootCertStore::empty(), Vec::new());
        match &conninfo.sslrootcert {
            Some(RootCertificates::System) => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(RootCertificates::File(path)) => {
                trusted = read_certificates(path)?;
                if roots.add_parsable_certificates(trusted.iter().cloned()).0 == 0 {
                    return Err(file_error(path, "none of its certificates can be used as an authority"));
                }
            }
            None => {}
        }
        Ok(Self { extent, trusted, roots, algorithms: provider.signature_verification_algorithms })
    }

    fn verify_chain(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let verdict = verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        );
        match verdict {
            // A certificate that is marked as an authority serves: what `openssl req -x509` makes. OpenSSL takes it when
            // it is itself the trusted one, and so must we. Its dates were checked before this was noticed.
            Err(error) if is_authority_as_server(&error) => {
                let trusted = self.trusted.iter().any(|trusted| trusted == certificate);
                if trusted { Ok(()) } else { Err(CertificateError::UnknownIssuer.into()) }
            }
            verdict => verdict,
        }
    }
}

fn is_authority_as_server(error: &Error) -> bool {
    // rustls hands on webpki's error without a variant of its own.
    matches!(error, Error::InvalidCertificate(CertificateError::Other(other))
        if format!("{other:?}").contains("CaUsedAsEndEntity"))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.extent != Extent::Nothing {
            self.verify_chain(certificate, intermediates, now)?;
        }
        if self.extent == Extent::ChainAndName {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn file_error(path: &Path, why: &str) -> ConninfoError {
    ConninfoError::new(format!("{}: {why}", path.display()))
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, ConninfoError> {
    settings_file::read(path, CERTIFICATES_BYTES)
        .map_err(|error| file_error(path, &format!("{error}; make it readable or name another file")))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConninfoError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read_file(path)?).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(file_error(path, "holds no certificate; it must be PEM with BEGIN CERTIFICATE")),
        Err(error) => Err(file_error(path, &format!("is not valid PEM: {error}"))),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, ConninfoError> {
    let metadata = fs::metadata(path).map_err(|error| file_error(path, &error.to_string()))?;
    // As libpq: a key that belongs to root may be readable by a group.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        let shown = path.display();
        return Err(file_error(path, &format!("others may read this private key; chmod 600 {shown}")));
    }
    PrivateKeyDer::from_pem_slice(&read_file(path)?).map_err(|_| {
        file_error(path, "holds no private key without a passphrase; it must be PEM with BEGIN PRIVATE KEY")
    })
}
