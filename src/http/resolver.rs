//! A resolver that remembers: ureq asks for the host's addresses before every request, pooled connection or not, and
//! starts a thread for it whenever a timeout is set.

use std::io;
use std::net::ToSocketAddrs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::uri::{Authority, Scheme};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::lock::lock;
use crate::in_time::in_time;
use crate::own_machine::{Shortage, spare_files};

/// How long an answer is used. The system's resolver does not tell a record's lifetime; half a minute is below what
/// providers use for fail-over, and one look-up in 30 s costs nothing.
const LIFETIME: Duration = Duration::from_secs(30);

/// So many of a host's addresses are tried; ureq keeps no more.
const MOST_ADDRESSES: usize = 16;

/// Caches the system's answers, by host and port, until they are old or a connect fails.
#[derive(Clone, Debug, Default)]
pub(crate) struct CachingResolver {
    answers: Arc<Mutex<Vec<Answer>>>,
}

#[derive(Debug)]
struct Answer {
    scheme: Scheme,
    authority: Authority,
    asked_at: Instant,
    addresses: ResolvedSocketAddrs,
}

impl CachingResolver {
    /// Forgets the host of this address, or, without one, all: the next request asks again. For use after a failed connect.
    pub(crate) fn forget(&self, url: Option<&str>) {
        let uri = url.and_then(|url| url.parse::<Uri>().ok());
        let host = uri.as_ref().and_then(Uri::authority);
        lock(&self.answers).retain(|answer| host.is_some_and(|host| answer.authority != *host));
    }

    /// Asks the system, which knows no timeout: so it is asked in a thread of its own, which ureq's resolver would panic
    /// without.
    fn look_up(&self, host: &str, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        if let Ok(address) = host.parse() {
            let mut addresses = self.empty();
            addresses.push(address);
            return Ok(addresses);
        }
        let theirs = host.to_owned();
        let refused = |error: io::Error| io::Error::from(Shortage::of_threads(error));
        let found = in_time("look-up", *timeout.after, move || theirs.to_socket_addrs()).map_err(refused)?;
        let found = found.ok_or(ureq::Error::Timeout(timeout.reason))?;
        // Without a file to open, the system's resolver knows no name.
        let found = found.or_else(|error| spare_files(1).map_err(io::Error::from).and(Err(error)))?;
        let mut addresses = self.empty();
        found.take(MOST_ADDRESSES).for_each(|address| addresses.push(address));
        if addresses.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(addresses) }
    }
}

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(ureq::Error::HostNotFound);
        };
        let same = |answer: &Answer| answer.authority == *authority && answer.scheme == *scheme;
        if let Some(answer) = lock(&self.answers).iter().find(|answer| same(answer))
            && answer.asked_at.elapsed() < LIFETIME
        {
            return Ok(answer.addresses.clone());
        }
        let host = DefaultResolver::host_and_port(scheme, authority).ok_or(ureq::Error::HostNotFound)?;
        // Not under the lock: a look-up may take seconds. Two threads may ask at once; both answers are right.
        let addresses = self.look_up(&host, timeout)?;
        let (scheme, authority) = (scheme.clone(), authority.clone());
        let mut answers = lock(&self.answers);
        answers.retain(|answer| !same(answer));
        answers.push(Answer { scheme, authority, asked_at: Instant::now(), addresses: addresses.clone() });
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_cannot_be_connected_to_is_forgotten_and_the_others_are_not() {
        let resolver = CachingResolver::default();
        let timeout = NextTimeout::default();
        for url in ["http://127.0.0.1:81", "http://127.0.0.2:82"] {
            resolver.resolve(&url.parse().unwrap(), &Config::default(), timeout).unwrap();
        }
        let known = || lock(&resolver.answers).iter().map(|it| it.authority.to_string()).collect::<Vec<_>>();
        resolver.forget(Some("http://127.0.0.1:81/v1"));
        assert_eq!(known(), ["127.0.0.2:82"]);
        resolver.forget(None);
        assert!(known().is_empty());
    }
}
