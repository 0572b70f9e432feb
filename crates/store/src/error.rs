//! How the store fails.

use soulbox_types::ErrorKind;

/// A question to the database that has no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database file cannot be opened or brought up to date.
    #[error("cannot open database {path}")]
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
    #[error("database row of {table} has a damaged {column}")]
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
            Self::Query { source, .. } | Self::Open { source, .. } if is_disk_full(source) => {
                ErrorKind::StorageFull
            }
            Self::Open { .. }
            | Self::Migrate { .. }
            | Self::Query { .. }
            | Self::Damaged { .. } => ErrorKind::Internal,
        }
    }

    /// What may be shown to the caller, for the kinds that are the caller's doing.
    #[must_use]
    pub fn user_message(&self) -> Option<&'static str> {
        match self {
            Self::InvalidToken => Some("Invalid next token"),
            Self::Open { .. }
            | Self::Migrate { .. }
            | Self::Query { .. }
            | Self::Damaged { .. } => None,
        }
    }
}

/// `SQLITE_FULL`, see <https://www.sqlite.org/rescode.html#full>.
fn is_disk_full(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|e| e.code())
        .is_some_and(|code| code == "13")
}

/// Names the operation that a database error interrupted.
pub(crate) trait During<T> {
    /// Wraps the error; `operation` is a verb with its object.
    fn during(self, operation: &'static str) -> Result<T, StoreError>;
}

impl<T> During<T> for Result<T, sqlx::Error> {
    fn during(self, operation: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Query { operation, source })
    }
}
