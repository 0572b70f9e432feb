//! Who is asking.
//!
//! Each operation accepts some of three credentials, tried in this order: `X-API-Key`, `Authorization: Bearer`,
//! `X-Admin-Token`. The first that is present and valid wins; when none is, the first that is present says why.
//! A bearer token is an API key here: there are no users yet, and clients that know only bearer tokens still work.

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode, header};
use soulbox_store::{Team, keys};
use soulbox_types::{ErrorKind, TeamId};

use crate::error::ApiError;
use crate::observe;
use crate::state::{Api, Shared};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const ADMIN_TOKEN: HeaderName = HeaderName::from_static("x-admin-token");
const TEAM_ID: HeaderName = HeaderName::from_static("x-team-id");

/// A caller who acts for a team: by its key, or the operator in its name.
#[derive(Debug)]
pub(crate) struct TeamAuth(pub Team);

/// The operator acting for a team. Keys must not be able to make keys, so a key is not enough.
#[derive(Debug)]
pub(crate) struct TeamAdminAuth(pub Team);

/// The operator.
#[derive(Debug)]
pub(crate) struct AdminAuth;

/// Whoever may list teams.
pub(crate) enum TeamsAuth {
    /// The holder of a key sees the key's team.
    Key {
        /// The team.
        team: Team,
        /// The key itself, to be shown to its holder.
        key: String,
    },
    /// The operator sees all.
    Admin,
}

impl FromRequestParts<Shared> for TeamAuth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let mut attempts = Attempts::default();
        if let Some(team) = attempts.note(api_key(&parts.headers, api).await)? {
            return Ok(Self::noted(team));
        }
        if let Some((team, _key)) = attempts.note(bearer(&parts.headers, api).await)? {
            return Ok(Self::noted(team));
        }
        if let Some(team) = attempts.note(admin_for_team(&parts.headers, api).await)? {
            return Ok(Self::noted(team));
        }
        Err(attempts.verdict())
    }
}

impl TeamAuth {
    fn noted(team: Team) -> Self {
        observe::note_team(&team.id);
        Self(team)
    }
}

impl FromRequestParts<Shared> for TeamAdminAuth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let mut attempts = Attempts::default();
        let team = attempts.note(admin_for_team(&parts.headers, api).await)?;
        team.map(Self).ok_or_else(|| attempts.verdict())
    }
}

impl FromRequestParts<Shared> for AdminAuth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let mut attempts = Attempts::default();
        let admin = attempts.note(admin(&parts.headers, api))?;
        admin.map(|()| Self).ok_or_else(|| attempts.verdict())
    }
}

impl FromRequestParts<Shared> for TeamsAuth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let mut attempts = Attempts::default();
        if let Some((team, key)) = attempts.note(bearer(&parts.headers, api).await)? {
            return Ok(Self::Key { team, key });
        }
        if attempts.note(admin(&parts.headers, api))?.is_some() {
            return Ok(Self::Admin);
        }
        Err(attempts.verdict())
    }
}

/// What became of the credentials tried so far.
#[derive(Default)]
struct Attempts {
    first_refusal: Option<ApiError>,
}

impl Attempts {
    /// Takes the outcome of one: none when it is absent or refused. Only a refusal lets the next one be tried.
    fn note<T>(&mut self, outcome: Option<Result<T, ApiError>>) -> Result<Option<T>, ApiError> {
        match outcome {
            None => Ok(None),
            Some(Ok(caller)) => Ok(Some(caller)),
            Some(Err(error)) if error.status() == StatusCode::UNAUTHORIZED => {
                self.first_refusal.get_or_insert(error);
                Ok(None)
            }
            Some(Err(error)) => Err(error),
        }
    }

    fn verdict(self) -> ApiError {
        self.first_refusal
            .unwrap_or_else(|| unauthenticated("authorization header is missing"))
    }
}

async fn api_key(headers: &HeaderMap, api: &Api) -> Option<Result<Team, ApiError>> {
    let value = headers.get(API_KEY)?;
    let Some(raw) = value.to_str().ok().filter(|raw| is_key(raw)) else {
        return Some(Err(bad_key("Invalid API key format")));
    };
    let team = api.store.authenticate(raw).await;
    Some(
        team.map_err(ApiError::from).and_then(|team| {
            team.ok_or_else(|| bad_key("Cannot get the team for the given API key"))
        }),
    )
}

async fn bearer(headers: &HeaderMap, api: &Api) -> Option<Result<(Team, String), ApiError>> {
    let value = headers.get(header::AUTHORIZATION)?;
    let Some(token) = value
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("Bearer "))
    else {
        return Some(Err(unauthenticated("authorization header is malformed")));
    };
    Some(bearer_team(headers, api, token.trim()).await)
}

async fn bearer_team(
    headers: &HeaderMap,
    api: &Api,
    token: &str,
) -> Result<(Team, String), ApiError> {
    let team = if is_key(token) {
        api.store.authenticate(token).await?
    } else {
        None
    };
    let team = team.ok_or_else(bad_access_token)?;
    match team_id(headers)? {
        Some(id) if id != team.id => Err(not_your_team()),
        _ => Ok((team, token.to_owned())),
    }
}

fn admin(headers: &HeaderMap, api: &Api) -> Option<Result<(), ApiError>> {
    let guess = headers.get(ADMIN_TOKEN)?;
    let valid = api
        .admin_token
        .as_ref()
        .is_some_and(|token| token.matches(guess.as_bytes()));
    Some(if valid {
        Ok(())
    } else {
        Err(unauthenticated("Invalid Access token."))
    })
}

async fn admin_for_team(headers: &HeaderMap, api: &Api) -> Option<Result<Team, ApiError>> {
    match admin(headers, api)? {
        Err(refusal) => Some(Err(refusal)),
        Ok(()) => match team_id(headers) {
            Err(error) => Some(Err(error)),
            // A server with one team needs no name for it.
            Ok(None) => Some(api.store.default_team().await.map_err(ApiError::from)),
            Ok(Some(id)) => Some(team(api, &id).await),
        },
    }
}

/// The team with this id, for the operator.
pub(crate) async fn team(api: &Api, id: &TeamId) -> Result<Team, ApiError> {
    api.store
        .team(id)
        .await?
        .ok_or_else(|| ApiError::not_found("Team not found"))
}

fn team_id(headers: &HeaderMap) -> Result<Option<TeamId>, ApiError> {
    let Some(value) = headers.get(TEAM_ID) else {
        return Ok(None);
    };
    let id = value
        .to_str()
        .ok()
        .and_then(|text| text.to_ascii_lowercase().parse().ok());
    id.map(Some)
        .ok_or_else(|| ApiError::invalid("Invalid team ID"))
}

/// The form only: `e2b_` and hexadecimal digits. Whether the key exists is another question.
fn is_key(raw: &str) -> bool {
    keys::is_well_formed(raw)
}

fn unauthenticated(message: &'static str) -> ApiError {
    ApiError::new(ErrorKind::Unauthenticated, message)
}

fn bad_key(detail: &str) -> ApiError {
    let first_line =
        "Invalid API key, please visit https://e2b.dev/docs/api-key for more information.";
    ApiError::new(
        ErrorKind::Unauthenticated,
        format!("{first_line}\n{detail}"),
    )
}

fn bad_access_token() -> ApiError {
    let message = "Invalid Access token, try to login again by running `e2b auth login`.\n\
                   SoulBox has no access tokens. FIX: send an API key as X-API-Key";
    ApiError::new(ErrorKind::Unauthenticated, message)
}

/// A caller names a team that is not theirs.
pub(crate) fn not_your_team() -> ApiError {
    ApiError::new(
        ErrorKind::PermissionDenied,
        "You are not allowed to access this team",
    )
}
