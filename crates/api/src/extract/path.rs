//! Path parameters. The router matches the path as sent, so `team%2Fname` is one segment; here it is unescaped.

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use soulbox_types::SandboxId;

use crate::error::ApiError;

/// The unescaped parameters of the path, by name.
pub(crate) struct PathArgs(Vec<(String, String)>);

/// The only parameter of the path.
pub(crate) struct PathArg(pub String);

/// The sandbox that the path names.
pub(crate) struct SandboxArg {
    /// The id, without the old suffix.
    pub id: SandboxId,
    /// The id as the caller wrote it.
    pub given: String,
}

impl PathArgs {
    /// The parameter with this name. Empty when the route has none, which no id parses from.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value.as_str())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathArgs {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::violation("path is not valid UTF-8"))?;
        Ok(Self(
            params
                .iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        ))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathArg {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let PathArgs(params) = PathArgs::from_request_parts(parts, state).await?;
        Ok(Self(
            params
                .into_iter()
                .next()
                .map(|(_, value)| value)
                .unwrap_or_default(),
        ))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SandboxArg {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let PathArg(given) = PathArg::from_request_parts(parts, state).await?;
        let id = SandboxId::parse_lenient(&given)
            .map_err(|_| ApiError::invalid("Invalid sandbox ID"))?;
        Ok(Self { id, given })
    }
}
