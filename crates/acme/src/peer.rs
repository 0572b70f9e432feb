//! The authority's server, as the protocol's library asks it: one connection for each request, like all of the server's
//! requests to the outside.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use parking_lot::Mutex;
use soulbox_client::{TrustError, trust_also};
use soulbox_outbound::{Outbound, Permits};
use url::Url;

/// No answer is as long: a chain of certificates has some kilobytes.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// See the module.
#[derive(Debug, Clone)]
pub struct Peer {
    outbound: Arc<Outbound>,
    /// What the last refusal has said about when to come again.
    told: Arc<Mutex<Option<Duration>>>,
}

impl Peer {
    /// Trusts what this host trusts, and the certificates of a PEM text besides.
    ///
    /// # Errors
    /// When there are none, or one of the text cannot be read.
    pub fn new(more: &[u8]) -> Result<Self, TrustError> {
        Ok(Self {
            outbound: Arc::new(Outbound::trusting(trust_also(more)?)),
            told: Arc::default(),
        })
    }

    /// How long the authority has told us to stay away, said once.
    pub(crate) fn take_told(&self) -> Option<Duration> {
        self.told.lock().take()
    }

    async fn ask(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let (mut parts, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        let url = Url::parse(&parts.uri.to_string()).map_err(other)?;
        let is_signed = parts.method == Method::POST;
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = path.parse::<Uri>()?;
        let request = Request::from_parts(parts, Full::new(body.to_bytes()));
        let answer = self.outbound.send(&OverTls, &url, request).await;
        let (parts, body) = answer.map_err(other)?.into_parts();
        if matches!(
            parts.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) {
            *self.told.lock() = retry_after(&parts.headers, SystemTime::now());
        }
        // The library takes what is not signed for a success, and reads every refusal as JSON: it would tell of a missing
        // field, or of an error in the syntax.
        let is_told = is_signed && is_json(&parts.headers);
        if !parts.status.is_success() && !is_told {
            let shown = soulbox_outbound::shown(&url);
            return Err(other(format!("{shown} answers {}", parts.status)));
        }
        let body = Limited::new(body, LONGEST_ANSWER);
        Ok(http::Response::from_parts(parts, body).into())
    }
}

impl HttpClient for Peer {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().ask(request))
    }
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Other(error.into())
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.contains("json"))
}

/// Seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(now)
            .ok(),
    }
}

/// The operator names the authority, which may be one of their own; without TLS nobody would know who answers.
struct OverTls;

impl Permits for OverTls {
    fn without_tls(&self, _url: &Url) -> bool {
        false
    }

    fn at(&self, _url: &Url, _address: IpAddr) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn when_to_come_again() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_700);
        let told = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(told("120"), Some(120));
        assert_eq!(told("Sun, 06 Nov 1994 08:49:37 GMT"), Some(77));
        assert_eq!(told("Sun, 06 Nov 1990 08:49:37 GMT"), None);
        assert_eq!(told("soon"), None);
    }
}
