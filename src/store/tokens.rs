//! The account's token, shared by its processes: sealed, so that the database alone does not give it away.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use postgres::types::Type;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, pbkdf2};

use super::{Client, Store, StoreError};
use crate::http::Secret;
use crate::http::lock::lock;
use crate::http::sharing::SharingError;
use crate::http::token::{Grant, Kept, Turn, Vault};

/// PBKDF2's rounds: what a guess at the password costs somebody who has the database. About 30 ms of one core.
const ROUNDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(99_999);
/// A process that fetches a token is given this long before another may.
pub(crate) const FETCH_SECONDS: f64 = 30.0;
/// How often the others look whether it is there.
const POLL: Duration = Duration::from_millis(50);

/// What tokens are sealed with, derived once.
struct Key {
    password: Secret,
    salt: digest::Digest,
    derived: OnceLock<Option<LessSafeKey>>,
}

impl Key {
    fn get(&self) -> Option<&LessSafeKey> {
        self.derived.get_or_init(|| self.derive()).as_ref()
    }

    fn derive(&self) -> Option<LessSafeKey> {
        let mut key = [0; 32];
        let password = self.password.reveal().as_bytes();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, self.salt.as_ref(), password, &mut key);
        let sealing = UnboundKey::new(&CHACHA20_POLY1305, &key).ok().map(LessSafeKey::new);
        zeroize::Zeroize::zeroize(&mut key);
        sealing
    }
}

/// How an account's tokens are sealed. Its key is derived when it is first wanted.
pub struct Sealing {
    account: Arc<str>,
    key: Key,
}

impl Sealing {
    /// With the account's own password.
    #[must_use]
    pub fn new(account: &str, email: &str, password: Secret) -> Self {
        // The salt separates accounts; it need not be secret.
        let salt = format!("campaign-sync token\0{account}\0{email}");
        let salt = digest::digest(&digest::SHA256, salt.as_bytes());
        Self { account: account.into(), key: Key { password, salt, derived: OnceLock::new() } }
    }

    /// Nonce, then ciphertext and tag; nothing when the system has no randomness to give.
    fn seal(&self, token: &Secret) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = token.reveal().as_bytes().to_vec();
        let account = Aad::from(self.account.as_bytes());
        self.key
            .get()?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), account, &mut sealed)
            .ok()?;
        Some([nonce.as_slice(), &sealed].concat())
    }

    /// The token; nothing when it was sealed with another password, or was changed.
    fn open(&self, sealed: &[u8]) -> Option<Secret> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = sealed.to_vec();
        let account = Aad::from(self.account.as_bytes());
        let opened = self.key.get()?.open_in_place(nonce, account, &mut text).ok()?;
        Some(Secret::new(std::str::from_utf8(opened).ok()?.to_owned()))
    }
}

/// What the row of an account's token says to whoever needs one that is newer than `refused`.
struct Row {
    generation: u64,
    /// Sealed.
    usable: Option<Vec<u8>>,
    remaining: Option<Duration>,
    mine: bool,
}

fn ask(client: &mut Client, account: &str, refused: u64, myself: i64) -> Result<Row, postgres::Error> {
    let refused = i64::try_from(refused).unwrap_or(i64::MAX);
    let row = client.query_typed_one(
        include_str!("../../sql/token_turn.sql"),
        &[
            (&account, Type::TEXT),
            (&refused, Type::INT8),
            (&myself, Type::INT8),
            (&FETCH_SECONDS, Type::FLOAT8),
        ],
    )?;
    let remaining = row.get::<_, Option<f64>>("remaining_s");
    Ok(Row {
        generation: u64::try_from(row.get::<_, i64>("generation")).unwrap_or(0),
        usable: row.get("usable"),
        remaining: remaining.and_then(|s| Duration::try_from_secs_f64(s).ok()),
        mine: row.get("mine"),
    })
}

impl Row {
    fn turn(self, sealing: &Sealing) -> Turn {
        let sealed = self.usable.is_some();
        if let Some(access_token) = self.usable.and_then(|sealed| sealing.open(&sealed)) {
            return Turn::Use(Kept { access_token, generation: self.generation, remaining: self.remaining });
        }
        // Where there is one that this password does not open, its own is fetched, without waiting for anybody.
        if self.mine || sealed { Turn::Fetch } else { Turn::Wait(POLL) }
    }
}

/// A token that is newer than generation `refused`, or the turn of worker `myself` to fetch it.
///
/// # Errors
/// The database's.
#[cfg(feature = "next-engine")]
pub fn turn(store: &Store, sealing: &Sealing, refused: u64, myself: i64) -> Result<Turn, StoreError> {
    // Opened when the connection is given back: the key may have to be derived.
    store.run(|client, account| ask(client, account, refused, myself)).map(|row| row.turn(sealing))
}

/// Keeps a token that was fetched, and ends the turn.
///
/// # Errors
/// The database's.
#[cfg(feature = "next-engine")]
pub fn keep(store: &Store, sealing: &Sealing, grant: &Grant) -> Result<(), StoreError> {
    let (sealed, lifetime) = (sealing.seal(&grant.access_token), lifetime(grant));
    store.run(|client, account| {
        client.execute_typed(
            "INSERT INTO campaign_sync.access_tokens AS t (account, generation, sealed, expires_at)
             SELECT $1, 1, $2, now() + make_interval(secs => $3)
             ON CONFLICT (account) DO UPDATE
             SET generation = t.generation + 1, sealed = excluded.sealed, expires_at = excluded.expires_at,
                 refresher = 0, refresh_until = '-infinity'",
            &[(&account, Type::TEXT), (&sealed, Type::BYTEA), (&lifetime, Type::FLOAT8)],
        )
    })?;
    Ok(())
}

/// Ends the turn of worker `myself`, if it has it.
///
/// # Errors
/// The database's.
pub fn release(client: &mut Client, account: &str, myself: i64) -> Result<u64, postgres::Error> {
    client.execute_typed(
        "UPDATE campaign_sync.access_tokens SET refresher = 0, refresh_until = '-infinity'
         WHERE account = $1 AND refresher = $2",
        &[(&account, Type::TEXT), (&myself, Type::INT8)],
    )
}

/// In seconds, and no more of them than a clock can reckon with.
fn lifetime(grant: &Grant) -> Option<f64> {
    grant.lifetime.map(|lifetime| lifetime.as_secs_f64().min(10.0 * 365.0 * 86_400.0))
}

/// The shared token of an account.
pub struct SharedVault {
    shared: Arc<Shared>,
    /// Derives the key, and then seals the token that came before it.
    deriving: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    store: Store,
    sealing: Sealing,
    /// Names this process as the one that fetches. Random: two processes must never take each other's turn.
    myself: i64,
    /// A token that came before the key was there: it is used at once, and sealed and kept as soon as it can be.
    unsealed: Mutex<Option<Unsealed>>,
}

struct Unsealed {
    grant: Grant,
    generation: i64,
}

impl SharedVault {
    /// The vault of the store's account, opened by its password. The key is derived meanwhile.
    #[must_use]
    pub fn new(store: Store, email: &str, password: Secret) -> Self {
        let mut bytes = [0; 8];
        // Without randomness from the system nothing is sealed either; then a turn is still unlikely to be shared.
        let _checked_when_sealing = SystemRandom::new().fill(&mut bytes);
        let myself = (i64::from_be_bytes(bytes) & i64::MAX).max(1);
        let sealing = Sealing::new(store.account(), email, password);
        let shared = Arc::new(Shared { store, sealing, myself, unsealed: Mutex::default() });
        let theirs = shared.clone();
        let derive = move || {
            theirs.sealing.key.get();
            theirs.keep_unsealed();
        };
        // Without a thread for it, whoever needs the key derives it.
        let deriving = thread::Builder::new().name("key".into()).spawn(derive).ok();
        Self { shared, deriving: Mutex::new(deriving) }
    }
}

impl Shared {
    /// Seals and keeps the token that had to wait for the key, unless another one has come since, and ends the turn.
    fn keep_unsealed(&self) {
        let Some(Unsealed { grant, generation }) = lock(&self.unsealed).take() else { return };
        let sealed = self.sealing.seal(&grant.access_token);
        let kept = self.store.run(|client, account| {
            client.execute_typed(
                "UPDATE campaign_sync.access_tokens SET sealed = $3, refresher = 0, refresh_until = '-infinity'
                 WHERE account = $1 AND generation = $2 AND refresher = $4",
                &[
                    (&account, Type::TEXT),
                    (&generation, Type::INT8),
                    (&sealed, Type::BYTEA),
                    (&self.myself, Type::INT8),
                ],
            )
        });
        self.tolerate(kept);
    }

    /// Nobody waits for a turn for longer than it lasts.
    fn tolerate(&self, told: Result<u64, StoreError>) {
        if let Err(error) = told {
            let scope = self.store.scope();
            log::debug!(account = scope.account(), run = scope.run(); "the turn to fetch a token ends by itself in {FETCH_SECONDS} s: {error}");
        }
    }
}

impl Vault for SharedVault {
    fn turn(&self, refused: u64) -> Result<Turn, SharingError> {
        let row =
            self.shared.store.run(|client, account| ask(client, account, refused, self.shared.myself))?;
        Ok(row.turn(&self.shared.sealing))
    }

    fn keep(&self, grant: &Grant) -> Result<u64, SharingError> {
        let shared = &*self.shared;
        // Who has to wait for the key does so elsewhere: the token is good without it.
        let late = shared.sealing.key.derived.get().is_none() && lock(&self.deriving).is_some();
        let sealed = if late { None } else { shared.sealing.seal(&grant.access_token) };
        let lifetime = lifetime(grant);
        let row = shared.store.run(|client, account| {
            client.query_typed_one(
                "UPDATE campaign_sync.access_tokens
                 SET generation = generation + 1, sealed = $2, expires_at = now() + make_interval(secs => $3),
                     refresher = CASE WHEN $4 THEN refresher ELSE 0 END,
                     -- The key takes a moment. Whoever dies in it holds up nobody for long.
                     refresh_until = CASE WHEN $4 THEN now() + interval '5 seconds' ELSE '-infinity' END
                 WHERE account = $1
                 RETURNING generation",
                &[
                    (&account, Type::TEXT),
                    (&sealed, Type::BYTEA),
                    (&lifetime, Type::FLOAT8),
                    (&late, Type::BOOL),
                ],
            )
        })?;
        let generation: i64 = row.get(0);
        if late {
            *lock(&shared.unsealed) = Some(Unsealed { grant: grant.clone(), generation });
            if shared.sealing.key.derived.get().is_some() {
                shared.keep_unsealed();
            }
        }
        Ok(u64::try_from(generation).unwrap_or(0))
    }

    fn release(&self) {
        let released = self.shared.store.run(|client, account| release(client, account, self.shared.myself));
        self.shared.tolerate(released);
    }

    fn finish(&self) {
        if let Some(deriving) = lock(&self.deriving).take() {
            let _panics_abort = deriving.join();
        }
        self.shared.keep_unsealed();
    }
}
