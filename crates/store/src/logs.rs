//! What has happened to sandboxes, in words.

use std::collections::BTreeMap;

use soulbox_types::{SandboxId, TeamId, Timestamp};
use sqlx::{QueryBuilder, Transaction};

use crate::database::{Db, DbRow, column, json, parsed, time, to_json};
use crate::error::During;
use crate::{Store, StoreError};

/// Name of the table in messages.
const TABLE: &str = "logs";
/// Entries in one statement: six values each, and SQLite takes 32,766.
const CHUNK: usize = 500;

/// How much an entry matters, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// For whoever looks for a fault.
    Debug,
    /// Ordinary.
    Info,
    /// Somebody may want to look.
    Warn,
    /// Something failed.
    Error,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Of which sandbox.
    pub sandbox: SandboxId,
    /// Whose.
    pub team: TeamId,
    /// When.
    pub at: Timestamp,
    /// How much it matters.
    pub level: LogLevel,
    /// What happened.
    pub message: String,
    /// The particulars.
    pub fields: BTreeMap<String, String>,
}

/// Which way a list of entries runs, and which end it is cut at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Oldest first.
    Forward,
    /// Newest first.
    Backward,
}

/// Which entries are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Whose.
    pub team: TeamId,
    /// Of which sandbox.
    pub sandbox: SandboxId,
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
    /// Text that the message must contain.
    pub search: Option<String>,
}

impl LogLevel {
    const ALL: [Self; 4] = [Self::Debug, Self::Info, Self::Warn, Self::Error];

    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    /// Reads a name; one that is not known counts as ordinary.
    #[must_use]
    pub fn parse_lenient(text: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|level| text.eq_ignore_ascii_case(level.as_str()))
            .unwrap_or(Self::Info)
    }

    pub(crate) fn rank(self) -> i64 {
        match self {
            Self::Debug => 0,
            Self::Info => 1,
            Self::Warn => 2,
            Self::Error => 3,
        }
    }

    /// The level with this rank; one that is not known counts as ordinary.
    pub(crate) fn of_rank(rank: i64) -> Self {
        Self::ALL
            .into_iter()
            .find(|level| level.rank() == rank)
            .unwrap_or(Self::Info)
    }
}

impl Store {
    /// Notes an entry, to be written within a moment; reading sees it at once.
    pub fn log(&self, entry: LogEntry) {
        self.defer_log(entry);
    }

    /// Adds entries, all or none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn append_logs(&self, entries: &[LogEntry]) -> Result<(), StoreError> {
        let mut transaction = self.write_quickly().await?;
        insert_logs(&mut transaction, entries).await?;
        transaction.commit().await.during("add log entries")
    }

    /// The entries that match.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn logs(&self, query: &LogQuery) -> Result<Vec<LogEntry>, StoreError> {
        self.settle().await?;
        let mut sql = QueryBuilder::new("SELECT * FROM logs WHERE sandbox_id = ");
        sql.push_bind(query.sandbox.as_str())
            .push(" AND team_id = ")
            .push_bind(query.team.as_str());
        sql.push(" AND at >= ")
            .push_bind(query.start.0)
            .push(" AND at <= ")
            .push_bind(query.end.0);
        sql.push(" AND level >= ").push_bind(query.min_level.rank());
        if let Some(search) = query.search.as_deref().filter(|search| !search.is_empty()) {
            // The one test for "contains, with the case as it is" that is spelled alike in every database.
            sql.push(" AND REPLACE(message, ")
                .push_bind(search)
                .push(", '') <> message");
        }
        sql.push(match query.direction {
            Direction::Forward => " ORDER BY at ASC, seq ASC LIMIT ",
            Direction::Backward => " ORDER BY at DESC, seq DESC LIMIT ",
        });
        sql.push_bind(i64::from(query.limit));
        let rows = sql
            .build()
            .fetch_all(self.reader())
            .await
            .during("read log entries")?;
        rows.iter().map(entry_of).collect()
    }
}

pub(crate) async fn insert_logs(
    transaction: &mut Transaction<'static, Db>,
    entries: &[LogEntry],
) -> Result<(), StoreError> {
    for chunk in entries.chunks(CHUNK) {
        let mut query = QueryBuilder::new(
            "INSERT INTO logs (sandbox_id, team_id, at, level, message, fields) ",
        );
        query.push_values(chunk, |mut row, entry| {
            row.push_bind(entry.sandbox.to_string())
                .push_bind(entry.team.to_string())
                .push_bind(entry.at.0)
                .push_bind(entry.level.rank())
                .push_bind(&entry.message)
                .push_bind(to_json(&entry.fields));
        });
        query
            .build()
            .persistent(false)
            .execute(&mut **transaction)
            .await
            .during("add log entries")?;
    }
    Ok(())
}

fn entry_of(row: &DbRow) -> Result<LogEntry, StoreError> {
    Ok(LogEntry {
        sandbox: parsed(row, TABLE, "sandbox_id")?,
        team: parsed(row, TABLE, "team_id")?,
        at: time(row, TABLE, "at")?,
        level: LogLevel::of_rank(column(row, TABLE, "level")?),
        message: column(row, TABLE, "message")?,
        fields: json(row, TABLE, "fields")?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::database::tests::temp_store;

    pub(crate) fn entry(
        team: &TeamId,
        sandbox: &SandboxId,
        at: i64,
        level: LogLevel,
        message: &str,
    ) -> LogEntry {
        LogEntry {
            sandbox: sandbox.clone(),
            team: team.clone(),
            at: Timestamp(at),
            level,
            message: message.into(),
            fields: BTreeMap::from([("logger".into(), "envd".into())]),
        }
    }

    #[test]
    fn levels() {
        assert_eq!(LogLevel::parse_lenient("WARN"), LogLevel::Warn);
        assert_eq!(LogLevel::parse_lenient("fatal"), LogLevel::Info);
        assert!(
            LogLevel::ALL
                .windows(2)
                .all(|pair| pair[0] < pair[1] && pair[0].rank() < pair[1].rank())
        );
    }

    #[tokio::test]
    async fn entries() {
        let store = temp_store().await;
        let (team, sandbox) = (TeamId::random(), SandboxId::random());
        let written = [
            entry(&team, &sandbox, 10, LogLevel::Info, "Sandbox created"),
            entry(&team, &sandbox, 20, LogLevel::Debug, "100%_done"),
            entry(&team, &sandbox, 20, LogLevel::Warn, "out of memory"),
        ];
        store.append_logs(&written).await.unwrap();
        let noted = entry(&team, &sandbox, 30, LogLevel::Error, "Sandbox gone");
        store.log(noted.clone());
        store.log(entry(
            &TeamId::random(),
            &sandbox,
            30,
            LogLevel::Error,
            "foreign",
        ));
        let all: Vec<_> = written.into_iter().chain([noted]).collect();
        let query = |adjust: fn(&mut LogQuery)| {
            let mut query = LogQuery {
                team: team.clone(),
                sandbox: sandbox.clone(),
                start: Timestamp(0),
                end: Timestamp(100),
                limit: 10,
                direction: Direction::Forward,
                min_level: LogLevel::Debug,
                search: None,
            };
            adjust(&mut query);
            query
        };
        let check = async |adjust: fn(&mut LogQuery), want: &[usize]| {
            let query = query(adjust);
            let want: Vec<_> = want.iter().map(|index| all[*index].clone()).collect();
            assert_eq!(store.logs(&query).await.unwrap(), want, "{query:?}");
        };
        check(|_| {}, &[0, 1, 2, 3]).await;
        check(
            |q| (q.direction, q.limit) = (Direction::Backward, 2),
            &[3, 2],
        )
        .await;
        check(|q| q.limit = 1, &[0]).await;
        check(
            |q| (q.start, q.end) = (Timestamp(20), Timestamp(20)),
            &[1, 2],
        )
        .await;
        check(|q| q.min_level = LogLevel::Warn, &[2, 3]).await;
        check(|q| q.search = Some("Sandbox".into()), &[0, 3]).await;
        check(|q| q.search = Some("sandbox".into()), &[]).await;
        check(|q| q.search = Some("%".into()), &[1]).await;
        check(|q| q.search = Some(String::new()), &[0, 1, 2, 3]).await;
        check(|q| q.sandbox = SandboxId::random(), &[]).await;
        check(|q| q.team = TeamId::random(), &[]).await;
    }
}
