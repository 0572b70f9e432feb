//! The closed list of ways an operation can fail, by what the caller can do about it.

/// Every crate's error says which of these it is; each boundary maps it once to its own status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong as it stands.
    InvalidArgument,
    /// Who is asking is not known.
    Unauthenticated,
    /// Who is asking may not.
    PermissionDenied,
    /// It does not exist, or not for this caller.
    NotFound,
    /// It is in the wrong state for this.
    Conflict,
    /// A quota or rate is used up.
    LimitExceeded,
    /// No room on the disk.
    StorageFull,
    /// Not now: no capacity, or a part is not ready.
    Unavailable,
    /// It took too long.
    Timeout,
    /// Known to the wire, not built here yet.
    Unimplemented,
    /// Our fault.
    Internal,
}

impl ErrorKind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 11] = [
        Self::InvalidArgument,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::NotFound,
        Self::Conflict,
        Self::LimitExceeded,
        Self::StorageFull,
        Self::Unavailable,
        Self::Timeout,
        Self::Unimplemented,
        Self::Internal,
    ];
}
