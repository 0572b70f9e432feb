//! What is in a volume: looked at, listed, made, changed, removed. The token says which volume; no key is needed.

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use soulbox_api_types::volume::{
    ChangeVolumeEntry, VolumeContentError, VolumeEntryStat, VolumeEntryType,
};
use soulbox_orchestrator::{
    EntryKind, Owned, VolumeAnswer, VolumeEntry, VolumeError, VolumeRequest,
};
use soulbox_types::{ErrorKind, VolumeId};

use crate::error::ApiError;
use crate::extract::{Body, JsonBody, PathArgs, Query};
use crate::observe;
use crate::state::{Api, Shared};
use crate::volumes::code_of;
use crate::volumes::token::BadToken;

pub(crate) const PATH_ROUTE: &str = "/volumecontent/{volumeID}/path";
pub(crate) const DIRECTORY_ROUTE: &str = "/volumecontent/{volumeID}/dir";
pub(crate) const FILE_ROUTE: &str = "/volumecontent/{volumeID}/file";

const DIRECTORY_MODE: u32 = 0o755;

impl Body for ChangeVolumeEntry {}

/// A request on content that failed. Its body has a word where others have a number.
#[derive(Debug)]
pub(crate) struct ContentError(ApiError);

impl From<ApiError> for ContentError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl From<VolumeError> for ContentError {
    fn from(error: VolumeError) -> Self {
        Self(match error.kind() {
            ErrorKind::Internal => ApiError::internal(error),
            kind => ApiError::new(kind, error.to_string()),
        })
    }
}

impl IntoResponse for ContentError {
    fn into_response(self) -> Response {
        let (kind, message) = (self.0.kind(), self.0.message().to_owned());
        let code = kind.map_or("failed", code_of).to_owned();
        let (mut parts, _) = self.0.into_response().into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        let body = Json(VolumeContentError { code, message }).into_response();
        Response::from_parts(parts, body.into_body())
    }
}

/// The volume that the path names, which the token opens.
pub(crate) struct Opened(pub(crate) VolumeId);

impl FromRequestParts<Shared> for Opened {
    type Rejection = ContentError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ContentError> {
        let path = PathArgs::from_request_parts(parts, api).await?;
        Ok(Self(
            opened(api, path.get("volumeID"), &parts.headers).await?,
        ))
    }
}

async fn opened(api: &Api, named: &str, headers: &HeaderMap) -> Result<VolumeId, ApiError> {
    let unknown = |message| ApiError::new(ErrorKind::Unauthenticated, message);
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.strip_prefix("Bearer "))
        .ok_or_else(|| {
            unknown("the volume's token is missing\nFIX: send it as Authorization: Bearer")
        })?;
    let (team, id) = api
        .volume_tokens
        .judge(token.trim())
        .map_err(|bad| match bad {
            BadToken::Forged => unknown("the token is not one of a volume of this server"),
            BadToken::Expired => {
                unknown("the token has expired\nFIX: connect to the volume to get a new one")
            }
        })?;
    observe::note_team(&team);
    if !named.eq_ignore_ascii_case(id.as_str()) {
        let message = "the token is for another volume";
        return Err(ApiError::new(ErrorKind::PermissionDenied, message));
    }
    match api.volumes.get(&team, &id).await? {
        Some(_) => Ok(id),
        None => Err(ApiError::not_found("Volume not found")),
    }
}

/// The parameter that every operation has.
pub(crate) fn path(query: &Query) -> Result<String, ApiError> {
    let path = query.required("path")?;
    if path.is_empty() {
        return Err(crate::extract::violation(
            "path",
            "minimum string length is 1",
        ));
    }
    Ok(path.to_owned())
}

/// Owner and mode of what is made; root's when nothing is said.
pub(crate) fn owned(query: &Query, usual_mode: u32) -> Result<Owned, ApiError> {
    Ok(Owned {
        uid: query.number("uid", 0..=u32::MAX)?.unwrap_or(0),
        gid: query.number("gid", 0..=u32::MAX)?.unwrap_or(0),
        mode: query.number("mode", 0..=u32::MAX)?.unwrap_or(usual_mode),
    })
}

pub(crate) fn force(query: &Query) -> Result<bool, ApiError> {
    let words = [("true", true), ("false", false)];
    Ok(query.word("force", &words)?.unwrap_or(false))
}

pub(crate) async fn stat(
    State(api): State<Shared>,
    Opened(volume): Opened,
    query: Result<Query, ApiError>,
) -> Result<Json<VolumeEntryStat>, ContentError> {
    let query = query?;
    let path = path(&query)?;
    entry(&api, &volume, VolumeRequest::Stat { path }).await
}

pub(crate) async fn change(
    State(api): State<Shared>,
    Opened(volume): Opened,
    query: Result<Query, ApiError>,
    body: Result<JsonBody<ChangeVolumeEntry>, ApiError>,
) -> Result<Json<VolumeEntryStat>, ContentError> {
    let query = query?;
    let JsonBody(ChangeVolumeEntry { uid, gid, mode }) = body?;
    let request = VolumeRequest::Change {
        path: path(&query)?,
        uid,
        gid,
        mode,
    };
    entry(&api, &volume, request).await
}

pub(crate) async fn remove(
    State(api): State<Shared>,
    Opened(volume): Opened,
    query: Result<Query, ApiError>,
) -> Result<StatusCode, ContentError> {
    let query = query?;
    let path = path(&query)?;
    api.volumes
        .ask(&volume, VolumeRequest::Remove { path })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn list(
    State(api): State<Shared>,
    Opened(volume): Opened,
    query: Result<Query, ApiError>,
) -> Result<Json<Vec<VolumeEntryStat>>, ContentError> {
    let query = query?;
    let request = VolumeRequest::List {
        path: path(&query)?,
        depth: query.number("depth", 0..=u32::MAX)?.unwrap_or(1),
    };
    match api.volumes.ask(&volume, request).await? {
        VolumeAnswer::Entries(entries) => Ok(Json(entries.into_iter().map(wire).collect())),
        other => Err(strange(&other)),
    }
}

pub(crate) async fn make_directory(
    State(api): State<Shared>,
    Opened(volume): Opened,
    query: Result<Query, ApiError>,
) -> Result<(StatusCode, Json<VolumeEntryStat>), ContentError> {
    let query = query?;
    let request = VolumeRequest::MakeDirectory {
        path: path(&query)?,
        owned: owned(&query, DIRECTORY_MODE)?,
        parents: force(&query)?,
    };
    let made = entry(&api, &volume, request).await?;
    Ok((StatusCode::CREATED, made))
}

async fn entry(
    api: &Api,
    volume: &VolumeId,
    request: VolumeRequest,
) -> Result<Json<VolumeEntryStat>, ContentError> {
    match api.volumes.ask(volume, request).await? {
        VolumeAnswer::Entry(entry) => Ok(Json(wire(entry))),
        other => Err(strange(&other)),
    }
}

fn strange(answer: &VolumeAnswer) -> ContentError {
    let error = VolumeError::Host {
        operation: "ask the driver".to_owned(),
        reason: format!("an answer to something else: {answer:?}"),
    };
    ContentError(ApiError::internal(error))
}

pub(crate) fn wire(entry: VolumeEntry) -> VolumeEntryStat {
    let name = match entry.path.rsplit_once('/') {
        Some((_, name)) if !name.is_empty() => name,
        _ => "/",
    };
    let (kind, target) = match entry.kind {
        EntryKind::File => (VolumeEntryType::File, None),
        EntryKind::Directory => (VolumeEntryType::Directory, None),
        EntryKind::Link(target) => (VolumeEntryType::Symlink, Some(target)),
        EntryKind::Other => (VolumeEntryType::Unknown, None),
    };
    VolumeEntryStat {
        name: name.to_owned(),
        kind,
        size: entry.size,
        mode: entry.owned.mode,
        uid: entry.owned.uid,
        gid: entry.owned.gid,
        atime: entry.accessed.to_string(),
        mtime: entry.modified.to_string(),
        ctime: entry.changed.to_string(),
        target,
        path: entry.path,
    }
}
