//! What TLS has against a server, in words. The cure is the caller's to name: it is another setting for each server.

use std::fmt;

use rustls::CertificateError as Bad;

/// Why there is no TLS connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// Nobody vouches for the certificate.
    Untrusted,
    /// It was valid once.
    Expired,
    /// It will be valid.
    NotYetValid,
    /// It is another server's.
    OtherName,
    /// Something else is wrong with it.
    Unacceptable(String),
    /// The server ended the handshake.
    Refused(String),
    /// What came was no TLS, or none that is spoken here.
    Unspoken(String),
}

impl From<&rustls::Error> for TlsFault {
    fn from(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(bad) => match bad {
                Bad::UnknownIssuer => Self::Untrusted,
                Bad::Expired | Bad::ExpiredContext { .. } => Self::Expired,
                Bad::NotValidYet | Bad::NotValidYetContext { .. } => Self::NotYetValid,
                Bad::NotValidForName | Bad::NotValidForNameContext { .. } => Self::OtherName,
                other => Self::Unacceptable(other.to_string()),
            },
            rustls::Error::AlertReceived(alert) => Self::Refused(format!("{alert:?}")),
            other => Self::Unspoken(other.to_string()),
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TLS: ")?;
        match self {
            Self::Untrusted => {
                f.write_str("the server's certificate comes from an authority that is not trusted")
            }
            Self::Expired => f.write_str("the server's certificate has expired"),
            Self::NotYetValid => f.write_str("the server's certificate is not valid yet"),
            Self::OtherName => f.write_str("the server's certificate is for another name"),
            Self::Unacceptable(why) => write!(f, "the server's certificate is not acceptable: {why}"),
            Self::Refused(alert) => write!(f, "the server refused the connection: {alert}"),
            Self::Unspoken(why) => f.write_str(why),
        }
    }
}
