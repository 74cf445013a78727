//! What the engine is measured against: the same posts by ureq as it comes, but for a resolver that remembers, from the same
//! number of threads; no queue, no limiter, no retries, no database. Answers are read, and not looked at. With a database's
//! address, each post is followed by a single-row upsert that commits by itself.
//!
//! `bare-loop URL EMAIL PASSWORD CAMPAIGNS THREADS [DATABASE_URL]` prints the seconds that it took.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use campaign_sync::http::agents::Agents;
use campaign_sync::http::client::{Client, ClientSettings};
use campaign_sync::http::stats::Stats;
use campaign_sync::http::token::TokenCache;
use campaign_sync::http::{Secret, Stop, SystemClock};
use campaign_sync::platform::Api;
use ureq::Agent;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

const KEY: &str = "0123456789abcdef0123456789abcdef";
const TRACE: &str = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";
const UPSERT: &str = "INSERT INTO bare_loop (id, name, synced_at) VALUES ($1, $2, now())
    ON CONFLICT (id) DO UPDATE SET name = excluded.name, synced_at = excluded.synced_at";

/// Asks for the host's addresses once.
#[derive(Debug, Default)]
struct Remembering(OnceLock<ResolvedSocketAddrs>);

impl Resolver for Remembering {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        if let Some(addresses) = self.0.get() {
            return Ok(addresses.clone());
        }
        let addresses = DefaultResolver::default().resolve(uri, config, timeout)?;
        Ok(self.0.get_or_init(|| addresses).clone())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, email, password, campaigns, threads, rest @ ..] = arguments.as_slice() else {
        return Err("usage: bare-loop URL EMAIL PASSWORD CAMPAIGNS THREADS [DATABASE_URL]".into());
    };
    let (campaigns, threads): (u32, usize) = (campaigns.parse()?, threads.parse()?);
    if let Some(database) = rest.first() {
        let mut client = postgres::Client::connect(database, postgres::NoTls)?;
        client.batch_execute("DROP TABLE IF EXISTS bare_loop; CREATE TABLE bare_loop (id text PRIMARY KEY, name text, synced_at timestamptz)")?;
    }
    let clock = Arc::new(SystemClock::new(Stop::new()));
    let settings = ClientSettings {
        base_url: url.clone(),
        timeout: Duration::from_secs(30),
        client_id: None,
        proxy: None,
    };
    let agents = Agents::new(threads, None).map_err(|error| error.to_string())?;
    let client = Client::new(&settings, &agents, clock.clone()).map_err(|error| error.to_string())?;
    let api = Api::new(client, email, &Secret::new(password.clone()), Arc::new(Stats::default()));
    let cache = TokenCache::new(clock);
    let token = cache.get(|| api.fetch_token(None, &mut |_| {})).map_err(|error| error.to_string())?;
    let config = Config::builder()
        .timeout_global(Some(Duration::from_secs(30)))
        .max_idle_connections(threads)
        .max_idle_connections_per_host(threads)
        .build();
    let agent = Agent::with_parts(config, DefaultConnector::default(), Remembering::default());
    let post = |id: &str| -> Result<(), ureq::Error> {
        agent
            .post(format!("{url}/api/campaigns/{id}/sync"))
            .header("authorization", token.authorization.reveal())
            .header("content-type", "application/json")
            .header("idempotency-key", KEY)
            .header("traceparent", TRACE)
            .send(format!("{{\"campaign_id\":\"{id}\"}}"))?
            .body_mut()
            .read_to_vec()
            .map(drop)
    };
    let (next, started) = (AtomicU32::new(1), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut database =
                    rest.first().and_then(|url| postgres::Client::connect(url, postgres::NoTls).ok());
                let upsert = database.as_mut().and_then(|client| client.prepare(UPSERT).ok());
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n > campaigns {
                        return;
                    }
                    let id = format!("campaign_{n}");
                    if let Err(error) = post(&id) {
                        eprintln!("{id}: {error}");
                    }
                    if let (Some(database), Some(upsert)) = (&mut database, &upsert)
                        && let Err(error) = database.execute(upsert, &[&id, &id])
                    {
                        eprintln!("{id}: {error}");
                    }
                }
            });
        }
    });
    println!("{:.3}", started.elapsed().as_secs_f64());
    Ok(())
}
