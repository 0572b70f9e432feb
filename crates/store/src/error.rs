//! How the store fails.

use soulbox_types::ErrorKind;

/// A question to the database that has no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the database is not what this program has written.
    #[error(
        "{file} {what}\nFIX: restore soulbox.db, soulbox.db-wal and soulbox.db-shm together from a backup; or begin anew, without keys, records and running sandboxes: soulbox purge --data-dir {directory} --yes && rm -f {directory}/soulbox.db* {directory}/token.seed"
    )]
    File {
        /// Which file.
        file: String,
        /// What is wrong with it.
        what: String,
        /// The data directory.
        directory: String,
    },
    /// The database contradicts itself.
    #[error(
        "database is damaged: cannot {operation}: {detail}\nFIX: stop the server and restore soulbox.db from a backup"
    )]
    Corrupt {
        /// What was being done, as a verb with its object.
        operation: &'static str,
        /// What the database said.
        detail: String,
    },
    /// The database file cannot be opened or brought up to date.
    #[error(
        "cannot open database {path}\nFIX: make its directory writable, on a file system with room"
    )]
    Open {
        /// The file.
        path: String,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// The database's tables cannot be brought up to date.
    #[error("cannot migrate database {path}")]
    Migrate {
        /// The file.
        path: String,
        /// What the database said.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// A statement failed.
    #[error("database cannot {operation}")]
    Query {
        /// What was being done, as a verb with its object.
        operation: &'static str,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// A row holds what this program never writes.
    #[error(
        "database row of {table} has a damaged {column}\nFIX: restore soulbox.db from a backup"
    )]
    Damaged {
        /// Where.
        table: &'static str,
        /// Which value.
        column: &'static str,
    },
    /// The continuation token is not one of ours, or belongs to another order.
    #[error("invalid next token")]
    InvalidToken,
}

impl StoreError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidToken => ErrorKind::InvalidArgument,
            Self::File { .. } | Self::Corrupt { .. } => ErrorKind::Internal,
            Self::Query { source, .. } | Self::Open { source, .. } if is_disk_full(source) => {
                ErrorKind::StorageFull
            }
            Self::Open { .. }
            | Self::Migrate { .. }
            | Self::Query { .. }
            | Self::Damaged { .. } => ErrorKind::Internal,
        }
    }

    /// Whether what is kept is damaged: nothing that is tried again will help.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::File { .. } | Self::Corrupt { .. } | Self::Damaged { .. }
        )
    }

    /// What may be shown to the caller, for the kinds that are the caller's doing.
    #[must_use]
    pub fn user_message(&self) -> Option<&'static str> {
        match self {
            Self::InvalidToken => Some("Invalid next token"),
            Self::File { .. }
            | Self::Corrupt { .. }
            | Self::Open { .. }
            | Self::Migrate { .. }
            | Self::Query { .. }
            | Self::Damaged { .. } => None,
        }
    }
}

/// `SQLITE_FULL`, see <https://www.sqlite.org/rescode.html#full>.
fn is_disk_full(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(13)
}

/// `SQLITE_CORRUPT` and `SQLITE_NOTADB`.
pub(crate) fn is_corrupt(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(11 | 26))
}

/// The result code without what SQLite adds in its higher bits.
fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?;
    Some(code.parse::<u32>().ok()? & 0xff)
}

/// Names the operation that a database error interrupted.
pub(crate) trait During<T> {
    /// Wraps the error; `operation` is a verb with its object.
    fn during(self, operation: &'static str) -> Result<T, StoreError>;
}

impl<T> During<T> for Result<T, sqlx::Error> {
    fn during(self, operation: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| {
            if !is_corrupt(&source) {
                return StoreError::Query { operation, source };
            }
            let detail = source.to_string();
            // Whoever asked may not show it to anybody.
            tracing::error!(
                operation,
                detail,
                "DATABASE IS DAMAGED. FIX: stop the server and restore soulbox.db from a backup"
            );
            StoreError::Corrupt { operation, detail }
        })
    }
}
