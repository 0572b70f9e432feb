//! What every RPC reads from its headers: the account, the keepalive interval.

use std::time::Duration;

use connectrpc::{ConnectError, RequestContext, Response, ServiceStream};
use data_encoding::BASE64;
use http::header::AUTHORIZATION;

use crate::app::App;
use crate::user::User;

const KEEPALIVE_DEFAULT: Duration = Duration::from_secs(90);

/// The account named in `Authorization: Basic`, whose password is ignored, or the default one.
pub(crate) fn user(app: &App, ctx: &RequestContext) -> Result<User, ConnectError> {
    let header = ctx
        .header(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let name = header
        .and_then(basic_user)
        .unwrap_or_else(|| app.settings.default_user());
    User::find(&name)
        .map_err(|_| ConnectError::unauthenticated(format!("invalid username: '{name}'")))
}

fn basic_user(header: &str) -> Option<String> {
    let (scheme, credentials) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64.decode(credentials.trim().as_bytes()).ok()?).ok()?;
    decoded.split_once(':').map(|(name, _)| name.to_owned())
}

/// How long a stream may be silent: clients ask for it, since proxies on their way cut idle connections.
pub(crate) fn keepalive(ctx: &RequestContext) -> Duration {
    let asked = ctx
        .header("keepalive-ping-interval")
        .and_then(|value| value.to_str().ok());
    match asked.and_then(|text| text.trim().parse::<u32>().ok()) {
        Some(seconds) if seconds > 0 => Duration::from_secs(u64::from(seconds)),
        _ => KEEPALIVE_DEFAULT,
    }
}

/// A streaming answer that proxies must not collect.
pub(crate) fn streaming<T>(stream: ServiceStream<T>) -> Response<ServiceStream<T>> {
    Response::new(stream).with_header("x-accel-buffering", "no")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue};

    #[test]
    fn users_in_headers() {
        assert_eq!(basic_user("Basic dXNlcjo="), Some("user".into()));
        assert_eq!(basic_user("basic cm9vdDpzZWNyZXQ="), Some("root".into()));
        assert_eq!(basic_user("Bearer dXNlcjo="), None);
        assert_eq!(basic_user("Basic !!!"), None);
        assert_eq!(basic_user("Basic"), None);
    }

    #[test]
    fn keepalive_intervals() {
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("keepalive-ping-interval"),
                HeaderValue::from_str(value).unwrap(),
            )]);
            keepalive(&RequestContext::new(headers)).as_secs()
        };
        assert_eq!((of("50"), of("0"), of("-1"), of("x")), (50, 90, 90, 90));
    }
}
