//! API keys: made, listed, checked, revoked. Only a hash of a key is kept.
//!
//! Who a key belongs to is asked with every request, so the answers are kept in memory. A key that is renamed or revoked
//! empties that memory at once, and an answer that was read before that moment is not put into it after.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use data_encoding::{BASE64_NOPAD, HEXLOWER};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use soulbox_types::{ApiKeyId, TeamId, Timestamp};
use sqlx::Transaction;

use crate::database::{Db, DbRow, column, is_taken, maybe_time, parsed, time, unsigned};
use crate::error::During;
use crate::teams::team_of;
use crate::{Store, StoreError, Team};

/// What every key begins with.
pub const KEY_PREFIX: &str = "e2b_";
/// Random bytes in a key.
const KEY_BYTES: usize = 20;
/// Characters after the prefix.
const VALUE_LENGTH: usize = KEY_BYTES * 2;
/// Marks how the rest of a stored hash was made.
const HASH_PREFIX: &str = "$sha256$";
/// A key's time of last use is noted at most this often: clients may wait ten seconds to see it.
const USE_STEP_MICROS: i64 = 5_000_000;

/// A key's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id, which is no secret.
    pub id: ApiKeyId,
    /// Whom it authenticates.
    pub team: TeamId,
    /// What its owner calls it.
    pub name: String,
    /// What may be shown of it.
    pub mask: KeyMask,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last authenticated a request.
    pub last_used: Option<Timestamp>,
}

/// What may be shown of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMask {
    /// `e2b_`.
    pub prefix: String,
    /// Characters after the prefix.
    pub value_length: u32,
    /// The first characters after the prefix.
    pub masked_value_prefix: String,
    /// The last characters.
    pub masked_value_suffix: String,
}

/// Whether a text has the form of a key: `e2b_` and 40 lower-case hexadecimal digits. Clients check the same.
#[must_use]
pub fn is_well_formed(raw: &str) -> bool {
    value_bytes(raw).is_some()
}

fn value_bytes(raw: &str) -> Option<Vec<u8>> {
    let value = raw
        .strip_prefix(KEY_PREFIX)
        .filter(|value| value.len() == VALUE_LENGTH)?;
    HEXLOWER.decode(value.as_bytes()).ok()
}

/// The hash of a key as it is stored; none for a text that is no key.
fn stored_hash(raw: &str) -> Option<String> {
    let hash = Sha256::digest(value_bytes(raw)?);
    Some(format!("{HASH_PREFIX}{}", BASE64_NOPAD.encode(&hash)))
}

fn random_key() -> String {
    let mut bytes = [0u8; KEY_BYTES];
    getrandom::fill(&mut bytes).expect("the operating system provides randomness");
    format!("{KEY_PREFIX}{}", HEXLOWER.encode(&bytes))
}

fn mask_of(raw: &str) -> KeyMask {
    let value = raw.strip_prefix(KEY_PREFIX).unwrap_or_default();
    KeyMask {
        prefix: KEY_PREFIX.into(),
        value_length: u32::try_from(value.len()).unwrap_or(u32::MAX),
        masked_value_prefix: value.chars().take(2).collect(),
        masked_value_suffix: value
            .get(value.len().saturating_sub(4)..)
            .unwrap_or_default()
            .into(),
    }
}

impl Store {
    /// Makes a key; the text is shown this once and never again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_api_key(
        &self,
        team: &TeamId,
        name: &str,
    ) -> Result<(ApiKey, String), StoreError> {
        let raw = random_key();
        let key = self.add_key(team, name, &raw).await?;
        Ok((key, raw))
    }

    /// Registers a key whose text somebody already has; a key that is known stays as it is.
    /// None when the text is no key, or the key belongs to another team.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn import_api_key(
        &self,
        team: &TeamId,
        name: &str,
        raw: &str,
    ) -> Result<Option<ApiKey>, StoreError> {
        let Some(hash) = stored_hash(raw) else {
            return Ok(None);
        };
        match self.add_key(team, name, raw).await {
            Ok(key) => return Ok(Some(key)),
            Err(StoreError::Query { source, .. }) if is_taken(&source) => {}
            Err(error) => return Err(error),
        }
        let row = sqlx::query("SELECT * FROM api_keys WHERE hash = $1 AND team_id = $2")
            .bind(hash)
            .bind(team.as_str())
            .fetch_optional(self.reader())
            .await
            .during("read an API key")?;
        row.as_ref().map(key_of).transpose()
    }

    async fn add_key(&self, team: &TeamId, name: &str, raw: &str) -> Result<ApiKey, StoreError> {
        let key = ApiKey {
            id: ApiKeyId::random(),
            team: team.clone(),
            name: name.to_owned(),
            mask: mask_of(raw),
            created_at: Timestamp::now(),
            last_used: None,
        };
        let insert = sqlx::query(
            "INSERT INTO api_keys (id, team_id, name, hash, prefix, value_length, masked_value_prefix, \
             masked_value_suffix, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(key.id.as_str())
        .bind(key.team.as_str())
        .bind(&key.name)
        .bind(stored_hash(raw).unwrap_or_default())
        .bind(&key.mask.prefix)
        .bind(i64::from(key.mask.value_length))
        .bind(&key.mask.masked_value_prefix)
        .bind(&key.mask.masked_value_suffix)
        .bind(key.created_at.0);
        self.execute(insert, "add an API key").await?;
        Ok(key)
    }

    /// The team's keys, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_api_keys(&self, team: &TeamId) -> Result<Vec<ApiKey>, StoreError> {
        self.settle().await?;
        let rows = sqlx::query("SELECT * FROM api_keys WHERE team_id = $1 ORDER BY created_at, id")
            .bind(team.as_str())
            .fetch_all(self.reader())
            .await
            .during("list API keys")?;
        rows.iter().map(key_of).collect()
    }

    /// Gives a key another name; false when the team has no such key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rename_api_key(
        &self,
        team: &TeamId,
        id: &ApiKeyId,
        name: &str,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE api_keys SET name = $3 WHERE team_id = $1 AND id = $2")
            .bind(team.as_str())
            .bind(id.as_str())
            .bind(name)
            .execute(self.writer())
            .await
            .during("rename an API key")?;
        self.keys().forget();
        Ok(done.rows_affected() > 0)
    }

    /// Revokes a key at once; false when the team has no such key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_api_key(&self, team: &TeamId, id: &ApiKeyId) -> Result<bool, StoreError> {
        let delete = sqlx::query("DELETE FROM api_keys WHERE team_id = $1 AND id = $2")
            .bind(team.as_str())
            .bind(id.as_str());
        let done = self.execute(delete, "delete an API key").await?;
        self.keys().forget();
        Ok(done.rows_affected() > 0)
    }

    /// Whose key this is; none for a text that is no key or a key that is not known.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn authenticate(&self, raw: &str) -> Result<Option<Team>, StoreError> {
        let Some(hash) = stored_hash(raw) else {
            return Ok(None);
        };
        let known = match self.keys().get(&hash) {
            Some(known) => known,
            None => match self.look_up_key(hash).await? {
                Some(known) => known,
                None => return Ok(None),
            },
        };
        if let Some(at) = known.note_use(Timestamp::now()) {
            self.defer_key_use(&known.id, at);
        }
        Ok(Some(known.team.clone()))
    }

    async fn look_up_key(&self, hash: String) -> Result<Option<Arc<KnownKey>>, StoreError> {
        let generation = self.keys().generation();
        let row = sqlx::query(
            "SELECT k.id AS key_id, t.id, t.name, t.slug, t.created_at \
             FROM api_keys k JOIN teams t ON t.id = k.team_id WHERE k.hash = $1",
        )
        .bind(&hash)
        .fetch_optional(self.reader())
        .await
        .during("look up an API key")?;
        let Some(row) = row else { return Ok(None) };
        let known = Arc::new(KnownKey {
            id: parsed(&row, "api_keys", "key_id")?,
            team: team_of(&row)?,
            last_noted: AtomicI64::new(0),
        });
        self.keys().remember(hash, known.clone(), generation);
        Ok(Some(known))
    }
}

fn key_of(row: &DbRow) -> Result<ApiKey, StoreError> {
    const TABLE: &str = "api_keys";
    Ok(ApiKey {
        id: parsed(row, TABLE, "id")?,
        team: parsed(row, TABLE, "team_id")?,
        name: column(row, TABLE, "name")?,
        mask: KeyMask {
            prefix: column(row, TABLE, "prefix")?,
            value_length: unsigned(row, TABLE, "value_length")?,
            masked_value_prefix: column(row, TABLE, "masked_value_prefix")?,
            masked_value_suffix: column(row, TABLE, "masked_value_suffix")?,
        },
        created_at: time(row, TABLE, "created_at")?,
        last_used: maybe_time(row, TABLE, "last_used")?,
    })
}

/// Writes the deferred times of last use.
pub(crate) async fn set_last_used(
    transaction: &mut Transaction<'static, Db>,
    uses: &HashMap<ApiKeyId, Timestamp>,
) -> Result<(), StoreError> {
    for (id, at) in uses {
        sqlx::query("UPDATE api_keys SET last_used = $2 WHERE id = $1")
            .bind(id.as_str())
            .bind(at.0)
            .execute(&mut **transaction)
            .await
            .during("note the use of an API key")?;
    }
    Ok(())
}

/// A key that has been looked up.
#[derive(Debug)]
pub(crate) struct KnownKey {
    id: ApiKeyId,
    team: Team,
    last_noted: AtomicI64,
}

impl KnownKey {
    /// The time to write down, when it is time to write one down.
    fn note_use(&self, now: Timestamp) -> Option<Timestamp> {
        let last = self.last_noted.load(Ordering::Relaxed);
        // Also when the clock has gone back.
        let due = !(last..last.saturating_add(USE_STEP_MICROS)).contains(&now.0);
        let ours = due
            && self
                .last_noted
                .compare_exchange(last, now.0, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        ours.then_some(now)
    }
}

/// The keys that have been looked up, by stored hash.
#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    state: RwLock<KeyCacheState>,
}

#[derive(Debug, Default)]
struct KeyCacheState {
    known: HashMap<String, Arc<KnownKey>>,
    /// Grows with each change to the keys: an older answer may be wrong.
    generation: u64,
}

impl KeyCache {
    fn get(&self, hash: &str) -> Option<Arc<KnownKey>> {
        self.state.read().known.get(hash).cloned()
    }

    fn generation(&self) -> u64 {
        self.state.read().generation
    }

    /// Keeps an answer that was asked for in `generation`, unless keys have changed since.
    fn remember(&self, hash: String, key: Arc<KnownKey>, generation: u64) {
        let mut state = self.state.write();
        if state.generation == generation {
            state.known.insert(hash, key);
        }
    }

    fn forget(&self) {
        let mut state = self.state.write();
        state.known.clear();
        state.generation += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::tests::temp_store;
    use crate::teams::tests::add_team;

    #[test]
    fn forms() {
        let check = |raw: &str, want: bool| assert_eq!(is_well_formed(raw), want, "{raw}");
        check(&random_key(), true);
        check("e2b_53ae1fed82754c17ad8077fbc8bcdd90aabbccdd", true);
        check("e2b_53AE1FED82754C17AD8077FBC8BCDD90AABBCCDD", false);
        check("e2b_53ae", false);
        check("sk_53ae1fed82754c17ad8077fbc8bcdd90aabbccdd", false);
        check("e2b_53ae1fed82754c17ad8077fbc8bcdd90aabbccdg", false);
        check("", false);
    }

    #[test]
    fn hash_is_of_the_bytes() {
        // printf '00%.0s' {1..20} | xxd -r -p | sha256sum | xxd -r -p | base64, without its padding
        let raw = format!("e2b_{}", "00".repeat(20));
        assert_eq!(
            stored_hash(&raw).unwrap(),
            "$sha256$3kfJsn640wDbtfLDU+Yyw5MmLPBjQMT6fxtAxMvTb5A"
        );
    }

    #[tokio::test]
    async fn life_of_a_key() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let other = add_team(&store, "other").await;
        let (key, raw) = store.create_api_key(&team.id, "first").await.unwrap();
        assert_eq!(key.mask.masked_value_prefix, raw[4..6]);
        assert_eq!(key.mask.masked_value_suffix, raw[40..]);
        assert_eq!(key.mask.value_length, 40);

        assert_eq!(store.authenticate(&raw).await.unwrap(), Some(team.clone()));
        let listed = store.list_api_keys(&team.id).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert!(listed[0].last_used.is_some());
        assert_eq!(store.list_api_keys(&other.id).await.unwrap(), []);

        assert!(!store.rename_api_key(&other.id, &key.id, "x").await.unwrap());
        assert!(
            store
                .rename_api_key(&team.id, &key.id, "second")
                .await
                .unwrap()
        );
        assert_eq!(
            store.list_api_keys(&team.id).await.unwrap()[0].name,
            "second"
        );

        assert!(!store.delete_api_key(&other.id, &key.id).await.unwrap());
        assert_eq!(store.authenticate(&raw).await.unwrap(), Some(team.clone()));
        assert!(store.delete_api_key(&team.id, &key.id).await.unwrap());
        assert_eq!(store.authenticate(&raw).await.unwrap(), None);
        assert!(!store.delete_api_key(&team.id, &key.id).await.unwrap());
        assert_eq!(store.authenticate("e2b_nonsense").await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_answer_from_before_a_revocation_is_not_kept() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let (key, raw) = store.create_api_key(&team.id, "k").await.unwrap();
        let hash = stored_hash(&raw).unwrap();
        let before = store.keys().generation();
        let known = store.look_up_key(hash.clone()).await.unwrap().unwrap();
        assert!(store.delete_api_key(&team.id, &key.id).await.unwrap());
        store.keys().remember(hash, known, before);
        assert_eq!(store.authenticate(&raw).await.unwrap(), None);
    }

    #[tokio::test]
    async fn importing_twice_is_once() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let other = add_team(&store, "other").await;
        let raw = random_key();
        let first = store
            .import_api_key(&team.id, "client.env", &raw)
            .await
            .unwrap()
            .unwrap();
        let second = store
            .import_api_key(&team.id, "again", &raw)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(first, second);
        assert_eq!(
            store.import_api_key(&other.id, "x", &raw).await.unwrap(),
            None
        );
        assert_eq!(
            store
                .import_api_key(&team.id, "x", "nonsense")
                .await
                .unwrap(),
            None
        );
        assert_eq!(store.authenticate(&raw).await.unwrap(), Some(team));
    }

    #[test]
    fn uses_are_noted_now_and_then() {
        let key = KnownKey {
            id: ApiKeyId::random(),
            team: Team {
                id: TeamId::random(),
                name: String::new(),
                slug: String::new(),
                created_at: Timestamp(0),
            },
            last_noted: AtomicI64::new(0),
        };
        let check = |now: i64, noted: bool| {
            assert_eq!(key.note_use(Timestamp(now)).is_some(), noted, "{now}");
        };
        check(10_000_000, true);
        check(10_000_001, false);
        check(14_999_999, false);
        check(15_000_000, true);
        check(3, true);
    }
}
