//! Who a sandbox is, for others to believe: short tokens signed by the server (JWT-SVID), and the key to check them by.
//!
//! A token is made for one request and its audience; the sandbox never sees it. The private key is sealed like a secret.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value as Json, json};
use soulbox_types::id::random_label;
use soulbox_types::{SandboxId, TeamId, Timestamp};

use crate::{Secrets, Value};

const PLACE: &str = "identity";
/// How long a token is good: long enough for clocks that differ, short enough to be of no use when it is found.
const GOOD_SECONDS: i64 = 300;
/// Clocks of others may be behind.
const BEFORE_SECONDS: i64 = 30;

/// The key of the server's tokens cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "identity.key cannot be used with this key\nFIX: restore it, or remove it to get a new one"
)]
pub struct NoIdentity;

/// What signs tokens.
pub struct Identity {
    key: EcdsaKeyPair,
    key_id: String,
    issuer: String,
}

// Written by hand so that no log ever shows the key.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("key_id", &self.key_id)
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

impl Secrets {
    /// Makes a key for tokens, sealed, as text.
    ///
    /// # Panics
    /// If the operating system gives no randomness, which no caller could act on.
    #[must_use]
    pub fn new_identity(&self) -> String {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let key = key.expect("the operating system provides randomness");
        let text = Value::new(BASE64.encode(key.as_ref()));
        BASE64.encode(&self.key.seal(PLACE, &text))
    }

    /// What signs with such a key, in the name of an issuer.
    ///
    /// # Errors
    /// When it was made under another key of secrets, or is damaged.
    pub fn identity(&self, sealed: &str, issuer: &str) -> Result<Identity, NoIdentity> {
        let sealed = BASE64.decode(sealed.trim().as_bytes());
        let opened = self.key.open(PLACE, &sealed.map_err(|_| NoIdentity)?);
        let opened = opened.map_err(|_| NoIdentity)?;
        let key = BASE64.decode(opened.expose().as_bytes());
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &key.map_err(|_| NoIdentity)?,
            &SystemRandom::new(),
        )
        .map_err(|_| NoIdentity)?;
        let print = digest(&SHA256, key.public_key().as_ref());
        let key_id = BASE64URL_NOPAD.encode(print.as_ref());
        Ok(Identity {
            key,
            key_id,
            issuer: issuer.to_owned(),
        })
    }
}

impl Identity {
    /// A token that says to an audience which sandbox sends a request.
    ///
    /// # Panics
    /// If the operating system gives no randomness, which no caller could act on.
    #[must_use]
    pub fn token(&self, sandbox: &SandboxId, team: &TeamId, audience: &str) -> Value {
        let now = Timestamp::now().0 / 1_000_000;
        let claims = json!({
            "iss": self.issuer,
            "sub": self.subject(sandbox, team),
            "aud": [audience],
            "iat": now,
            "nbf": now - BEFORE_SECONDS,
            "exp": now + GOOD_SECONDS,
            "jti": random_label(20),
            "sandbox_id": sandbox,
            "team_id": team,
        });
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": self.key_id});
        let part = |part: &Json| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
        let text = format!("{}.{}", part(&header), part(&claims));
        let signed = self.key.sign(&SystemRandom::new(), text.as_bytes());
        let signed = signed.expect("the operating system provides randomness");
        Value::new(format!(
            "{text}.{}",
            BASE64URL_NOPAD.encode(signed.as_ref())
        ))
    }

    /// SPIFFE ID §2: a trust domain is a host's name without a port.
    fn subject(&self, sandbox: &SandboxId, team: &TeamId) -> String {
        let rest = self.issuer.split_once("://").map_or("", |(_, rest)| rest);
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        format!("spiffe://{host}/team/{team}/sandbox/{sandbox}")
    }

    /// OpenID Connect Discovery 1.0 §3, as far as there is something to say.
    #[must_use]
    pub fn discovery(&self) -> Json {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/.well-known/jwks.json", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "claims_supported": ["iss", "sub", "aud", "iat", "nbf", "exp", "jti", "sandbox_id", "team_id"],
        })
    }

    /// RFC 7517: the keys that tokens are checked by.
    #[must_use]
    pub fn key_set(&self) -> Json {
        // SEC 1 §2.3.3: a byte that says "uncompressed", then both coordinates.
        let point = self.key.public_key().as_ref();
        let coordinate = |range: std::ops::Range<usize>| {
            BASE64URL_NOPAD.encode(point.get(range).unwrap_or_default())
        };
        json!({"keys": [{
            "kty": "EC",
            "crv": "P-256",
            "alg": "ES256",
            "use": "sig",
            "kid": self.key_id,
            "x": coordinate(1..33),
            "y": coordinate(33..65),
        }]})
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use soulbox_store::Store;

    use super::*;
    use crate::Key;

    async fn secrets(directory: &tempfile::TempDir, digit: &str) -> Secrets {
        let store = Store::open(&directory.path().join("soulbox.db"))
            .await
            .unwrap();
        let key = Key::parse(&digit.repeat(64)).unwrap();
        Secrets::open(store, key).await.unwrap()
    }

    #[tokio::test]
    async fn tokens_are_believed_by_who_has_the_key_set() {
        let directory = tempfile::tempdir().unwrap();
        let secrets = secrets(&directory, "a").await;
        let sealed = secrets.new_identity();
        let identity = secrets
            .identity(&sealed, "https://api.x.example:8443")
            .unwrap();
        let (sandbox, team) = (SandboxId::random(), TeamId::random());
        let token = identity.token(&sandbox, &team, "sts.example");
        let parts: Vec<&str> = token.expose().split('.').collect();
        let decode = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
        let claims: Json = serde_json::from_slice(&decode(parts[1])).unwrap();
        assert_eq!(claims["iss"], "https://api.x.example:8443");
        assert_eq!(claims["aud"], json!(["sts.example"]));
        let subject = format!("spiffe://api.x.example/team/{team}/sandbox/{sandbox}");
        assert_eq!(claims["sub"], subject.as_str());
        assert!(claims["exp"].as_i64().unwrap() > claims["iat"].as_i64().unwrap());
        let again = secrets
            .identity(&sealed, "https://api.x.example:8443")
            .unwrap();
        let keys = again.key_set();
        let known = &keys["keys"][0];
        let header: Json = serde_json::from_slice(&decode(parts[0])).unwrap();
        assert_eq!(header["kid"], known["kid"]);
        let coordinate = |name: &str| decode(known[name].as_str().unwrap());
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        let text = format!("{}.{}", parts[0], parts[1]);
        assert!(key.verify(text.as_bytes(), &decode(parts[2])).is_ok());
        assert!(key.verify(b"other", &decode(parts[2])).is_err());
        assert_eq!(identity.discovery()["issuer"], claims["iss"]);
    }

    #[tokio::test]
    async fn a_key_is_of_use_to_its_server_only() {
        let directory = tempfile::tempdir().unwrap();
        let sealed = secrets(&directory, "a").await.new_identity();
        let other = secrets(&directory, "b").await;
        assert!(other.identity(&sealed, "https://x").is_err());
        assert!(other.identity("nonsense", "https://x").is_err());
    }
}
