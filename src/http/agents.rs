//! The ureq agents of a process, with every limit set. Accounts whose agents would be the same share one, and so its
//! connections: a file of a thousand accounts of one platform needs no more of them than there are workers.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ureq::Agent;
use ureq::config::Config;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};

use super::gather::{BUFFER_BYTES, GatherConnector, MAX_HEADER_BYTES};
use super::lock::lock;
use super::resolver::CachingResolver;

/// Neither a name look-up nor a connect takes longer: they cannot be abandoned.
const LONGEST_CONNECT: Duration = Duration::from_secs(10);
/// An idle connection older than this is not used again: many servers and balancers close theirs after a minute.
const MAX_IDLE: Duration = Duration::from_secs(50);

/// The proxy through which encrypted connections go.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Where it is.
    pub server: ureq::Proxy,
    /// It, in a message: its address without credentials, and the variable that names it.
    pub name: String,
}

/// Why no client could be made.
#[derive(Debug)]
pub struct BadClientSettings(pub String);

impl fmt::Display for BadClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes agents, and keeps them for whoever needs the same.
pub struct Agents {
    idle: usize,
    roots: Option<RootCerts>,
    made: Mutex<Vec<Arc<Shared>>>,
}

/// An agent, and what distinguishes it.
pub(super) struct Shared {
    timeout: Duration,
    proxy: Option<ureq::Proxy>,
    pub http: Agent,
    pub resolver: CachingResolver,
}

impl Agents {
    /// Of each agent, so many connections may stand idle; `trusted_roots` are PEM certificates to trust instead of the built-in
    /// (Mozilla's) roots.
    ///
    /// # Errors
    /// When `trusted_roots` holds no certificate.
    pub fn new(idle: usize, trusted_roots: Option<&[u8]>) -> Result<Self, BadClientSettings> {
        Ok(Self { idle, roots: trusted_roots.map(roots).transpose()?, made: Mutex::default() })
    }

    /// The one with these settings.
    pub(super) fn get(&self, timeout: Duration, proxy: Option<&Proxy>) -> Arc<Shared> {
        let proxy = proxy.map(|proxy| proxy.server.clone());
        let mut made = lock(&self.made);
        if let Some(agent) = made.iter().find(|agent| agent.timeout == timeout && agent.proxy == proxy) {
            return agent.clone();
        }
        let agent = Arc::new(self.agent(timeout, proxy));
        made.push(agent.clone());
        agent
    }

    fn agent(&self, timeout: Duration, proxy: Option<ureq::Proxy>) -> Shared {
        let mut tls = TlsConfig::builder();
        if let Some(roots) = &self.roots {
            tls = tls.root_certs(roots.clone());
        }
        let config = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(timeout))
            .timeout_resolve(Some(timeout.min(LONGEST_CONNECT)))
            .timeout_connect(Some(timeout.min(LONGEST_CONNECT)))
            .max_response_header_size(MAX_HEADER_BYTES)
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .max_idle_connections(self.idle)
            .max_idle_connections_per_host(self.idle)
            .max_idle_age(MAX_IDLE)
            .user_agent(concat!("campaign-sync/", env!("CARGO_PKG_VERSION")))
            .accept("application/json")
            .tls_config(tls.build())
            .proxy(proxy.clone())
            .build();
        let resolver = CachingResolver::default();
        let http = Agent::with_parts(config, GatherConnector::default(), resolver.clone());
        Shared { timeout, proxy, http, resolver }
    }
}

/// Whether these are certificates that [`Agents::new`] takes.
///
/// # Errors
/// When they hold no certificate in PEM form.
pub fn check_trusted_roots(pem: &[u8]) -> Result<(), BadClientSettings> {
    roots(pem).map(drop)
}

fn roots(pem: &[u8]) -> Result<RootCerts, BadClientSettings> {
    let mut roots: Vec<Certificate<'static>> = Vec::new();
    for item in ureq::tls::parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => roots.push(certificate.to_owned()),
            Ok(_) => {}
            Err(error) => return Err(BadClientSettings(format!("unreadable PEM: {error}"))),
        }
    }
    if roots.is_empty() {
        return Err(BadClientSettings("no certificate in PEM form found".into()));
    }
    Ok(RootCerts::new_with_certs(&roots))
}
