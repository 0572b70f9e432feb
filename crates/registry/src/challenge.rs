//! How a registry says whom it wants to know.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// What to do about a 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// Send name and password.
    Basic,
    /// Fetch a token there.
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

/// The first challenge that can be answered.
pub(crate) fn read(headers: &HeaderMap) -> Option<Challenge> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter();
    let mut found: Vec<Challenge> = texts
        .filter_map(|text| http_auth::parse_challenges(text.to_str().ok()?).ok())
        .flatten()
        .filter_map(|challenge| {
            let parameter = |name: &str| {
                let mut all = challenge.params.iter();
                all.find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                Some(Challenge::Bearer {
                    realm: parameter("realm")?,
                    service: parameter("service"),
                })
            } else {
                challenge
                    .scheme
                    .eq_ignore_ascii_case("basic")
                    .then_some(Challenge::Basic)
            }
        })
        .collect();
    // A token says less than a password.
    found.sort_by_key(|challenge| *challenge == Challenge::Basic);
    found.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(texts: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for text in texts {
            headers.append(WWW_AUTHENTICATE, text.parse().unwrap());
        }
        read(&headers)
    }

    #[test]
    fn tokens_come_before_passwords() {
        let bearer = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("registry.example".to_owned()),
        };
        let text =
            "Bearer realm=\"https://auth.example/token\",service=\"registry.example\",scope=\"x\"";
        assert_eq!(challenge(&[text]), Some(bearer.clone()));
        assert_eq!(challenge(&["Basic realm=\"r\"", text]), Some(bearer));
        assert_eq!(challenge(&["basic realm=\"r\""]), Some(Challenge::Basic));
        for nothing in [
            &[][..],
            &["Digest realm=\"r\""],
            &["Bearer service=\"x\""],
            &["Bearer realm=\""],
        ] {
            assert_eq!(challenge(nothing), None, "{nothing:?}");
        }
    }
}
