//! Layers that nothing needs any more.
//!
//! A layer is needed by builds of templates that are there, by sandboxes, and by cached steps that are not too old.

use std::collections::HashSet;

use soulbox_types::{BuildId, LayerDigest, MemoryId, SandboxSpec, Timestamp};

use crate::database::{DbRow, json, parsed};
use crate::error::During;
use crate::{Store, StoreError};

/// How long after it was made a layer of a pause is in a record, or never.
const SETTLED_MICROSECONDS: i64 = 3600 * 1_000_000;

/// What is needed no more, and who said until now that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unneeded {
    /// The layers.
    pub layers: Vec<LayerDigest>,
    builds: Vec<BuildId>,
    saved: Vec<LayerDigest>,
    cached_before: Timestamp,
}

impl Store {
    /// Every layer that a build of a template which is still there, a step that was cached at this moment or later, or a
    /// sandbox needs.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn layers_in_use(
        &self,
        cached_since: Timestamp,
    ) -> Result<HashSet<LayerDigest>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.layers FROM builds b JOIN templates t ON t.id = b.template_id \
             WHERE (b.status <> 'error' AND t.deleted_at IS NULL) \
             OR b.id IN (SELECT s.build_id FROM sandboxes s)",
        )
        .fetch_all(self.reader())
        .await
        .during("read layers")?;
        let mut layers = HashSet::new();
        for row in &rows {
            layers.extend(layers_of(row)?);
        }
        let rows = sqlx::query(
            "SELECT layer FROM layer_cache WHERE layer IS NOT NULL AND created_at >= $1",
        )
        .bind(cached_since.0)
        .fetch_all(self.reader())
        .await
        .during("read cached steps")?;
        for row in &rows {
            layers.insert(parsed(row, "layer_cache", "layer")?);
        }
        let rows = sqlx::query("SELECT spec FROM sandboxes WHERE state = 'paused'")
            .fetch_all(self.reader())
            .await
            .during("read paused sandboxes")?;
        for row in &rows {
            let spec: SandboxSpec = json(row, "sandboxes", "spec")?;
            layers.extend(spec.image.layers);
        }
        Ok(layers)
    }

    /// What can be removed when steps that were cached before this moment count no more. No build may be in progress.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unneeded_layers(&self, cached_before: Timestamp) -> Result<Unneeded, StoreError> {
        // What is removed because of a row that was deleted must not be wanted by that row after a loss of power.
        self.checkpoint().await?;
        let needed = self.layers_in_use(cached_before).await?;
        let gone = sqlx::query(
            "SELECT b.id, b.layers FROM builds b JOIN templates t ON t.id = b.template_id \
             WHERE t.deleted_at IS NOT NULL AND b.layers <> '[]' \
             AND b.id NOT IN (SELECT s.build_id FROM sandboxes s)",
        )
        .fetch_all(self.reader())
        .await
        .during("read layers")?;
        let (mut found, mut builds) = (HashSet::new(), Vec::new());
        for row in &gone {
            found.extend(layers_of(row)?);
            builds.push(parsed(row, "builds", "id")?);
        }
        let old = sqlx::query(
            "SELECT layer FROM layer_cache WHERE layer IS NOT NULL AND created_at < $1",
        )
        .bind(cached_before.0)
        .fetch_all(self.reader())
        .await
        .during("read cached steps")?;
        for row in &old {
            found.insert(parsed(row, "layer_cache", "layer")?);
        }
        // What was made a moment ago may be on its way into a record.
        let settled = Timestamp::now().0.saturating_sub(SETTLED_MICROSECONDS);
        let rows = sqlx::query("SELECT digest FROM saved_layers WHERE created_at < $1")
            .bind(settled)
            .fetch_all(self.reader())
            .await
            .during("read saved layers")?;
        let mut saved = Vec::new();
        for row in &rows {
            let layer = parsed(row, "saved_layers", "digest")?;
            if !needed.contains(&layer) {
                saved.push(layer);
            }
        }
        found.extend(&saved);
        Ok(Unneeded {
            saved,
            layers: found.difference(&needed).copied().collect(),
            builds,
            cached_before,
        })
    }

    /// Memory that a paused sandbox or a snapshot needs, or that was made a moment ago.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn memory_in_use(&self) -> Result<HashSet<MemoryId>, StoreError> {
        let settled = Timestamp::now().0.saturating_sub(SETTLED_MICROSECONDS);
        let rows = sqlx::query(
            "SELECT memory AS id FROM sandboxes WHERE memory IS NOT NULL \
             UNION SELECT b.memory FROM builds b JOIN templates t ON t.id = b.template_id \
             WHERE b.memory IS NOT NULL AND t.deleted_at IS NULL \
             UNION SELECT id FROM young_memory WHERE created_at >= $1",
        )
        .bind(settled)
        .fetch_all(self.reader())
        .await
        .during("read memory in use")?;
        let ids = rows.iter().map(|row| parsed(row, "young_memory", "id"));
        ids.collect()
    }

    /// Forgets what has been removed, where `removed` are the layers that are gone: others had a sandbox on them. Until
    /// then the next look finds it again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_unneeded(
        &self,
        unneeded: &Unneeded,
        removed: &[LayerDigest],
    ) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        for layer in unneeded
            .saved
            .iter()
            .filter(|layer| removed.contains(layer))
        {
            sqlx::query("DELETE FROM saved_layers WHERE digest = $1")
                .bind(layer.to_string())
                .execute(&mut *transaction)
                .await
                .during("forget saved layers")?;
        }
        for build in &unneeded.builds {
            sqlx::query("UPDATE builds SET layers = '[]' WHERE id = $1")
                .bind(build.as_str())
                .execute(&mut *transaction)
                .await
                .during("forget layers")?;
        }
        sqlx::query("DELETE FROM young_memory WHERE created_at < $1")
            .bind(Timestamp::now().0.saturating_sub(SETTLED_MICROSECONDS))
            .execute(&mut *transaction)
            .await
            .during("forget memory")?;
        sqlx::query("DELETE FROM layer_cache WHERE created_at < $1")
            .bind(unneeded.cached_before.0)
            .execute(&mut *transaction)
            .await
            .during("forget cached steps")?;
        transaction.commit().await.during("forget layers")
    }
}

fn layers_of(row: &DbRow) -> Result<Vec<LayerDigest>, StoreError> {
    json(row, "builds", "layers")
}

#[cfg(test)]
mod tests {
    use soulbox_types::BuildContext;

    use super::*;
    use crate::CachedStep;
    use crate::database::tests::temp_store;

    #[tokio::test]
    async fn old_steps_are_let_go_and_new_ones_kept() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap().id;
        let layer = LayerDigest::from_bytes([3; 32]);
        let step = CachedStep {
            layer: Some(layer),
            context: BuildContext::default(),
            size_bytes: 1,
        };
        store.put_cached_step(&team, "k", &step).await.unwrap();
        let before = Timestamp(Timestamp::now().0 - 1_000_000);
        let unneeded = store.unneeded_layers(before).await.unwrap();
        assert!(unneeded.layers.is_empty());
        store
            .forget_unneeded(&unneeded, &unneeded.layers)
            .await
            .unwrap();
        assert!(store.cached_step(&team, "k").await.unwrap().is_some());

        let after = Timestamp(Timestamp::now().0 + 1_000_000);
        let unneeded = store.unneeded_layers(after).await.unwrap();
        assert_eq!(unneeded.layers, [layer]);
        // Until it is forgotten it is found again: a removal that was cut short is done again.
        assert_eq!(store.unneeded_layers(after).await.unwrap(), unneeded);
        store
            .forget_unneeded(&unneeded, &unneeded.layers)
            .await
            .unwrap();
        assert_eq!(store.cached_step(&team, "k").await.unwrap(), None);
    }
}
