//! What builds say. Lines of a build are counted from 0 without gaps, so that who has read some asks for the rest.

use soulbox_types::{BuildId, Timestamp};
use sqlx::QueryBuilder;

use crate::database::{DbRow, column, signed, time};
use crate::error::During;
use crate::{Direction, LogLevel, Store, StoreError};

const TABLE: &str = "build_logs";
/// Lines in one statement: six values each, and SQLite takes 32,766.
const CHUNK: usize = 500;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildLogLine {
    /// When.
    pub at: Timestamp,
    /// How much it matters.
    pub level: LogLevel,
    /// Of which step: `base`, `finalize`, or a number counted from 1.
    pub step: Option<String>,
    /// The text.
    pub message: String,
}

/// Which lines of a build are wanted, by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildLogQuery {
    /// Of which build.
    pub build: BuildId,
    /// Then or later.
    pub start: Timestamp,
    /// Then or earlier.
    pub end: Timestamp,
    /// At most this many.
    pub limit: u32,
    /// In which order.
    pub direction: Direction,
    /// At least this level.
    pub min_level: LogLevel,
}

impl Store {
    /// Adds lines to a build's log, all or none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn append_build_log(
        &self,
        build: &BuildId,
        lines: &[BuildLogLine],
    ) -> Result<(), StoreError> {
        let mut transaction = self.write_quickly().await?;
        let mut position: i64 = sqlx::query_scalar(
            "SELECT COALESCE(MAX(position), -1) + 1 FROM build_logs WHERE build_id = $1",
        )
        .bind(build.as_str())
        .fetch_one(&mut *transaction)
        .await
        .during("read a build's log")?;
        for chunk in lines.chunks(CHUNK) {
            let mut query = QueryBuilder::new(
                "INSERT INTO build_logs (build_id, position, at, level, step, message) ",
            );
            query.push_values(chunk, |mut row, line| {
                row.push_bind(build.as_str())
                    .push_bind(position)
                    .push_bind(line.at.0)
                    .push_bind(line.level.rank())
                    .push_bind(&line.step)
                    .push_bind(&line.message);
                position += 1;
            });
            query
                .build()
                .persistent(false)
                .execute(&mut *transaction)
                .await
                .during("add to a build's log")?;
        }
        transaction.commit().await.during("add to a build's log")
    }

    /// A build's lines of at least this level, in order, without the first `offset` of them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn build_log(
        &self,
        build: &BuildId,
        offset: u64,
        limit: u32,
        min_level: Option<LogLevel>,
    ) -> Result<Vec<BuildLogLine>, StoreError> {
        let mut query = QueryBuilder::new("SELECT * FROM build_logs WHERE build_id = ");
        query.push_bind(build.as_str());
        match min_level.filter(|level| *level > LogLevel::Debug) {
            Some(level) => query
                .push(" AND level >= ")
                .push_bind(level.rank())
                .push(" ORDER BY position LIMIT ")
                .push_bind(i64::from(limit))
                .push(" OFFSET ")
                .push_bind(signed(offset)),
            // All of them: the count is the position.
            None => query
                .push(" AND position >= ")
                .push_bind(signed(offset))
                .push(" ORDER BY position LIMIT ")
                .push_bind(i64::from(limit)),
        };
        self.lines(query).await
    }

    /// A build's lines of a time.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn build_log_between(
        &self,
        wanted: &BuildLogQuery,
    ) -> Result<Vec<BuildLogLine>, StoreError> {
        let mut query = QueryBuilder::new("SELECT * FROM build_logs WHERE build_id = ");
        query
            .push_bind(wanted.build.as_str())
            .push(" AND at >= ")
            .push_bind(wanted.start.0)
            .push(" AND at <= ")
            .push_bind(wanted.end.0)
            .push(" AND level >= ")
            .push_bind(wanted.min_level.rank())
            .push(match wanted.direction {
                Direction::Forward => " ORDER BY at, position LIMIT ",
                Direction::Backward => " ORDER BY at DESC, position DESC LIMIT ",
            })
            .push_bind(i64::from(wanted.limit));
        self.lines(query).await
    }

    async fn lines(
        &self,
        mut query: QueryBuilder<crate::database::Db>,
    ) -> Result<Vec<BuildLogLine>, StoreError> {
        let rows = query
            .build()
            .fetch_all(self.reader())
            .await
            .during("read a build's log")?;
        rows.iter().map(line_of).collect()
    }
}

fn line_of(row: &DbRow) -> Result<BuildLogLine, StoreError> {
    Ok(BuildLogLine {
        at: time(row, TABLE, "at")?,
        level: LogLevel::of_rank(column(row, TABLE, "level")?),
        step: column(row, TABLE, "step")?,
        message: column(row, TABLE, "message")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BuildStatus;
    use crate::database::tests::temp_store;
    use crate::templates::tests::add_template;

    fn line(n: i64, level: LogLevel) -> BuildLogLine {
        BuildLogLine {
            at: Timestamp(n / 2),
            level,
            step: (n % 3 == 0).then(|| "base".into()),
            message: n.to_string(),
        }
    }

    fn numbers(lines: &[BuildLogLine]) -> Vec<i64> {
        lines
            .iter()
            .map(|line| line.message.parse().unwrap())
            .collect()
    }

    #[tokio::test]
    async fn offsets_are_stable() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let (_, build) = add_template(&store, &team, "t", BuildStatus::Building, 1).await;
        let (_, other) = add_template(&store, &team, "o", BuildStatus::Building, 1).await;
        let level = |n: i64| {
            if n % 10 == 0 {
                LogLevel::Warn
            } else {
                LogLevel::Debug
            }
        };
        let all: Vec<_> = (0..1200).map(|n| line(n, level(n))).collect();
        store.append_build_log(&build.id, &all[..1]).await.unwrap();
        store.append_build_log(&other.id, &all[..5]).await.unwrap();
        store.append_build_log(&build.id, &all[1..]).await.unwrap();
        store.append_build_log(&build.id, &[]).await.unwrap();

        let mut seen = Vec::new();
        loop {
            let offset = u64::try_from(seen.len()).unwrap();
            let page = store.build_log(&build.id, offset, 100, None).await.unwrap();
            if page.is_empty() {
                break;
            }
            seen.extend(page);
        }
        assert_eq!(seen, all);
        // With a level, the count is of what passes.
        let warnings = store
            .build_log(&build.id, 2, 3, Some(LogLevel::Warn))
            .await
            .unwrap();
        assert_eq!(numbers(&warnings), [20, 30, 40]);
    }

    #[tokio::test]
    async fn lines_of_a_time() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let (_, build) = add_template(&store, &team, "t", BuildStatus::Building, 1).await;
        let all: Vec<_> = (0..10).map(|n| line(n, LogLevel::Info)).collect();
        store.append_build_log(&build.id, &all).await.unwrap();
        let mut query = BuildLogQuery {
            build: build.id,
            start: Timestamp(1),
            end: Timestamp(3),
            limit: 4,
            direction: Direction::Forward,
            min_level: LogLevel::Debug,
        };
        let got = store.build_log_between(&query).await.unwrap();
        assert_eq!(numbers(&got), [2, 3, 4, 5]);
        query.direction = Direction::Backward;
        let got = store.build_log_between(&query).await.unwrap();
        assert_eq!(numbers(&got), [7, 6, 5, 4]);
        query.min_level = LogLevel::Warn;
        assert!(store.build_log_between(&query).await.unwrap().is_empty());
    }
}
