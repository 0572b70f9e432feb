//! For how long a team's paused sandboxes and snapshots are kept when nobody deletes them.

use soulbox_types::{SandboxId, TeamId, TemplateId, Timestamp};

use crate::database::{column, parsed};
use crate::error::During;
use crate::{Store, StoreError};

/// Microseconds of a day.
const DAY: i64 = 24 * 3600 * 1_000_000;
/// What one look finds at most; the next finds the rest.
const AT_ONCE: i64 = 1000;

/// Days after which a team's state is let go. Absent: it is kept until somebody deletes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keeping {
    /// After the pause of a sandbox.
    pub paused_days: Option<u32>,
    /// After the last snapshot under the same id was taken.
    pub snapshot_days: Option<u32>,
}

/// A paused sandbox that has been kept long enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Its owner.
    pub team: TeamId,
    /// When it was paused.
    pub paused_at: Timestamp,
}

impl Store {
    /// For how long a team's state is kept; `None` when there is no such team.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keeping(&self, team: &TeamId) -> Result<Option<Keeping>, StoreError> {
        let row =
            sqlx::query("SELECT keep_paused_days, keep_snapshot_days FROM teams WHERE id = $1")
                .bind(team.as_str())
                .fetch_optional(self.reader())
                .await
                .during("read how long state is kept")?;
        let Some(row) = row else { return Ok(None) };
        let days = |name| -> Result<Option<u32>, StoreError> {
            let days: Option<i64> = column(&row, "teams", name)?;
            Ok(days.and_then(|days| u32::try_from(days).ok()))
        };
        Ok(Some(Keeping {
            paused_days: days("keep_paused_days")?,
            snapshot_days: days("keep_snapshot_days")?,
        }))
    }

    /// Sets it; false when there is no such team.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_keeping(&self, team: &TeamId, keeping: Keeping) -> Result<bool, StoreError> {
        let update = sqlx::query(
            "UPDATE teams SET keep_paused_days = $2, keep_snapshot_days = $3 WHERE id = $1",
        )
        .bind(team.as_str())
        .bind(keeping.paused_days.map(i64::from))
        .bind(keeping.snapshot_days.map(i64::from));
        let done = (self.execute(update, "set how long state is kept")).await?;
        Ok(done.rows_affected() > 0)
    }

    /// Paused sandboxes that have been kept as long as their teams want, at this time.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn overdue_paused(&self, now: Timestamp) -> Result<Vec<Overdue>, StoreError> {
        let rows = sqlx::query(
            "SELECT s.id, s.team_id, s.end_at FROM sandboxes s JOIN teams t ON t.id = s.team_id \
             WHERE s.state = 'paused' AND t.keep_paused_days IS NOT NULL AND s.end_at < $1 - t.keep_paused_days * $2 \
             LIMIT $3",
        )
        .bind(now.0)
        .bind(DAY)
        .bind(AT_ONCE)
        .fetch_all(self.reader())
        .await
        .during("look for paused sandboxes that are kept no longer")?;
        rows.iter()
            .map(|row| {
                Ok(Overdue {
                    sandbox: parsed(row, "sandboxes", "id")?,
                    team: parsed(row, "sandboxes", "team_id")?,
                    paused_at: Timestamp(column(row, "sandboxes", "end_at")?),
                })
            })
            .collect()
    }

    /// Snapshots that have been kept as long as their teams want, at this time; sandboxes may still use them. What was
    /// added to a template that is built is part of it and is not among them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn overdue_snapshots(&self, now: Timestamp) -> Result<Vec<TemplateId>, StoreError> {
        let rows = sqlx::query(
            "SELECT p.id FROM templates p JOIN teams t ON t.id = p.team_id \
             WHERE p.is_snapshot AND p.deleted_at IS NULL AND t.keep_snapshot_days IS NOT NULL \
             AND (SELECT MAX(b.created_at) FROM builds b WHERE b.template_id = p.id) < $1 - t.keep_snapshot_days * $2 \
             AND NOT EXISTS (SELECT 1 FROM sandboxes s WHERE s.template_id = p.id) LIMIT $3",
        )
        .bind(now.0)
        .bind(DAY)
        .bind(AT_ONCE)
        .fetch_all(self.reader())
        .await
        .during("look for snapshots that are kept no longer")?;
        rows.iter()
            .map(|row| parsed(row, "templates", "id"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::tests::temp_store;
    use crate::sandboxes::tests::record;
    use crate::snapshots::tests::saved;
    use crate::teams::tests::add_team;

    const NOBODY: Keeping = Keeping {
        paused_days: None,
        snapshot_days: None,
    };

    #[tokio::test]
    async fn a_team_says_for_how_long() {
        let store = temp_store().await;
        let (team, other) = (
            store.default_team().await.unwrap(),
            add_team(&store, "other").await,
        );
        assert_eq!(store.keeping(&team.id).await.unwrap(), Some(NOBODY));
        assert_eq!(store.keeping(&TeamId::random()).await.unwrap(), None);
        let two = Keeping {
            paused_days: Some(2),
            snapshot_days: Some(3),
        };
        assert!(store.set_keeping(&team.id, two).await.unwrap());
        assert!(!store.set_keeping(&TeamId::random(), two).await.unwrap());
        assert_eq!(store.keeping(&team.id).await.unwrap(), Some(two));
        assert_eq!(store.keeping(&other.id).await.unwrap(), Some(NOBODY));
    }

    #[tokio::test]
    async fn only_what_is_old_and_unused_is_overdue() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let other = add_team(&store, "other").await;
        let now = Timestamp::now();
        let ago = |days: i64| now.0 - days * DAY - 400_000_000;
        for (owner, days) in [(&team, 1), (&team, 3), (&other, 3)] {
            store
                .insert_sandbox(&record(&owner.id, ago(days), None))
                .await
                .unwrap();
        }
        sqlx::query("UPDATE sandboxes SET state = 'paused'")
            .execute(store.writer())
            .await
            .unwrap();
        let one = Some(2);
        let keeping = Keeping {
            paused_days: one,
            snapshot_days: one,
        };
        assert_eq!(store.overdue_paused(now).await.unwrap(), []);
        store.set_keeping(&team.id, keeping).await.unwrap();
        let overdue = store.overdue_paused(now).await.unwrap();
        assert_eq!(overdue.len(), 1);
        assert_eq!(overdue[0].team, team.id);

        let from = SandboxId::random();
        let taken = store.add_snapshot(&team, &saved(None, &from, 1)).await;
        let taken = taken.unwrap();
        assert_eq!(store.overdue_snapshots(now).await.unwrap(), []);
        let later = Timestamp(now.0 + 3 * DAY);
        let found = store.overdue_snapshots(later).await.unwrap();
        assert_eq!(found, std::slice::from_ref(&taken.template));
        let mut user = record(&other.id, now.0, None);
        user.template_id = taken.template;
        store.insert_sandbox(&user).await.unwrap();
        assert_eq!(store.overdue_snapshots(later).await.unwrap(), []);
    }
}
