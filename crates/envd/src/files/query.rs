//! The query of `/files`, and the checks that reading and writing share: signature, then account.

use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderMap;

use super::signature::{Operation, Signed, authorize};
use crate::app::App;
use crate::path;
use crate::reply::Refusal;
use crate::route::shown_token;
use crate::user::User;

/// As given; the first of several values counts.
#[derive(Debug, Default)]
pub(crate) struct Query {
    pub(crate) path: Option<String>,
    pub(crate) username: Option<String>,
    signature: Option<String>,
    expiration: Option<i64>,
}

impl Query {
    pub(crate) fn parse(query: &str) -> Result<Self, Refusal> {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "path" => parsed.path = parsed.path.or(Some(value.into_owned())),
                "username" => parsed.username = parsed.username.or(Some(value.into_owned())),
                "signature" => parsed.signature = parsed.signature.or(Some(value.into_owned())),
                "signature_expiration" if parsed.expiration.is_none() => {
                    let number = value.parse().map_err(|_| {
                        Refusal::bad_request(format!(
                            "invalid format for parameter signature_expiration: {value}"
                        ))
                    })?;
                    parsed.expiration = Some(number);
                }
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// May this request do it?
    pub(crate) fn authorize(
        &self,
        app: &App,
        headers: &HeaderMap,
        operation: Operation,
    ) -> Result<(), Refusal> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let signed = Signed {
            path: self.path.as_deref().unwrap_or_default(),
            operation,
            username: self.username.as_deref().unwrap_or_default(),
            expiration: self.expiration,
        };
        let token = app.settings.token();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        authorize(
            token.as_deref(),
            shown_token(headers),
            self.signature.as_deref(),
            &signed,
            now,
        )
        .map_err(|denied| Refusal::unauthorized(denied.to_string()))
    }

    /// The account it is done for.
    pub(crate) fn user(&self, app: &App) -> Result<User, Refusal> {
        user(app, self.username.as_deref())
    }
}

/// The named account, or the default one.
pub(crate) fn user(app: &App, name: Option<&str>) -> Result<User, Refusal> {
    app.settings.user(name).map_err(|error| {
        let name = name
            .filter(|n| !n.is_empty())
            .map_or_else(|| app.settings.default_user(), str::to_owned);
        Refusal::unauthorized(format!("error looking up user '{name}': {error}"))
    })
}

/// A path as given, for an account.
pub(crate) fn resolve(app: &App, user: &User, given: &str) -> Result<String, Refusal> {
    path::resolve(given, &user.home, app.settings.default_workdir().as_deref()).map_err(|error| {
        Refusal::bad_request(format!(
            "error expanding and resolving path '{given}': {error}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_values_count() {
        let query =
            Query::parse("path=a%2Fb+c&path=x&username=u&signature=v1_%2B&signature_expiration=5")
                .unwrap();
        assert_eq!(
            (query.path.as_deref(), query.username.as_deref()),
            (Some("a/b c"), Some("u"))
        );
        assert_eq!(
            (query.signature.as_deref(), query.expiration),
            (Some("v1_+"), Some(5))
        );
        assert_eq!(
            Query::parse("signature_expiration=soon")
                .unwrap_err()
                .status,
            400
        );
    }
}
