//! What there is of a paused sandbox, and the steps into and out of that state.

use serde_json::Map;
use soulbox_types::{
    EndReason, EventKind, ExecutionId, LayerDigest, MemoryId, OnTimeout, SandboxId, SandboxSpec,
    Timestamp,
};

use crate::database::{DbRow, column, maybe_json, maybe_parsed, time, to_json};
use crate::error::During;
use crate::events::{self, SUBJECT, Subject};
use crate::sandboxes::{RecordState, SandboxRecord, on_timeout_text, record_of, state_of};
use crate::{Store, StoreError};

const TABLE: &str = "sandboxes";

/// What there is of a paused sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// What was asked to be kept.
    pub mode: PauseMode,
    /// Whether its envd did not answer when it was paused.
    pub guest_unresponsive: bool,
    /// Whether its files are in the layers of `spec`. If not, all of it is in its frozen guest.
    pub files_saved: bool,
    /// What a guest of it is to be made from. Its token is empty: it follows from the id.
    pub spec: SandboxSpec,
    /// Where its memory is, when it is not in its guest any more.
    pub memory: Option<MemoryId>,
}

/// What a pause keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseMode {
    /// Memory and files.
    Full,
    /// Files.
    Filesystem,
}

impl PauseMode {
    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Filesystem => "filesystem",
        }
    }
}

/// The run that a resume begins.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its number.
    pub execution_id: ExecutionId,
    /// When it became usable.
    pub started_at: Timestamp,
    /// When its policy ends it.
    pub end_at: Timestamp,
    /// What happens then.
    pub on_timeout: OnTimeout,
}

impl Store {
    /// Remembers a layer that was made for a pause, so that it is removed when nothing needs it any more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_saved_layer(
        &self,
        layer: LayerDigest,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO saved_layers (digest, created_at) VALUES ($1, $2) \
             ON CONFLICT (digest) DO UPDATE SET created_at = excluded.created_at",
        )
        .bind(layer.to_string())
        .bind(at.0)
        .execute(self.writer())
        .await
        .during("note a layer")?;
        Ok(())
    }

    /// Remembers memory that is made now: it is removed some time after, when no record has it then.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_memory(&self, memory: &MemoryId, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO young_memory (id, created_at) VALUES ($1, $2)")
            .bind(memory.as_str())
            .bind(at.0)
            .execute(self.writer())
            .await
            .during("note memory")?;
        Ok(())
    }

    /// Writes down that a sandbox is paused since `at`, or what has become of that pause; false when there is no such
    /// sandbox. The first is an event; its reason is that the end time has come, or that somebody has asked.
    ///
    /// # Errors
    /// When the database fails; nothing has changed then.
    pub async fn pause_sandbox(
        &self,
        id: &SandboxId,
        at: Timestamp,
        pause: &Pause,
    ) -> Result<bool, StoreError> {
        // What is only in the memory of the host dies with it.
        let mut transaction = match pause.files_saved {
            true => self.write().await?,
            false => self.write_quickly().await?,
        };
        let sql = format!("SELECT state, end_at, {SUBJECT} FROM sandboxes WHERE id = $1");
        let before = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id.as_str())
            .fetch_optional(&mut *transaction)
            .await
            .during("pause a sandbox")?;
        let Some(before) = before else {
            return Ok(false);
        };
        sqlx::query(
            "UPDATE sandboxes SET state = 'paused', end_at = $2, pause_mode = $3, guest_unresponsive = $4, \
             files_saved = $5, spec = $6, memory = $7 WHERE id = $1",
        )
        .bind(id.as_str())
        .bind(at.0)
        .bind(pause.mode.as_str())
        .bind(pause.guest_unresponsive)
        .bind(pause.files_saved)
        .bind(to_json(&pause.spec))
        .bind(pause.memory.as_ref().map(MemoryId::as_str))
        .execute(&mut *transaction)
        .await
        .during("pause a sandbox")?;
        // What becomes of a pause later is no event.
        if state_of(&before)? == RecordState::Running {
            let over = at >= time(&before, TABLE, "end_at")?;
            let reason = if over {
                EndReason::Timeout
            } else {
                EndReason::Request
            };
            let (subject, said) = (Subject::of_row(&before)?, events::ended(reason));
            events::record(&mut transaction, &subject, EventKind::Paused, at, said).await?;
        }
        transaction.commit().await.during("pause a sandbox")?;
        self.events_recorded();
        Ok(true)
    }

    /// Writes down that a paused sandbox runs again; false when there is no paused one.
    ///
    /// # Errors
    /// When the database fails; nothing has changed then.
    pub async fn resume_sandbox(&self, id: &SandboxId, run: &NewRun) -> Result<bool, StoreError> {
        let mut transaction = self.write_quickly().await?;
        let sql = format!(
            "UPDATE sandboxes SET state = 'running', execution_id = $2, started_at = $3, end_at = $4, \
             on_timeout = $5, pause_mode = NULL, guest_unresponsive = NULL, files_saved = NULL, spec = NULL, \
             memory = NULL WHERE id = $1 AND state = 'paused' RETURNING {SUBJECT}"
        );
        let running = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id.as_str())
            .bind(run.execution_id.as_str())
            .bind(run.started_at.0)
            .bind(run.end_at.0)
            .bind(on_timeout_text(run.on_timeout))
            .fetch_optional(&mut *transaction)
            .await
            .during("resume a sandbox")?;
        let Some(running) = running else {
            return Ok(false);
        };
        // The copy that lists with a filter walk.
        sqlx::query("UPDATE sandbox_metadata SET started_at = $2 WHERE sandbox_id = $1")
            .bind(id.as_str())
            .bind(run.started_at.0)
            .execute(&mut *transaction)
            .await
            .during("resume a sandbox")?;
        let (subject, said) = (Subject::of_row(&running)?, Map::new());
        let at = run.started_at;
        events::record(&mut transaction, &subject, EventKind::Resumed, at, said).await?;
        transaction.commit().await.during("resume a sandbox")?;
        self.events_recorded();
        Ok(true)
    }

    /// Every sandbox that has a guest on this node, or something in its place: those that run, and those whose memory is
    /// kept, in a guest or on disk.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all_with_guest(&self) -> Result<Vec<SandboxRecord>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM sandboxes WHERE state = 'running' OR pause_mode = 'full'")
                .fetch_all(self.reader())
                .await
                .during("read the sandboxes with a guest")?;
        rows.iter().map(record_of).collect()
    }

    /// A sandbox of whatever team.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_sandbox(&self, id: &SandboxId) -> Result<Option<SandboxRecord>, StoreError> {
        let row = sqlx::query("SELECT * FROM sandboxes WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(self.reader())
            .await
            .during("read a sandbox")?;
        row.as_ref().map(record_of).transpose()
    }
}

/// Reads what a row says of the pause.
pub(crate) fn pause_of(row: &DbRow) -> Result<Option<Pause>, StoreError> {
    if state_of(row)? == RecordState::Running {
        return Ok(None);
    }
    let damaged = |column| StoreError::Damaged {
        table: TABLE,
        column,
    };
    let mode: Option<&str> = column(row, TABLE, "pause_mode")?;
    let mode = [PauseMode::Full, PauseMode::Filesystem]
        .into_iter()
        .find(|known| Some(known.as_str()) == mode);
    let unresponsive: Option<bool> = column(row, TABLE, "guest_unresponsive")?;
    let files_saved: Option<bool> = column(row, TABLE, "files_saved")?;
    Ok(Some(Pause {
        mode: mode.ok_or(damaged("pause_mode"))?,
        guest_unresponsive: unresponsive.unwrap_or_default(),
        files_saved: files_saved.unwrap_or_default(),
        spec: maybe_json(row, TABLE, "spec")?.ok_or(damaged("spec"))?,
        memory: maybe_parsed(row, TABLE, "memory")?,
    }))
}
