//! Files that builds copy: where to put them, and putting them there.
//!
//! The address is signed and works for half an hour without any other credential, as an object store's would: SDKs send
//! the files with no key. It says whose files they are, so that one team cannot write into another's.

use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use hmac::{Hmac, Mac};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, StatusCode, header};
use http_body_util::BodyExt as _;
use sha2::Sha256;
use soulbox_api_types::build::TemplateFileUpload;
use soulbox_builder::{Upload, UploadError};
use soulbox_types::{ErrorKind, TeamId, TemplateId, Timestamp};

use crate::auth::TeamAuth;
use crate::error::ApiError;
use crate::extract::{PathArgs, Query};
use crate::state::Shared;
use crate::templates::access::by_id;

/// The route of uploads, which take longer than other requests.
pub(crate) const ROUTE: &str = "/templates/{templateID}/files/{hash}/upload";
/// The contract's time for one upload.
pub(crate) const DEADLINE: Duration = Duration::from_hours(1);
/// How long an address can be used.
const LIFETIME: Duration = Duration::from_mins(30);
/// How long a client may send nothing.
const STALL: Duration = Duration::from_secs(60);
const HASH_LENGTH: usize = 64;
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Makes and judges the addresses of uploads.
pub(crate) struct UploadLinks {
    key: [u8; 32],
    public_url: String,
}

/// What an address allows.
struct Grant<'a> {
    template: &'a TemplateId,
    team: &'a TeamId,
    hash: &'a str,
    /// Seconds since 1970.
    expires: i64,
}

// Written by hand so that no log ever shows the key.
impl fmt::Debug for UploadLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadLinks")
            .field("public_url", &self.public_url)
            .finish_non_exhaustive()
    }
}

impl UploadLinks {
    pub(crate) fn new(key: [u8; 32], public_url: String) -> Self {
        Self { key, public_url }
    }

    fn mac(&self, grant: &Grant<'_>) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        let Grant {
            template,
            team,
            hash,
            expires,
        } = grant;
        mac.update(format!("upload\n{template}\n{team}\n{hash}\n{expires}").as_bytes());
        mac
    }

    /// The path and query of an address.
    fn target(&self, grant: &Grant<'_>) -> String {
        let signature = HEXLOWER.encode(&self.mac(grant).finalize().into_bytes());
        let Grant {
            template,
            team,
            hash,
            expires,
        } = grant;
        format!(
            "/templates/{template}/files/{hash}/upload?expires={expires}&team={team}&signature={signature}"
        )
    }

    /// Whether the signature is ours, in a time that does not depend on it.
    fn signed(&self, grant: &Grant<'_>, signature: &[u8]) -> bool {
        self.mac(grant).verify_slice(signature).is_ok()
    }

    /// The server as the caller reaches it: what it has asked for, or what the operator has said.
    fn base(&self, parts: &Parts) -> String {
        let asked = parts.uri.authority().cloned().or_else(|| {
            let host = parts.headers.get(header::HOST)?.to_str().ok()?;
            host.parse::<Authority>().ok()
        });
        let (own_scheme, _) = self.public_url.split_once("://").unwrap_or(("http", ""));
        match asked {
            Some(authority) => {
                let scheme = forwarded(&parts.headers)
                    .or_else(|| parts.uri.scheme_str())
                    .unwrap_or(own_scheme);
                format!("{scheme}://{authority}")
            }
            None => self.public_url.trim_end_matches('/').to_owned(),
        }
    }
}

/// The scheme that a proxy before this server was asked with.
fn forwarded(headers: &HeaderMap) -> Option<&'static str> {
    let value = headers.get(FORWARDED_PROTO)?.to_str().ok()?;
    ["https", "http"]
        .into_iter()
        .find(|scheme| value.eq_ignore_ascii_case(scheme))
}

/// Whether a text names uploaded files.
pub(crate) fn is_files_hash(text: &str) -> bool {
    text.len() == HASH_LENGTH && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// `GET /templates/{templateID}/files/{hash}`. The address comes also when the files are there: a client may insist.
pub(crate) async fn link(
    State(api): State<Shared>,
    TeamAuth(team): TeamAuth,
    path: PathArgs,
    parts: Parts,
) -> Result<(StatusCode, Json<TemplateFileUpload>), ApiError> {
    let (id, hash) = (path.get("templateID"), path.get("hash"));
    if !is_files_hash(hash) {
        return Err(ApiError::invalid("Invalid files hash"));
    }
    let found = by_id(&api, id).await?.map(|summary| summary.template);
    let Some(template) = found.filter(|template| template.team == team.id) else {
        return Err(ApiError::not_found(format!(
            "Error when getting template: template '{id}' not found"
        )));
    };
    let present = api.builds.uploads().present(&team.id, hash).await;
    let grant = Grant {
        template: &template.id,
        team: &team.id,
        hash,
        expires: Timestamp::now().plus(LIFETIME).unix_seconds(),
    };
    let url = api.links.base(&parts) + &api.links.target(&grant);
    let answer = TemplateFileUpload {
        present: present.map_err(ApiError::internal)?,
        url,
        headers: None,
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// `PUT` on such an address. The body goes to the disk as it comes; what is not whole leaves nothing.
pub(crate) async fn put(
    State(api): State<Shared>,
    path: PathArgs,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let team = granted(&api.links, &path, &query, Timestamp::now())?;
    let length = content_length(&headers)?;
    let uploads = api.builds.uploads();
    let upload = uploads.begin(&team, path.get("hash"), length).await;
    receive(upload.map_err(refusal)?, body).await?;
    Ok(StatusCode::OK)
}

/// Every other method on such an address.
pub(crate) async fn only_put() -> ApiError {
    let message = "files are uploaded with PUT";
    ApiError::with_status(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// Whose files an address allows to store.
fn granted(
    links: &UploadLinks,
    path: &PathArgs,
    query: &Query,
    now: Timestamp,
) -> Result<TeamId, ApiError> {
    let broken = |what: &str| {
        ApiError::invalid(format!(
            "the upload address has no valid {what}. FIX: use the address as the API gave it"
        ))
    };
    let template = path.get("templateID").parse();
    let template: TemplateId = template.map_err(|_| broken("template"))?;
    let hash = path.get("hash");
    if !is_files_hash(hash) {
        return Err(broken("files hash"));
    }
    let parameter = |name| query.text(name).unwrap_or_default();
    let expires = parameter("expires").parse();
    let expires: i64 = expires.map_err(|_| broken("expires"))?;
    let team = parameter("team").parse();
    let team: TeamId = team.map_err(|_| broken("team"))?;
    let signature = HEXLOWER.decode(parameter("signature").as_bytes());
    let signature = signature.ok().filter(|bytes| bytes.len() == 32);
    let signature = signature.ok_or_else(|| broken("signature"))?;
    let grant = Grant {
        template: &template,
        team: &team,
        hash,
        expires,
    };
    let refused = |message| ApiError::new(ErrorKind::PermissionDenied, message);
    if !links.signed(&grant, &signature) {
        return Err(refused("the signature of the upload address is wrong"));
    }
    if now.unix_seconds() >= expires {
        return Err(refused(
            "the upload address has expired. FIX: ask for a new one",
        ));
    }
    Ok(team)
}

fn content_length(headers: &HeaderMap) -> Result<u64, ApiError> {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else {
        let message = "an upload needs the header Content-Length";
        return Err(ApiError::with_status(StatusCode::LENGTH_REQUIRED, message));
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| ApiError::invalid("Content-Length is not a number"))
}

async fn receive(mut upload: Upload, mut body: Body) -> Result<(), ApiError> {
    while let Some(piece) = next_piece(&mut body).await? {
        upload.write(&piece).await.map_err(refusal)?;
    }
    upload.finish().await.map_err(refusal)
}

async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    let stalled = |_| {
        let message = "the upload has stalled";
        ApiError::with_status(StatusCode::REQUEST_TIMEOUT, message)
    };
    loop {
        let frame = tokio::time::timeout(STALL, body.frame()).await;
        match frame.map_err(stalled)? {
            None => return Ok(None),
            Some(Err(_)) => return Err(ApiError::invalid("the upload broke off")),
            // What is no data are trailers, which say nothing here.
            Some(Ok(frame)) => {
                if let Ok(piece) = frame.into_data() {
                    return Ok(Some(piece));
                }
            }
        }
    }
}

fn refusal(error: UploadError) -> ApiError {
    let text = error.to_string();
    match error {
        UploadError::TooLarge { .. } => ApiError::with_status(StatusCode::PAYLOAD_TOO_LARGE, text),
        UploadError::Full | UploadError::WrongLength { .. } | UploadError::NoArchive => {
            ApiError::new(error.kind(), text)
        }
        UploadError::Io(_) => ApiError::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn base(uri: &str, headers: &[(&str, &str)]) -> String {
        let links = UploadLinks::new([1; 32], "https://sandboxes.example/".into());
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        links.base(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn addresses_lead_back_to_where_the_question_came() {
        let check = |uri, headers: &[(&str, &str)], want: &str| {
            assert_eq!(base(uri, headers), want, "{uri} {headers:?}");
        };
        check("/x", &[], "https://sandboxes.example");
        check(
            "/x",
            &[("host", "a.example:3000")],
            "https://a.example:3000",
        );
        check("http://b.example/x", &[], "http://b.example");
        check("/x", &[("host", "no host")], "https://sandboxes.example");
        let proxied = [("host", "a.example"), ("x-forwarded-proto", "HTTP")];
        check("/x", &proxied, "http://a.example");
    }
}
