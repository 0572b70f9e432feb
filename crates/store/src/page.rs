//! Pages of a list and the tokens between them.
//!
//! A token holds the keyset of the last row that was shown (its time and its id) and the order of the list, so that a
//! page neither repeats nor skips anything when rows come and go, and that a token of another order is refused.

use data_encoding::BASE64URL_NOPAD;
use soulbox_types::Timestamp;

use crate::StoreError;

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

/// The last row of the page before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keyset {
    pub(crate) at: Timestamp,
    pub(crate) id: String,
}

impl Order {
    fn letter(self) -> &'static str {
        match self {
            Self::Ascending => "a",
            Self::Descending => "d",
        }
    }
}

impl PageRequest {
    /// The first page, of at most `limit` items.
    #[must_use]
    pub fn first(limit: u32) -> Self {
        Self {
            limit,
            cursor: None,
        }
    }
}

impl Keyset {
    pub(crate) fn token(&self, order: Order) -> String {
        BASE64URL_NOPAD.encode(format!("{} {} {}", order.letter(), self.at.0, self.id).as_bytes())
    }

    pub(crate) fn parse(token: &str, order: Order) -> Result<Self, StoreError> {
        Self::parse_parts(token, order).ok_or(StoreError::InvalidToken)
    }

    fn parse_parts(token: &str, order: Order) -> Option<Self> {
        // Clients may pad what they send back.
        let bytes = BASE64URL_NOPAD
            .decode(token.trim_end_matches('=').as_bytes())
            .ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let mut parts = text.split(' ');
        let (letter, at, id) = (parts.next()?, parts.next()?, parts.next()?);
        let whole = parts.next().is_none() && letter == order.letter() && !id.is_empty();
        whole.then_some(Self {
            at: Timestamp(at.parse().ok()?),
            id: id.to_owned(),
        })
    }
}

/// Reads a page request's token, if it has one.
pub(crate) fn keyset(cursor: Option<&str>, order: Order) -> Result<Option<Keyset>, StoreError> {
    cursor.map(|token| Keyset::parse(token, order)).transpose()
}

/// How many rows to ask for: one more than wanted tells whether there are more.
pub(crate) fn fetch_limit(limit: u32) -> i64 {
    i64::from(limit) + 1
}

/// Cuts the one row too many and makes the token when it was there.
pub(crate) fn cut<T>(
    items: &mut Vec<T>,
    limit: u32,
    order: Order,
    key: impl Fn(&T) -> Keyset,
) -> Option<String> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    items
        .last()
        .filter(|_| more)
        .map(|last| key(last).token(order))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let keyset = Keyset {
            at: Timestamp(1_735_689_600_000_678),
            id: "iabc".into(),
        };
        let token = keyset.token(Order::Descending);
        assert_eq!(Keyset::parse(&token, Order::Descending).unwrap(), keyset);
        assert_eq!(
            Keyset::parse(&format!("{token}="), Order::Descending).unwrap(),
            keyset
        );
        let refused = [
            token.as_str(),
            "",
            "x",
            "!!",
            &BASE64URL_NOPAD.encode(b"a 1"),
            &BASE64URL_NOPAD.encode(b"a x y"),
        ];
        for token in refused {
            assert!(
                matches!(
                    Keyset::parse(token, Order::Ascending),
                    Err(StoreError::InvalidToken)
                ),
                "{token}"
            );
        }
        assert_eq!(
            StoreError::InvalidToken.user_message(),
            Some("Invalid next token")
        );
    }
}
