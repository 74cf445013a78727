//! The account's token, shared by its processes: sealed, so that the database alone does not give it away.

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use postgres::types::Type;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, pbkdf2};

use super::Store;
use crate::http::Secret;
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

/// The shared token of an account.
pub struct SharedVault {
    store: Store,
    key: Arc<Key>,
    /// Names this process as the one that fetches. Random: two processes must never take each other's turn.
    myself: i64,
}

impl SharedVault {
    /// The vault of the store's account, opened by its password.
    #[must_use]
    pub fn new(store: Store, email: &str, password: Secret) -> Self {
        let mut bytes = [0; 8];
        // Without randomness from the system nothing is sealed either; then a turn is still unlikely to be shared.
        let _checked_when_sealing = SystemRandom::new().fill(&mut bytes);
        let myself = (i64::from_be_bytes(bytes) & i64::MAX).max(1);
        // The salt separates accounts; it need not be secret.
        let salt = format!("campaign-sync token\0{}\0{email}", store.account());
        let salt = digest::digest(&digest::SHA256, salt.as_bytes());
        let key = Arc::new(Key { password, salt, derived: OnceLock::new() });
        let early = key.clone();
        // While the run is being opened there is nothing else to do. Whoever needs it sooner waits, or does it if there is
        // no such thread.
        let _derived_when_needed =
            thread::Builder::new().name("key".into()).spawn(move || early.get().is_some());
        Self { store, key, myself }
    }

    fn key(&self) -> Option<&LessSafeKey> {
        self.key.get()
    }

    /// Nonce, then ciphertext and tag; nothing when the system has no randomness to give.
    fn seal(&self, token: &Secret) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = token.reveal().as_bytes().to_vec();
        let account = Aad::from(self.store.account().as_bytes());
        self.key()?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), account, &mut sealed)
            .ok()?;
        Some([nonce.as_slice(), &sealed].concat())
    }

    /// The token; nothing when it was sealed with another password, or was changed.
    fn open(&self, sealed: &[u8]) -> Option<Secret> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = sealed.to_vec();
        let account = Aad::from(self.store.account().as_bytes());
        let opened = self.key()?.open_in_place(nonce, account, &mut text).ok()?;
        Some(Secret::new(std::str::from_utf8(opened).ok()?.to_owned()))
    }
}

impl Vault for SharedVault {
    fn turn(&self, refused: u64) -> Result<Turn, SharingError> {
        let refused = i64::try_from(refused).unwrap_or(i64::MAX);
        let row = self.store.run(|client, account| {
            client.query_typed_one(
                include_str!("../../sql/token_turn.sql"),
                &[
                    (&account, Type::TEXT),
                    (&refused, Type::INT8),
                    (&self.myself, Type::INT8),
                    (&FETCH_SECONDS, Type::FLOAT8),
                ],
            )
        })?;
        if let Some(sealed) = row.get::<_, Option<&[u8]>>("usable")
            && let Some(access_token) = self.open(sealed)
        {
            let generation = u64::try_from(row.get::<_, i64>("generation")).unwrap_or(0);
            let remaining = row.get::<_, Option<f64>>("remaining_s");
            return Ok(Turn::Use(Kept {
                access_token,
                generation,
                remaining: remaining.and_then(|s| Duration::try_from_secs_f64(s).ok()),
            }));
        }
        if row.get("mine") {
            return Ok(Turn::Fetch);
        }
        if row.get::<_, Option<&[u8]>>("usable").is_some() {
            // There is one that this password does not open: fetch our own, without waiting for anybody.
            return Ok(Turn::Fetch);
        }
        Ok(Turn::Wait(POLL))
    }

    fn keep(&self, grant: &Grant) -> Result<u64, SharingError> {
        let sealed = self.seal(&grant.access_token);
        let lifetime = grant.lifetime.map(|lifetime| lifetime.as_secs_f64().min(10.0 * 365.0 * 86_400.0));
        let row = self.store.run(|client, account| {
            client.query_typed_one(
                "UPDATE access_tokens
                 SET generation = generation + 1, sealed = $2, expires_at = now() + make_interval(secs => $3),
                     refresher = 0, refresh_until = '-infinity'
                 WHERE account = $1
                 RETURNING generation",
                &[(&account, Type::TEXT), (&sealed, Type::BYTEA), (&lifetime, Type::FLOAT8)],
            )
        })?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }

    fn release(&self) {
        let released = self.store.run(|client, account| {
            client.execute_typed(
                "UPDATE access_tokens SET refresher = 0, refresh_until = '-infinity'
                 WHERE account = $1 AND refresher = $2",
                &[(&account, Type::TEXT), (&self.myself, Type::INT8)],
            )
        });
        if let Err(error) = released {
            let scope = self.store.scope();
            log::debug!(account = scope.account(), run = scope.run(); "the turn to fetch a token ends by itself in {FETCH_SECONDS} s: {error}");
        }
    }
}
