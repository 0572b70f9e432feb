//! Pages of a list and the tokens between them.

/// Which end of the time axis a list starts at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}

/// Which page of a list is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// At most this many items.
    pub limit: u32,
    /// Token of the page before; none for the first page.
    pub cursor: Option<String>,
}

/// Some items of a list, and how to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items, in order.
    pub items: Vec<T>,
    /// Present exactly when there are more.
    pub next_cursor: Option<String>,
}
