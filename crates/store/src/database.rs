//! Connections, migrations, and the writes that can wait.

use std::path::Path;

use crate::StoreError;

/// The database. A copy is another handle on the same one.
#[derive(Debug, Clone)]
pub struct Store {}

impl Store {
    /// Opens the database file, makes it if it is not there, and brings its tables up to date.
    ///
    /// # Errors
    /// When the file cannot be used or belongs to a newer program.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        todo!("{path:?}")
    }

    /// Writes down what has been deferred: log entries, spawn counts, times of last use.
    ///
    /// # Errors
    /// When the database fails; what was not written is kept for the next time.
    pub async fn flush(&self) -> Result<(), StoreError> {
        todo!()
    }

    /// Flushes and closes every connection.
    pub async fn close(&self) {
        todo!()
    }
}
