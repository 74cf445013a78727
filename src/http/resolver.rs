//! A resolver that remembers: ureq asks for the host's addresses before every request, pooled connection or not, and
//! starts a thread for it whenever a timeout is set.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::lock::lock;

/// How long an answer is used. The system's resolver does not tell a record's lifetime; half a minute is below what
/// providers use for fail-over, and one look-up in 30 s costs nothing.
const LIFETIME: Duration = Duration::from_secs(30);

/// Caches the default resolver's answers, by host and port, until they are old or a connect fails.
#[derive(Clone, Debug, Default)]
pub(crate) struct CachingResolver {
    answers: Arc<Mutex<HashMap<String, (Instant, ResolvedSocketAddrs)>>>,
}

impl CachingResolver {
    /// Forgets everything: the next request asks again. For use after a failed connect.
    pub(crate) fn forget(&self) {
        lock(&self.answers).clear();
    }
}

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let key = match (uri.scheme(), uri.authority()) {
            (Some(scheme), Some(authority)) => DefaultResolver::host_and_port(scheme, authority),
            _ => None,
        };
        let Some(key) = key else {
            return Err(ureq::Error::HostNotFound);
        };
        if let Some((asked_at, addresses)) = lock(&self.answers).get(&key)
            && asked_at.elapsed() < LIFETIME
        {
            return Ok(addresses.clone());
        }
        // Not under the lock: a look-up may take seconds. Two threads may ask at once; both answers are right.
        let addresses = DefaultResolver::default().resolve(uri, config, timeout)?;
        lock(&self.answers).insert(key, (Instant::now(), addresses.clone()));
        Ok(addresses)
    }
}
