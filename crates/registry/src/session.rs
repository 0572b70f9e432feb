//! One repository of one registry: asks for its documents and layers, and says who asks when it must.

use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION, RANGE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::timeout;
use url::Url;

use crate::challenge::{self, Challenge};
use crate::document::{ACCEPTED, MAX_DOCUMENT_BYTES};
use crate::error::PullError;
use crate::network::{Network, shown};

const MOST_REDIRECTS: usize = 5;
/// A document comes within this.
const DOCUMENT_PATIENCE: Duration = Duration::from_secs(60);
/// The longest wait that a registry can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Name and password.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: String,
}

impl Login {
    fn header(&self) -> Option<HeaderValue> {
        let pair = BASE64.encode(format!("{}:{}", self.username, self.password).as_bytes());
        secret(&format!("Basic {pair}"))
    }
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// One repository.
pub(crate) struct Session<'a> {
    network: &'a Network,
    /// Ends with a slash.
    base: Url,
    repository: String,
    login: Option<Login>,
    /// What the registry took last.
    authorization: Mutex<Option<HeaderValue>>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        network: &'a Network,
        base: Url,
        repository: &str,
        login: Option<Login>,
    ) -> Self {
        Self {
            network,
            base,
            repository: repository.to_owned(),
            login,
            authorization: Mutex::new(None),
        }
    }

    /// The manifest or index of a tag or digest.
    pub(crate) async fn manifest(&self, version: &str) -> Result<Bytes, PullError> {
        let url = self.url("manifests", version)?;
        let answer = self
            .get(&url, &[(ACCEPT, HeaderValue::from_static(ACCEPTED))])
            .await?;
        document(&url, answer).await
    }

    /// A small blob, whole.
    pub(crate) async fn document(&self, digest: &str) -> Result<Bytes, PullError> {
        let url = self.url("blobs", digest)?;
        let answer = self.get(&url, &[]).await?;
        document(&url, answer).await
    }

    /// A blob from one of its bytes on. The answer says with its status whether it begins there (206) or at the first (200).
    pub(crate) async fn blob(
        &self,
        digest: &str,
        from: u64,
    ) -> Result<Response<Incoming>, PullError> {
        let url = self.url("blobs", digest)?;
        let range = HeaderValue::from_str(&format!("bytes={from}-"));
        match range {
            Ok(range) if from > 0 => self.get(&url, &[(RANGE, range)]).await,
            _ => self.get(&url, &[]).await,
        }
    }

    fn url(&self, kind: &str, version: &str) -> Result<Url, PullError> {
        let path = format!("v2/{}/{kind}/{version}", self.repository);
        self.base
            .join(&path)
            .map_err(|error| PullError::Unreachable(error.to_string()))
    }

    /// Asks, and once more when the registry wants to know who.
    async fn get(
        &self,
        url: &Url,
        headers: &[(http::HeaderName, HeaderValue)],
    ) -> Result<Response<Incoming>, PullError> {
        let known = self.authorization.lock().clone();
        let mut answer = self.follow(url, headers, known).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            let authorization = self.authorize(answer.headers()).await?;
            *self.authorization.lock() = Some(authorization.clone());
            answer = self.follow(url, headers, Some(authorization)).await?;
        }
        refused(answer).await
    }

    /// Sends a request wherever the registry sends it. Nobody but the registry learns who asks.
    async fn follow(
        &self,
        url: &Url,
        headers: &[(http::HeaderName, HeaderValue)],
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, PullError> {
        let mut url = url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let mut all: HeaderMap = headers.iter().cloned().collect();
            if let Some(authorization) = authorization
                .clone()
                .filter(|_| same_place(&url, &self.base))
            {
                all.insert(AUTHORIZATION, authorization);
            }
            let answer = self.network.send(&url, request(&url, all)?).await?;
            let next = answer
                .headers()
                .get(LOCATION)
                .and_then(|to| to.to_str().ok());
            match next {
                Some(next) if answer.status().is_redirection() => {
                    url = url.join(next).map_err(|error| {
                        PullError::Unreachable(format!("{} leads nowhere: {error}", shown(&url)))
                    })?;
                }
                _ => return Ok(answer),
            }
        }
        Err(PullError::Unreachable(format!(
            "{} leads on and on",
            shown(&url)
        )))
    }

    async fn authorize(&self, headers: &HeaderMap) -> Result<HeaderValue, PullError> {
        match challenge::read(headers) {
            Some(Challenge::Basic) => {
                let login = self.login.as_ref().and_then(Login::header);
                login.ok_or(PullError::Unauthorized)
            }
            Some(Challenge::Bearer { realm, service }) => self.token(&realm, service).await,
            None => Err(PullError::Unauthorized),
        }
    }

    /// Fetches a token that is good for pulling from this repository.
    async fn token(&self, realm: &str, service: Option<String>) -> Result<HeaderValue, PullError> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let strange =
            |why: String| PullError::Unreachable(format!("the registry's token service: {why}"));
        let mut url = Url::parse(realm).map_err(|error| strange(error.to_string()))?;
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", &service);
        }
        let scope = format!("repository:{}:pull", self.repository);
        url.query_pairs_mut().append_pair("scope", &scope);
        let mut headers = HeaderMap::new();
        if let Some(login) = self.login.as_ref().and_then(Login::header) {
            headers.insert(AUTHORIZATION, login);
        }
        let answer = self.network.send(&url, request(&url, headers)?).await?;
        let answer = refused(answer).await?;
        let bytes = document(&url, answer).await?;
        let token: Token =
            serde_json::from_slice(&bytes).map_err(|error| strange(error.to_string()))?;
        let token = token
            .token
            .or(token.access_token)
            .ok_or_else(|| strange("no token".to_owned()))?;
        secret(&format!("Bearer {token}")).ok_or_else(|| strange("no token".to_owned()))
    }
}

fn same_place(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme() && one.authority() == other.authority()
}

fn request(url: &Url, headers: HeaderMap) -> Result<Request<Full<Bytes>>, PullError> {
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let mut request = Request::get(target)
        .body(Full::default())
        .map_err(|error| PullError::Unreachable(error.to_string()))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// The answer, if it is one.
pub(crate) async fn refused(answer: Response<Incoming>) -> Result<Response<Incoming>, PullError> {
    match answer.status() {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(answer),
        StatusCode::UNAUTHORIZED => Err(PullError::Unauthorized),
        StatusCode::FORBIDDEN => Err(PullError::Forbidden),
        StatusCode::NOT_FOUND => Err(missing(answer).await),
        status => Err(PullError::Status {
            code: status.as_u16(),
            after: wait(answer.headers()),
        }),
    }
}

/// Registries say in the body what it is that they do not have.
async fn missing(answer: Response<Incoming>) -> PullError {
    let read = Limited::new(answer.into_body(), 64 * 1024).collect();
    let text = match timeout(DOCUMENT_PATIENCE, read).await {
        Ok(Ok(body)) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        _ => String::new(),
    };
    if text.contains("NAME_UNKNOWN") {
        PullError::RepositoryMissing
    } else {
        PullError::ImageMissing
    }
}

/// What `Retry-After` asks for, in its form of seconds.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

async fn document(url: &Url, answer: Response<Incoming>) -> Result<Bytes, PullError> {
    let most = usize::try_from(MAX_DOCUMENT_BYTES).unwrap_or(usize::MAX);
    let read = Limited::new(answer.into_body(), most).collect();
    match timeout(DOCUMENT_PATIENCE, read).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(PullError::Unreachable(format!("{}: {error}", shown(url)))),
        Err(_) => Err(PullError::Unreachable(format!(
            "{} is too slow",
            shown(url)
        ))),
    }
}
