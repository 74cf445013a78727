//! The account's token, shared by its processes: sealed, so that the database alone does not give it away.

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use postgres::types::{ToSql, Type};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, pbkdf2};

use super::{Client, Store, StoreError};
use crate::http::Secret;
use crate::http::token::{Grant, Kept, Turn};

/// PBKDF2's rounds: what a guess at the password costs somebody who has the database. About 30 ms of one core.
const ROUNDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(99_999);
/// A process that fetches a token is given this long before another may.
pub(crate) const FETCH_SECONDS: f64 = 30.0;
const TURN: &str = include_str!("../../sql/token_turn.sql");
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
    let asked: [(&(dyn ToSql + Sync), Type); 4] = [
        (&account, Type::TEXT),
        (&refused, Type::INT8),
        (&myself, Type::INT8),
        (&FETCH_SECONDS, Type::FLOAT8),
    ];
    let row = match client.query_typed_opt(TURN, &asked)? {
        Some(row) => row,
        None => {
            // The account's first token ever: its row is not there yet.
            client.execute_typed(
                "INSERT INTO campaign_sync.access_tokens (account) VALUES ($1) ON CONFLICT (account) DO NOTHING",
                &asked[..1],
            )?;
            client.query_typed_one(TURN, &asked)?
        }
    };
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

/// A token that is newer than generation `refused`, or the turn of worker `myself` to fetch it; and the newest generation.
///
/// # Errors
/// The database's.
pub fn turn(store: &Store, sealing: &Sealing, refused: u64, myself: i64) -> Result<(Turn, u64), StoreError> {
    // Opened when the connection is given back: the key may have to be derived.
    let row = store.run(|client, account| ask(client, account, refused, myself))?;
    let generation = row.generation;
    Ok((row.turn(sealing), generation))
}

/// Keeps a token that was fetched, and ends the turn; gives its generation.
///
/// # Errors
/// The database's.
pub fn keep(store: &Store, sealing: &Sealing, grant: &Grant) -> Result<u64, StoreError> {
    let (sealed, lifetime) = (sealing.seal(&grant.access_token), lifetime(grant));
    let row = store.run(|client, account| {
        client.query_typed_one(
            "INSERT INTO campaign_sync.access_tokens AS t (account, generation, sealed, expires_at)
             VALUES ($1, 1, $2, now() + make_interval(secs => $3))
             ON CONFLICT (account) DO UPDATE
             SET generation = t.generation + 1, sealed = excluded.sealed, expires_at = excluded.expires_at,
                 refresher = 0, refresh_until = '-infinity'
             RETURNING generation",
            &[(&account, Type::TEXT), (&sealed, Type::BYTEA), (&lifetime, Type::FLOAT8)],
        )
    })?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
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
