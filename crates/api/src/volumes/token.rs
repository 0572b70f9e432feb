//! Tokens that open the content of one volume: JSON web tokens, signed with a key that only this server has.
//!
//! Clients take them as they are and never renew them, so they last a day. A volume that is gone opens to none.

use std::fmt;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use soulbox_types::{ExecutionId, TeamId, Timestamp, VolumeId};

const LIFETIME: Duration = Duration::from_hours(24);
/// The only header there is: a token that wants another way of signing is none of ours.
const HEADER: &str = r#"{"alg":"HS256","kid":"1","typ":"JWT"}"#;
/// The kind of store that a volume is on.
const KIND: &str = "local";
/// More than any token of ours has.
const MOST_BYTES: usize = 4096;

/// Makes and judges tokens.
pub(crate) struct VolumeTokens {
    key: [u8; 32],
    audience: String,
}

/// What a token says.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    aud: String,
    iss: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: String,
    sub: String,
    teamid: TeamId,
    volid: VolumeId,
    voltype: String,
}

/// Why a token opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadToken {
    /// Not signed by this server, or for something else.
    Forged,
    /// Its time is over.
    Expired,
}

// Written by hand so that no log ever shows the key.
impl fmt::Debug for VolumeTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeTokens(…)")
    }
}

fn hmac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

impl VolumeTokens {
    /// `seed` signs other things, too: the key of tokens is derived from it.
    pub(crate) fn new(seed: &[u8; 32], public_url: &str) -> Self {
        let mut mac = hmac(seed);
        mac.update(b"volume tokens");
        Self {
            key: mac.finalize().into_bytes().into(),
            audience: public_url.trim_end_matches('/').to_owned(),
        }
    }

    /// A token for the content of a volume.
    pub(crate) fn mint(&self, team: &TeamId, volume: &VolumeId) -> String {
        self.mint_at(team, volume, Timestamp::now())
    }

    fn mint_at(&self, team: &TeamId, volume: &VolumeId, now: Timestamp) -> String {
        let claims = Claims {
            aud: self.audience.clone(),
            iss: "soulbox".to_owned(),
            iat: now.unix_seconds(),
            nbf: now.unix_seconds(),
            exp: now.plus(LIFETIME).unix_seconds(),
            jti: ExecutionId::random().to_string(),
            sub: team.to_string(),
            teamid: team.clone(),
            volid: volume.clone(),
            voltype: KIND.to_owned(),
        };
        let claims = serde_json::to_vec(&claims).expect("texts and numbers have a JSON form");
        let signed = format!(
            "{}.{}",
            BASE64URL_NOPAD.encode(HEADER.as_bytes()),
            BASE64URL_NOPAD.encode(&claims)
        );
        let mut mac = hmac(&self.key);
        mac.update(signed.as_bytes());
        let signature = BASE64URL_NOPAD.encode(&mac.finalize().into_bytes());
        format!("{signed}.{signature}")
    }

    /// Whose volume a token opens, and which.
    pub(crate) fn judge(&self, token: &str) -> Result<(TeamId, VolumeId), BadToken> {
        self.judge_at(token, Timestamp::now())
    }

    fn judge_at(&self, token: &str, now: Timestamp) -> Result<(TeamId, VolumeId), BadToken> {
        let claims = self.opened(token).ok_or(BadToken::Forged)?;
        if now.unix_seconds() >= claims.exp {
            return Err(BadToken::Expired);
        }
        Ok((claims.teamid, claims.volid))
    }

    /// What is in a token that this server has signed. The signature is compared in a time that does not depend on it,
    /// and nothing is read that is not signed.
    fn opened(&self, token: &str) -> Option<Claims> {
        let (signed, signature) = token
            .rsplit_once('.')
            .filter(|_| token.len() <= MOST_BYTES)?;
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).ok()?;
        let mut mac = hmac(&self.key);
        mac.update(signed.as_bytes());
        mac.verify_slice(&signature).ok()?;
        let (header, claims) = signed.split_once('.')?;
        if BASE64URL_NOPAD.decode(header.as_bytes()).ok()? != HEADER.as_bytes() {
            return None;
        }
        serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> VolumeTokens {
        VolumeTokens::new(&[7; 32], "http://soulbox.test")
    }

    #[test]
    fn a_token_opens_one_volume_for_a_day() {
        let (team, volume) = (TeamId::random(), VolumeId::random());
        let now = Timestamp::now();
        let token = tokens().mint_at(&team, &volume, now);
        let opened = (team, volume);
        assert_eq!(tokens().judge_at(&token, now), Ok(opened.clone()));
        let last = now.plus(LIFETIME - Duration::from_secs(1));
        assert_eq!(tokens().judge_at(&token, last), Ok(opened));
        let over = now.plus(LIFETIME);
        assert_eq!(tokens().judge_at(&token, over), Err(BadToken::Expired));
    }

    #[test]
    fn no_other_token_opens_anything() {
        let token = tokens().mint(&TeamId::random(), &VolumeId::random());
        let other = VolumeTokens::new(&[8; 32], "http://soulbox.test");
        assert_eq!(other.judge(&token), Err(BadToken::Forged));
        let unsigned = BASE64URL_NOPAD.encode(br#"{"alg":"none","typ":"JWT"}"#);
        let claims = token.split('.').nth(1).unwrap();
        for forged in [
            String::new(),
            "a.b.c".to_owned(),
            format!("{unsigned}.{claims}."),
            token.rsplit_once('.').unwrap().0.to_owned(),
            format!("{token}."),
            "x".repeat(MOST_BYTES + 1),
        ] {
            assert_eq!(tokens().judge(&forged), Err(BadToken::Forged), "{forged}");
        }
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last character of 32 bytes has two bits that mean nothing, and must be zero.
            assert_eq!(tokens().judge(&changed), Err(BadToken::Forged), "byte {at}");
        }
    }
}
