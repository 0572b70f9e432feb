//! Steps of builds that have been carried out before, by what they were carried out on.
//!
//! Every team has its own: what one has built is no other's business.

use soulbox_types::{BuildContext, LayerDigest, TeamId, Timestamp};

use crate::database::{DbRow, column, json, to_json};
use crate::error::During;
use crate::{Store, StoreError};

const TABLE: &str = "layer_cache";

/// What a step has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedStep {
    /// The files it has changed; absent when there are none.
    pub layer: Option<LayerDigest>,
    /// As whom, where and with what the next step goes on.
    pub context: BuildContext,
    /// Content of the layer in bytes.
    pub size_bytes: i64,
}

impl Store {
    /// What a step with this key has done before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn cached_step(
        &self,
        team: &TeamId,
        key: &str,
    ) -> Result<Option<CachedStep>, StoreError> {
        let row = sqlx::query("SELECT * FROM layer_cache WHERE team_id = $1 AND key = $2")
            .bind(team.as_str())
            .bind(key)
            .fetch_optional(self.reader())
            .await
            .during("look up a cached step")?;
        row.as_ref().map(step_of).transpose()
    }

    /// Notes what a step has done, in place of what was known.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_cached_step(
        &self,
        team: &TeamId,
        key: &str,
        step: &CachedStep,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO layer_cache (team_id, key, layer, context, size_bytes, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (team_id, key) DO UPDATE SET layer = excluded.layer, \
             context = excluded.context, size_bytes = excluded.size_bytes, created_at = excluded.created_at",
        )
        .bind(team.as_str())
        .bind(key)
        .bind(step.layer.map(|layer| layer.to_string()))
        .bind(to_json(&step.context))
        .bind(step.size_bytes)
        .bind(Timestamp::now().0)
        .execute(self.writer())
        .await
        .during("note a cached step")
        .map(drop)
    }
}

fn step_of(row: &DbRow) -> Result<CachedStep, StoreError> {
    Ok(CachedStep {
        layer: layer_of(row)?,
        context: json(row, TABLE, "context")?,
        size_bytes: column(row, TABLE, "size_bytes")?,
    })
}

fn layer_of(row: &DbRow) -> Result<Option<LayerDigest>, StoreError> {
    column::<Option<&str>>(row, TABLE, "layer")?
        .map(str::parse)
        .transpose()
        .map_err(|_| StoreError::Damaged {
            table: TABLE,
            column: "layer",
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::database::tests::temp_store;
    use crate::teams::tests::add_team;

    #[tokio::test]
    async fn steps_belong_to_their_team() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let other = add_team(&store, "other").await;
        let step = CachedStep {
            layer: Some(LayerDigest::from_bytes([7; 32])),
            context: BuildContext {
                user: "root".into(),
                workdir: Some("/".into()),
                env: BTreeMap::from([("A".into(), "1".into())]),
            },
            size_bytes: 12,
        };
        store.put_cached_step(&team.id, "k", &step).await.unwrap();
        assert_eq!(
            store.cached_step(&team.id, "k").await.unwrap(),
            Some(step.clone())
        );
        assert_eq!(store.cached_step(&team.id, "l").await.unwrap(), None);
        assert_eq!(store.cached_step(&other.id, "k").await.unwrap(), None);

        let empty = CachedStep {
            layer: None,
            size_bytes: 0,
            ..step
        };
        store.put_cached_step(&team.id, "k", &empty).await.unwrap();
        assert_eq!(store.cached_step(&team.id, "k").await.unwrap(), Some(empty));
    }
}
