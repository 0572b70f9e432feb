//! Connections, migrations, and the writes that can wait.
//!
//! SQLite takes one writer at a time, so there is one connection that writes: waiting for it is a fair queue in this
//! process instead of a busy loop in the database. Readers have their own connections and, with the write-ahead log,
//! wait for nobody.
//!
//! What was promised is on the disk before it is answered: [`Store::write`], [`Store::execute`]. What dies with the machine
//! anyway, such as that a sandbox runs, and what nobody would miss, is not waited for: [`Store::write_quickly`],
//! [`Store::writer`]. A process that dies loses neither.
//!
//! Log entries, spawn counts and times of last use are noted in memory and written together by [`Store::flush`].
//! Who reads such things goes through [`Store::settle`] first and so never sees less than has been noted.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use soulbox_types::{ApiKeyId, TemplateId, Timestamp};
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteQueryResult,
    SqliteRow, SqliteSynchronous,
};
use sqlx::{Connection as _, Row as _, Sqlite, SqliteConnection, SqlitePool, Transaction};
use tokio::sync::{oneshot, watch};

use crate::error::During;
use crate::files::{self, Damage, Expect};
use crate::keys::KeyCache;
use crate::logs::{LogEntry, insert_logs};
use crate::{StoreError, keys, teams, templates};

/// The database in use.
pub(crate) type Db = Sqlite;
/// One of its rows.
pub(crate) type DbRow = SqliteRow;

/// Reading connections: as many questions as two or four cores can answer at once.
const READERS: u32 = 4;
/// How long a statement waits for a lock that another process holds (a backup, a curious operator).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for a connection; far above anything but a stuck disk.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);
/// Log entries kept in memory when the database cannot take them; later ones are dropped and counted.
const MAX_DEFERRED_LOGS: usize = 20_000;

/// What a server has promised to somebody.
const PROMISES: [&str; 11] = [
    "teams",
    "api_keys",
    "templates",
    "template_aliases",
    "template_tags",
    "builds",
    "sandboxes",
    "sandbox_metadata",
    "idempotency",
    "webhooks",
    "secrets",
];

/// The database. A copy is another handle on the same one.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    writer: SqlitePool,
    readers: SqlitePool,
    deferred: Mutex<Deferred>,
    keys: KeyCache,
    /// Wakes whoever waits for events.
    news: watch::Sender<()>,
    /// Wakes whoever waits for contacts.
    contact_news: watch::Sender<()>,
    /// Tells this run of the server from earlier ones.
    boot: String,
}

/// What is noted but not yet written.
#[derive(Debug, Default)]
struct Deferred {
    logs: Vec<LogEntry>,
    dropped_logs: u64,
    spawns: HashMap<TemplateId, Spawns>,
    key_uses: HashMap<ApiKeyId, Timestamp>,
    /// Flushes that hold some of it and have not ended. More than one for the moment between a flush's commit and
    /// its end.
    in_flight: usize,
}

/// Sandboxes created from one template since the last flush.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spawns {
    pub(crate) count: i64,
    pub(crate) last: Timestamp,
}

impl Store {
    /// Opens the database file, makes it if it is not there, and brings its tables up to date.
    ///
    /// # Errors
    /// When the file cannot be used, is damaged or belongs to a newer program.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_expecting(path, Expect::Any).await
    }

    /// Opens the database file after a look at what is there: what SQLite would silently take for a new or a shorter
    /// database is refused.
    ///
    /// # Errors
    /// When the file cannot be used, is damaged or belongs to a newer program.
    pub async fn open_expecting(path: &Path, expect: Expect) -> Result<Self, StoreError> {
        let boot_id =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let on_file = |source| StoreError::Open {
            path: path.display().to_string(),
            source: sqlx::Error::Io(source),
        };
        files::examine(path, expect, &boot_id)
            .map_err(on_file)?
            .map_err(|damage| file_error(path, &damage))?;
        let writer = open_writer(path).await?;
        refuse_strangers(path, &writer).await?;
        refuse_newer(path, &writer).await?;
        files::note_boot(path, &boot_id).map_err(on_file)?;
        sqlx::migrate!()
            .run(&writer)
            .await
            .map_err(|source| migrate_error(path, source))?;
        check_promises(path, &writer).await?;
        let readers = pool(READERS)
            .connect_with(options(path).read_only(true))
            .await
            .map_err(|source| open_error(path, source))?;
        let inner = Inner {
            writer,
            readers,
            deferred: Mutex::default(),
            keys: KeyCache::default(),
            news: watch::Sender::new(()),
            contact_news: watch::Sender::new(()),
            boot: soulbox_types::id::random_label(20),
        };
        let store = Self {
            inner: Arc::new(inner),
        };
        teams::ensure_default(&store).await?;
        Ok(store)
    }

    /// Writes down what has been deferred: log entries, spawn counts, times of last use.
    ///
    /// # Cancel safety
    /// The writing goes on in a task of its own when the future is dropped: half-way through a commit nobody could
    /// say whether to write again.
    ///
    /// # Errors
    /// When the database fails; what was not written is kept for the next time.
    pub async fn flush(&self) -> Result<(), StoreError> {
        if self.inner.deferred.lock().is_empty() {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        let store = self.clone();
        soulbox_telemetry::task::spawn("store-flush", async move {
            // The caller may have gone away.
            drop(reply.send(store.write_deferred().await));
        });
        answer.await.unwrap_or_else(|_| {
            Err(StoreError::Query {
                operation: "write deferred rows",
                source: sqlx::Error::WorkerCrashed,
            })
        })
    }

    async fn write_deferred(&self) -> Result<(), StoreError> {
        // Whoever holds the one writing connection is the only flush; what it takes is back or written when it ends.
        let mut transaction = self.write_quickly().await?;
        let taken = TakenDeferred::take(self);
        insert_deferred(&mut transaction, taken.content()).await?;
        transaction.commit().await.during("write deferred rows")?;
        taken.written();
        Ok(())
    }

    /// Flushes and closes every connection.
    pub async fn close(&self) {
        if let Err(error) = self.flush().await {
            tracing::error!(error = %error, "deferred rows are lost");
        }
        self.inner.readers.close().await;
        self.inner.writer.close().await;
    }

    /// Makes sure that what was noted before this call can be read after it.
    pub(crate) async fn settle(&self) -> Result<(), StoreError> {
        let (pending, in_flight) = {
            let deferred = self.inner.deferred.lock();
            (!deferred.is_empty(), deferred.in_flight > 0)
        };
        if pending {
            self.flush().await
        } else if in_flight {
            // The flush under way holds the writing connection: to get it is to know that the flush has ended.
            drop(
                self.inner
                    .writer
                    .acquire()
                    .await
                    .during("wait for deferred rows")?,
            );
            Ok(())
        } else {
            Ok(())
        }
    }

    /// Begins a transaction that is on the disk when it is committed, with all before it.
    pub(crate) async fn write(&self) -> Result<Transaction<'static, Db>, StoreError> {
        self.begin("PRAGMA synchronous = FULL; BEGIN").await
    }

    /// Begins a transaction that a machine which dies in the next moments may lose.
    pub(crate) async fn write_quickly(&self) -> Result<Transaction<'static, Db>, StoreError> {
        self.begin("PRAGMA synchronous = NORMAL; BEGIN").await
    }

    async fn begin(
        &self,
        statements: &'static str,
    ) -> Result<Transaction<'static, Db>, StoreError> {
        let begun = self.inner.writer.begin_with(statements).await;
        begun.during("begin a transaction")
    }

    /// Executes one statement, which is on the disk afterwards.
    pub(crate) async fn execute(
        &self,
        statement: Query<'_, Db, SqliteArguments>,
        operation: &'static str,
    ) -> Result<SqliteQueryResult, StoreError> {
        let mut transaction = self.write().await?;
        let done = statement.execute(&mut *transaction).await;
        let done = done.during(operation)?;
        transaction.commit().await.during(operation)?;
        Ok(done)
    }

    /// Puts everything on the disk that was written so far.
    pub(crate) async fn checkpoint(&self) -> Result<(), StoreError> {
        let done = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)");
        let done = done.execute(self.writer()).await;
        done.during("write out the log").map(drop)
    }

    /// The same, and leaves the log empty: what was in it before is nowhere any more. While somebody reads, it stays as it is.
    pub(crate) async fn empty_log(&self, during: &'static str) -> Result<(), StoreError> {
        let done = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)");
        done.execute(self.writer()).await.during(during).map(drop)
    }

    /// Where a single statement is executed that a machine which dies in the next moments may lose.
    pub(crate) fn writer(&self) -> &SqlitePool {
        &self.inner.writer
    }

    /// Where questions are asked.
    pub(crate) fn reader(&self) -> &SqlitePool {
        &self.inner.readers
    }

    pub(crate) fn keys(&self) -> &KeyCache {
        &self.inner.keys
    }

    pub(crate) fn news(&self) -> &watch::Sender<()> {
        &self.inner.news
    }

    pub(crate) fn contact_news_sender(&self) -> &watch::Sender<()> {
        &self.inner.contact_news
    }

    pub(crate) fn boot(&self) -> &str {
        &self.inner.boot
    }

    pub(crate) fn defer_log(&self, entry: LogEntry) {
        let mut deferred = self.inner.deferred.lock();
        if deferred.logs.len() < MAX_DEFERRED_LOGS {
            deferred.logs.push(entry);
        } else {
            deferred.dropped_logs += 1;
        }
    }

    pub(crate) fn defer_spawn(&self, template: &TemplateId, at: Timestamp) {
        let mut deferred = self.inner.deferred.lock();
        let spawns = deferred
            .spawns
            .entry(template.clone())
            .or_insert(Spawns { count: 0, last: at });
        spawns.count += 1;
        spawns.last = spawns.last.max(at);
    }

    pub(crate) fn defer_key_use(&self, key: &ApiKeyId, at: Timestamp) {
        self.inner.deferred.lock().key_uses.insert(key.clone(), at);
    }
}

impl Deferred {
    fn is_empty(&self) -> bool {
        self.logs.is_empty() && self.spawns.is_empty() && self.key_uses.is_empty()
    }

    /// Takes back what could not be written; it is older than what has come since.
    fn put_back(&mut self, mut older: Self) {
        older.logs.append(&mut self.logs);
        self.dropped_logs +=
            u64::try_from(older.logs.len().saturating_sub(MAX_DEFERRED_LOGS)).unwrap_or(u64::MAX);
        older.logs.truncate(MAX_DEFERRED_LOGS);
        self.logs = older.logs;
        for (template, spawns) in older.spawns {
            self.spawns
                .entry(template)
                .and_modify(|newer| newer.count += spawns.count)
                .or_insert(spawns);
        }
        for (key, at) in older.key_uses {
            self.key_uses.entry(key).or_insert(at);
        }
    }
}

/// What a flush has taken. Goes back when it is dropped without having been written.
struct TakenDeferred<'a> {
    store: &'a Store,
    content: Option<Deferred>,
}

impl<'a> TakenDeferred<'a> {
    fn take(store: &'a Store) -> Self {
        let mut deferred = store.inner.deferred.lock();
        let in_flight = deferred.in_flight;
        let content = std::mem::take(&mut *deferred);
        deferred.in_flight = in_flight + 1;
        if content.dropped_logs > 0 {
            tracing::warn!(
                count = content.dropped_logs,
                "sandbox log entries were dropped: too many at once"
            );
        }
        Self {
            store,
            content: Some(content),
        }
    }

    fn content(&self) -> &Deferred {
        self.content
            .as_ref()
            .expect("the content is taken out only by `written` and `drop`")
    }

    fn written(mut self) {
        self.content = None;
    }
}

impl Drop for TakenDeferred<'_> {
    fn drop(&mut self) {
        let mut deferred = self.store.inner.deferred.lock();
        deferred.in_flight = deferred.in_flight.saturating_sub(1);
        if let Some(content) = self.content.take() {
            deferred.put_back(Deferred {
                dropped_logs: 0,
                ..content
            });
        }
    }
}

async fn insert_deferred(
    transaction: &mut Transaction<'static, Db>,
    deferred: &Deferred,
) -> Result<(), StoreError> {
    insert_logs(transaction, &deferred.logs).await?;
    templates::add_spawns(transaction, &deferred.spawns).await?;
    keys::set_last_used(transaction, &deferred.key_uses).await
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .synchronous(SqliteSynchronous::Normal)
}

async fn open_writer(path: &Path) -> Result<SqlitePool, StoreError> {
    pool(1)
        .connect_with(
            options(path)
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal),
        )
        .await
        .map_err(|source| open_error(path, source))
}

/// A database with tables that no migration of ours has made is somebody else's, and stays as it is.
async fn refuse_strangers(path: &Path, writer: &SqlitePool) -> Result<(), StoreError> {
    let names: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table'")
            .fetch_all(writer)
            .await
            .map_err(|source| open_error(path, source))?;
    if names.is_empty() || names.iter().any(|name| name == "_sqlx_migrations") {
        return Ok(());
    }
    let (file, what) = (path.to_owned(), "belongs to another program".to_owned());
    Err(file_error(path, &Damage { file, what }))
}

/// The header that is in force may be in the log, where nobody looks before SQLite does.
async fn refuse_newer(path: &Path, writer: &SqlitePool) -> Result<(), StoreError> {
    let version: u32 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(writer)
        .await
        .map_err(|source| open_error(path, source))?;
    match files::newer(version) {
        None => Ok(()),
        Some(what) => {
            let file = path.to_owned();
            Err(file_error(path, &Damage { file, what }))
        }
    }
}

fn migrate_error(path: &Path, source: sqlx::migrate::MigrateError) -> StoreError {
    use sqlx::migrate::MigrateError;
    match source {
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _)
            if crate::error::is_corrupt(&source) =>
        {
            open_error(path, source)
        }
        // What a newer program has written was refused before: these are rows that nobody has written.
        MigrateError::VersionMismatch(version)
        | MigrateError::VersionMissing(version)
        | MigrateError::Dirty(version) => {
            let what = format!("is damaged in table _sqlx_migrations, version {version}");
            let file = path.to_owned();
            file_error(path, &Damage { file, what })
        }
        source => StoreError::Migrate {
            path: path.display().to_string(),
            source,
        },
    }
}

/// Compares the tables that hold promises with their indexes. Readings and logs, which are many and promise nothing,
/// are left out: a start takes no longer because a server has run for long.
async fn check_promises(path: &Path, writer: &SqlitePool) -> Result<(), StoreError> {
    for table in PROMISES {
        let sql = format!("PRAGMA integrity_check('{table}')");
        let found: Result<Vec<String>, sqlx::Error> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_all(writer)
            .await;
        let found = found.map_err(|source| open_error(path, source))?;
        if found != ["ok"] {
            let what = format!("is damaged in table {table}: {}", found.join("; "));
            let file = path.to_owned();
            return Err(file_error(path, &Damage { file, what }));
        }
    }
    Ok(())
}

fn open_error(path: &Path, source: sqlx::Error) -> StoreError {
    if crate::error::is_corrupt(&source) {
        let what = format!("is damaged: {source}");
        let file = path.to_owned();
        return file_error(path, &Damage { file, what });
    }
    StoreError::Open {
        path: path.display().to_string(),
        source,
    }
}

fn file_error(path: &Path, damage: &Damage) -> StoreError {
    StoreError::File {
        file: damage.file.display().to_string(),
        what: damage.what.clone(),
        directory: path.parent().unwrap_or(path).display().to_string(),
    }
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .min_connections(connections)
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .after_release(|connection, _| Box::pin(is_clean(connection)))
}

/// Whether a connection can serve on. On a full disk `SQLite` ends a transaction by itself; the driver believes that it goes
/// on, and what is written from then on would never be committed. Such a connection is closed.
async fn is_clean(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if connection.is_in_transaction() {
        // A rollback may be under way.
        connection.ping().await?;
    }
    Ok(!connection.is_in_transaction())
}

/// Reads a column of a table's row.
pub(crate) fn column<'r, T>(
    row: &'r DbRow,
    table: &'static str,
    column: &'static str,
) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, Db> + sqlx::Type<Db>,
{
    row.try_get(column)
        .map_err(|_| StoreError::Damaged { table, column })
}

/// Reads a column that holds the text form of a value.
pub(crate) fn parsed<T: std::str::FromStr>(
    row: &DbRow,
    table: &'static str,
    name: &'static str,
) -> Result<T, StoreError> {
    column::<&str>(row, table, name)?
        .parse()
        .map_err(|_| StoreError::Damaged {
            table,
            column: name,
        })
}

/// The same for one that may be absent.
pub(crate) fn maybe_parsed<T: std::str::FromStr>(
    row: &DbRow,
    table: &'static str,
    name: &'static str,
) -> Result<Option<T>, StoreError> {
    column::<Option<&str>>(row, table, name)?
        .map(str::parse)
        .transpose()
        .map_err(|_| StoreError::Damaged {
            table,
            column: name,
        })
}

/// Reads a column that holds a number that is never negative.
pub(crate) fn unsigned<T: TryFrom<i64>>(
    row: &DbRow,
    table: &'static str,
    name: &'static str,
) -> Result<T, StoreError> {
    T::try_from(column::<i64>(row, table, name)?).map_err(|_| StoreError::Damaged {
        table,
        column: name,
    })
}

/// Reads a column that holds a time.
pub(crate) fn time(
    row: &DbRow,
    table: &'static str,
    name: &'static str,
) -> Result<Timestamp, StoreError> {
    column(row, table, name).map(Timestamp)
}

/// Reads a column that may hold a time.
pub(crate) fn maybe_time(
    row: &DbRow,
    table: &'static str,
    name: &'static str,
) -> Result<Option<Timestamp>, StoreError> {
    Ok(column::<Option<i64>>(row, table, name)?.map(Timestamp))
}

/// Reads a column that holds JSON.
pub(crate) fn json<T: serde::de::DeserializeOwned>(
    row: &DbRow,
    table: &'static str,
    name: &'static str,
) -> Result<T, StoreError> {
    serde_json::from_str(column(row, table, name)?).map_err(|_| StoreError::Damaged {
        table,
        column: name,
    })
}

/// Reads a column that may hold JSON.
pub(crate) fn maybe_json<T: serde::de::DeserializeOwned>(
    row: &DbRow,
    table: &'static str,
    name: &'static str,
) -> Result<Option<T>, StoreError> {
    column::<Option<&str>>(row, table, name)?
        .map(serde_json::from_str)
        .transpose()
        .map_err(|_| StoreError::Damaged {
            table,
            column: name,
        })
}

/// The JSON text of a value that always has one.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("maps with text keys, lists and texts have a JSON form")
}

/// A count or size as the database keeps it.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Store {
    /// Whether the database answers; for the readiness check.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1")
            .execute(self.reader())
            .await
            .during("answer")
            .map(drop)
    }
}

/// Whether an error says that a unique value is taken.
pub(crate) fn is_taken(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use soulbox_types::{ErrorKind, SandboxId};

    use super::*;
    use crate::{Direction, LogLevel, LogQuery};

    /// A database of its own for one test.
    pub(crate) struct TempStore {
        pub(crate) store: Store,
        pub(crate) dir: tempfile::TempDir,
    }

    impl std::ops::Deref for TempStore {
        type Target = Store;
        fn deref(&self) -> &Store {
            &self.store
        }
    }

    impl TempStore {
        /// All files of it.
        pub(crate) fn files(&self) -> Vec<std::path::PathBuf> {
            let found = std::fs::read_dir(self.dir.path()).unwrap();
            found.map(|file| file.unwrap().path()).collect()
        }
    }

    pub(crate) async fn temp_store() -> TempStore {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("soulbox.db")).await.unwrap();
        TempStore { store, dir }
    }

    /// Another handle on the same file, as the next server would open it.
    pub(crate) async fn reopen(temp: &TempStore) -> Store {
        temp.store.close().await;
        Store::open(&temp.dir.path().join("soulbox.db"))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn reopening_keeps_everything() {
        let temp = temp_store().await;
        let team = temp.default_team().await.unwrap();
        let (_, raw) = temp.create_api_key(&team.id, "k").await.unwrap();
        let again = reopen(&temp).await;
        assert_eq!(again.default_team().await.unwrap(), team);
        assert_eq!(again.authenticate(&raw).await.unwrap(), Some(team));
        again.ping().await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        std::fs::write(
            &path,
            "this is not a database, but it is long enough to look like one".repeat(20),
        )
        .unwrap();
        let error = Store::open(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
    }

    #[tokio::test]
    async fn a_dropped_flush_loses_nothing() {
        let store = temp_store().await;
        let team = store.default_team().await.unwrap();
        let sandbox = SandboxId::random();
        let entry = |n: i64| LogEntry {
            sandbox: sandbox.clone(),
            team: team.id.clone(),
            at: Timestamp(n),
            level: LogLevel::Info,
            message: n.to_string(),
            fields: BTreeMap::new(),
        };
        for n in 0..50 {
            store.log(entry(n));
            // Polled at most once and dropped wherever it then is.
            let mut flush = Box::pin(store.flush());
            let waker = std::task::Waker::noop();
            for _ in 0..n % 4 {
                if flush
                    .as_mut()
                    .poll(&mut std::task::Context::from_waker(waker))
                    .is_ready()
                {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let query = LogQuery {
            team: team.id.clone(),
            sandbox: sandbox.clone(),
            start: Timestamp(0),
            end: Timestamp(i64::MAX),
            limit: 1000,
            direction: Direction::Forward,
            min_level: LogLevel::Debug,
            search: None,
        };
        let messages: Vec<String> = store
            .logs(&query)
            .await
            .unwrap()
            .into_iter()
            .map(|e| e.message)
            .collect();
        assert_eq!(messages, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}
