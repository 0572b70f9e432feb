//! Amazon's registries: a key of an account is exchanged for a password that is good for some hours.
//!
//! Requests are signed as Amazon's "Signature Version 4" says: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, Mac as _};
use http::Request;
use http_body_util::{BodyExt as _, Full, Limited};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::document::MAX_DOCUMENT_BYTES;
use crate::error::PullError;
use crate::network::Network;
use crate::session::{Login, refused};

const SERVICE: &str = "ecr";
const TARGET: &str = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
const BODY: &str = "{}";

/// A key of an account.
pub(crate) struct Key<'a> {
    pub(crate) id: &'a str,
    pub(crate) secret: &'a str,
    pub(crate) region: &'a str,
}

/// Asks for a password. `endpoint` has `{region}` where the region goes.
pub(crate) async fn login(
    network: &Network,
    endpoint: &str,
    key: &Key<'_>,
) -> Result<Login, PullError> {
    let strange = |why: String| PullError::Unreachable(format!("Amazon's token service: {why}"));
    let is_region = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if key.region.is_empty() || !key.region.bytes().all(is_region) {
        return Err(strange(format!("'{}' is no region", key.region)));
    }
    let url = Url::parse(&endpoint.replace("{region}", key.region))
        .map_err(|e| strange(e.to_string()))?;
    let time = jiff::Timestamp::now()
        .strftime("%Y%m%dT%H%M%SZ")
        .to_string();
    let signature = sign(key, url.authority(), &time);
    let request = Request::post("/")
        .header("content-type", CONTENT_TYPE)
        .header("x-amz-date", &time)
        .header("x-amz-target", TARGET)
        .header("authorization", signature)
        .body(Full::new(Bytes::from_static(BODY.as_bytes())))
        .map_err(|error| strange(error.to_string()))?;
    let answer = network.send(&url, request).await?;
    // Wrong keys are answered with 400.
    if answer.status() == http::StatusCode::BAD_REQUEST {
        return Err(PullError::Unauthorized);
    }
    let most = usize::try_from(MAX_DOCUMENT_BYTES).unwrap_or(usize::MAX);
    let body = Limited::new(refused(answer).await?.into_body(), most)
        .collect()
        .await;
    let bytes = body.map_err(|error| strange(error.to_string()))?.to_bytes();
    read(&bytes).ok_or_else(|| strange("no token".to_owned()))
}

fn read(bytes: &[u8]) -> Option<Login> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        authorization_data: Vec<Data>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Data {
        authorization_token: String,
    }
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    let token = BASE64.decode(
        answer
            .authorization_data
            .first()?
            .authorization_token
            .as_bytes(),
    );
    let pair = String::from_utf8(token.ok()?).ok()?;
    let (username, password) = pair.split_once(':')?;
    Some(Login {
        username: username.to_owned(),
        password: password.to_owned(),
    })
}

/// The value of the header that proves the key. `time` is like `20261122T101500Z`.
fn sign(key: &Key<'_>, host: &str, time: &str) -> String {
    const SIGNED: &str = "content-type;host;x-amz-date;x-amz-target";
    let day = &time[..8];
    let scope = format!("{day}/{}/{SERVICE}/aws4_request", key.region);
    let canonical = format!(
        "POST\n/\n\ncontent-type:{CONTENT_TYPE}\nhost:{host}\nx-amz-date:{time}\nx-amz-target:{TARGET}\n\n{SIGNED}\n{}",
        HEXLOWER.encode(&Sha256::digest(BODY))
    );
    let hashed = HEXLOWER.encode(&Sha256::digest(canonical));
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashed}");
    let mut signing = format!("AWS4{}", key.secret).into_bytes();
    for part in [day, key.region, SERVICE, "aws4_request"] {
        signing = hmac(&signing, part);
    }
    let signature = HEXLOWER.encode(&hmac(&signing, &text));
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={SIGNED}, Signature={signature}",
        key.id
    )
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    // HMAC takes keys of every length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return Vec::new();
    };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value was made once with Amazon's own library for Python (botocore), from the same input.
    #[test]
    fn signatures_are_those_of_amazons_own_library() {
        let key = Key {
            id: "AKIDEXAMPLE",
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
        };
        let signed = sign(&key, "api.ecr.us-east-1.amazonaws.com", "20261122T101500Z");
        assert_eq!(
            signed,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261122/us-east-1/ecr/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-target, \
             Signature=ecd001cf3b337a3739195042b01dd39b84c70b10a720dc9cf3d66c293cd195c7"
        );
    }

    #[test]
    fn tokens_are_a_name_and_a_password() {
        let token = BASE64.encode(b"AWS:pass:word");
        let text = format!(
            r#"{{"authorizationData":[{{"authorizationToken":"{token}","proxyEndpoint":"x"}}]}}"#
        );
        let login = read(text.as_bytes()).unwrap();
        assert_eq!(
            (login.username.as_str(), login.password.as_str()),
            ("AWS", "pass:word")
        );
        assert!(read(b"{}").is_none());
    }
}
