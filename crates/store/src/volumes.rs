//! Volumes: whose they are, what they are called, how much they hold. Their files are the driver's.

use soulbox_types::{TeamId, Timestamp, VolumeId};

use crate::database::{DbRow, column, is_taken, parsed, time, unsigned};
use crate::error::During;
use crate::{Store, StoreError};

const TABLE: &str = "volumes";

/// A volume's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// Its owner.
    pub team: TeamId,
    /// Its name, unique in the team.
    pub name: String,
    /// Most that it holds.
    pub size_mib: u32,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Store {
    /// Notes a volume that is to be made; false when the team has one of this name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_volume(&self, volume: &Volume) -> Result<bool, StoreError> {
        let insert = sqlx::query(
            "INSERT INTO volumes (id, team_id, name, size_mib, state, created_at) \
             VALUES ($1, $2, $3, $4, 'making', $5)",
        )
        .bind(volume.id.as_str())
        .bind(volume.team.as_str())
        .bind(&volume.name)
        .bind(i64::from(volume.size_mib))
        .bind(volume.created_at.0);
        match self.execute(insert, "add a volume").await {
            Err(StoreError::Query { source, .. }) if is_taken(&source) => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// Its files are there: from now on its team sees it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn finish_volume(&self, id: &VolumeId) -> Result<(), StoreError> {
        let update =
            sqlx::query("UPDATE volumes SET state = 'ready' WHERE id = $1 AND state = 'making'")
                .bind(id.as_str());
        self.execute(update, "finish a volume").await.map(drop)
    }

    /// The team's volumes, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_volumes(&self, team: &TeamId) -> Result<Vec<Volume>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM volumes WHERE team_id = $1 AND state = 'ready' ORDER BY name",
        )
        .bind(team.as_str())
        .fetch_all(self.reader())
        .await
        .during("list volumes")?;
        rows.iter().map(volume_of).collect()
    }

    /// The team's volume with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_volume(
        &self,
        team: &TeamId,
        id: &VolumeId,
    ) -> Result<Option<Volume>, StoreError> {
        let row =
            sqlx::query("SELECT * FROM volumes WHERE id = $1 AND team_id = $2 AND state = 'ready'")
                .bind(id.as_str())
                .bind(team.as_str())
                .fetch_optional(self.reader())
                .await
                .during("read a volume")?;
        row.as_ref().map(volume_of).transpose()
    }

    /// Takes a volume out of its team's sight, and frees its name; false when the team has none with this id. Its files
    /// are to be removed now, and then [`Store::forget_volume`] is to be called.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_volume(&self, team: &TeamId, id: &VolumeId) -> Result<bool, StoreError> {
        let update = sqlx::query(
            "UPDATE volumes SET state = 'removed' WHERE id = $1 AND team_id = $2 AND state = 'ready'",
        )
        .bind(id.as_str())
        .bind(team.as_str());
        let done = self.execute(update, "remove a volume").await?;
        Ok(done.rows_affected() > 0)
    }

    /// Forgets a volume that is not ready. It has no files any more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_volume(&self, id: &VolumeId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM volumes WHERE id = $1 AND state <> 'ready'")
            .bind(id.as_str())
            .execute(self.writer())
            .await
            .during("forget a volume")
            .map(drop)
    }

    /// Volumes that an earlier server was making or removing.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unfinished_volumes(&self) -> Result<Vec<VolumeId>, StoreError> {
        let rows = sqlx::query("SELECT id FROM volumes WHERE state <> 'ready'")
            .fetch_all(self.reader())
            .await
            .during("list unfinished volumes")?;
        rows.iter().map(|row| parsed(row, TABLE, "id")).collect()
    }
}

fn volume_of(row: &DbRow) -> Result<Volume, StoreError> {
    Ok(Volume {
        id: parsed(row, TABLE, "id")?,
        team: parsed(row, TABLE, "team_id")?,
        name: column::<String>(row, TABLE, "name")?,
        size_mib: unsigned(row, TABLE, "size_mib")?,
        created_at: time(row, TABLE, "created_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::tests::{reopen, temp_store};

    #[tokio::test]
    async fn names_are_the_teams_own_and_rows_stay() {
        let temp = temp_store().await;
        let team = temp.default_team().await.unwrap().id;
        let volume = |name: &str| Volume {
            id: VolumeId::random(),
            team: team.clone(),
            name: name.to_owned(),
            size_mib: 64,
            created_at: Timestamp(7),
        };
        let (b, a) = (volume("b"), volume("a"));
        for one in [&b, &a] {
            assert!(temp.begin_volume(one).await.unwrap());
            assert!(!temp.begin_volume(&volume(&one.name)).await.unwrap());
            assert_eq!(temp.get_volume(&team, &one.id).await.unwrap(), None);
            temp.finish_volume(&one.id).await.unwrap();
        }
        let store = reopen(&temp).await;
        let listed = store.list_volumes(&team).await.unwrap();
        assert_eq!(listed, [a.clone(), b.clone()]);
        assert_eq!(
            store.get_volume(&team, &a.id).await.unwrap(),
            Some(a.clone())
        );
        let other = TeamId::random();
        assert_eq!(store.get_volume(&other, &a.id).await.unwrap(), None);
        assert!(!store.remove_volume(&other, &a.id).await.unwrap());
        assert!(store.remove_volume(&team, &a.id).await.unwrap());
        assert!(!store.remove_volume(&team, &a.id).await.unwrap());
        let left = store.list_volumes(&team).await.unwrap();
        assert_eq!(left, std::slice::from_ref(&b));
        // The name is free although the files may still be there.
        let second = volume("a");
        assert!(store.begin_volume(&second).await.unwrap());
        let mut unfinished = [a.id.clone(), second.id.clone()];
        unfinished.sort();
        let mut listed = store.unfinished_volumes().await.unwrap();
        listed.sort();
        assert_eq!(listed, unfinished);
        for id in [&a.id, &second.id, &b.id] {
            store.forget_volume(id).await.unwrap();
        }
        assert!(store.unfinished_volumes().await.unwrap().is_empty());
        assert_eq!(store.list_volumes(&team).await.unwrap(), [b]);
    }
}
