//! Query parameters with the schema's types and ranges.

use std::fmt::Display;
use std::ops::RangeBounds;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use http::request::Parts;
use percent_encoding::percent_decode_str;

use crate::error::ApiError;

/// The query, decoded. Unknown parameters are ignored; of repeated ones the first counts unless a list is wanted.
#[derive(Debug)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    fn parse(raw: &str) -> Result<Self, ApiError> {
        let pairs = raw.split('&').filter(|part| !part.is_empty()).map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((decode(key)?, decode(value)?))
        });
        pairs.collect::<Result<_, ApiError>>().map(Self)
    }

    /// The value of a parameter.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that must be there.
    pub(crate) fn required(&self, name: &str) -> Result<&str, ApiError> {
        self.text(name)
            .ok_or_else(|| violation(name, "value is required but missing"))
    }

    /// All values of a parameter that is a comma list, or repeated, or both.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        let values = self.0.iter().filter(|(key, _)| key == name);
        values
            .flat_map(|(_, value)| value.split(','))
            .map(str::trim)
            .filter(|v| !v.is_empty())
            .collect()
    }

    /// A whole number within a range.
    pub(crate) fn number<T>(
        &self,
        name: &str,
        range: impl RangeBounds<T>,
    ) -> Result<Option<T>, ApiError>
    where
        T: FromStr + PartialOrd,
    {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let value: T = text
            .parse()
            .map_err(|_| violation(name, "must be an integer"))?;
        if range.contains(&value) {
            Ok(Some(value))
        } else {
            Err(violation(name, "is out of range"))
        }
    }

    /// One of a closed set of words.
    pub(crate) fn word<T: Copy>(
        &self,
        name: &str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, ApiError> {
        self.text(name)
            .map(|text| word(name, text, words))
            .transpose()
    }

    /// The page size: 1 to 100, by default 100.
    pub(crate) fn page_limit(&self) -> Result<u32, ApiError> {
        Ok(self.number("limit", 1..=100)?.unwrap_or(100))
    }

    /// The token of the page before. An empty one is none: SDKs may send it for the first page.
    pub(crate) fn next_token(&self) -> Option<String> {
        self.text("nextToken")
            .filter(|token| !token.is_empty())
            .map(str::to_owned)
    }
}

/// Finds a word in a closed set.
pub(crate) fn word<T: Copy>(name: &str, text: &str, words: &[(&str, T)]) -> Result<T, ApiError> {
    words
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, value)| *value)
        .ok_or_else(|| violation(name, "is not one of the allowed values"))
}

/// A parameter that does not follow the schema.
pub(crate) fn violation(name: &str, detail: impl Display) -> ApiError {
    ApiError::violation(format_args!("parameter {name:?} in query: {detail}"))
}

fn decode(raw: &str) -> Result<String, ApiError> {
    let spaced = raw.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| ApiError::violation("query is not valid UTF-8"))
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let query = Query::parse(
            "a=1&b=x+y%2Cz&b=w&state=running,paused&state=&neg=-1&big=99999999999&flag",
        )
        .unwrap();
        assert_eq!(query.text("b"), Some("x y,z"));
        assert_eq!(query.text("flag"), Some(""));
        assert_eq!(query.list("b"), ["x y", "z", "w"]);
        assert_eq!(query.list("state"), ["running", "paused"]);
        assert_eq!(query.number("a", 1..=100).unwrap(), Some(1));
        assert_eq!(query.number("missing", 1..=100).unwrap(), None::<i64>);
        assert!(query.number::<i64>("neg", 0..).is_err());
        assert!(query.number::<i32>("big", 0..).is_err());
        assert!(query.number::<i32>("flag", 0..).is_err());
        assert!(Query::parse("a=%ff").is_err());
        assert!(Query::parse("a=%00").is_ok());
    }
}
