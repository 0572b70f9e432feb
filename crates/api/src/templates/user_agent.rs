//! Which promises a client knows, by the name it gives itself.

use soulbox_builder::Runtime;

const SDKS: [&str; 2] = ["e2b-js-sdk/", "e2b-python-sdk/"];
/// From this version on, templates decide about user and directory.
const V21_SINCE: [u64; 3] = [2, 3, 0];

/// An SDK whose version cannot be read. The text is after the wire's "Error when parsing user agent: ".
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid SDK version '{0}'")]
pub(crate) struct InvalidVersion(String);

/// Whoever is no SDK of E2B gets what the newest gets.
pub(crate) fn runtime(user_agent: &str) -> Result<Runtime, InvalidVersion> {
    let Some(rest) = SDKS.iter().find_map(|sdk| user_agent.strip_prefix(sdk)) else {
        return Ok(Runtime::V21);
    };
    let text = rest.split_whitespace().next().unwrap_or_default();
    let version = Version::parse(text).ok_or_else(|| InvalidVersion(text.to_owned()))?;
    Ok(
        if version
            < (Version {
                numbers: V21_SINCE,
                released: true,
            })
        {
            Runtime::V20
        } else {
            Runtime::V21
        },
    )
}

/// A version; one that is not released yet comes before the one that is.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    numbers: [u64; 3],
    released: bool,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let (text, _build) = text.split_once('+').unwrap_or((text, ""));
        let (text, released) = match text.split_once('-') {
            Some((text, _prerelease)) => (text, false),
            None => (text, true),
        };
        let mut numbers = [0; 3];
        let mut parts = text.split('.');
        for number in &mut numbers {
            *number = parts.next()?.parse().ok()?;
        }
        parts.next().is_none().then_some(Self { numbers, released })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let check = |agent: &str, want: Result<Runtime, &str>| {
            let want = want.map_err(|text| InvalidVersion(text.into()));
            assert_eq!(runtime(agent), want, "{agent}");
        };
        check("e2b-js-sdk/2.2.9", Ok(Runtime::V20));
        check("e2b-python-sdk/1.11.0", Ok(Runtime::V20));
        check("e2b-python-sdk/2.3.0", Ok(Runtime::V21));
        check("e2b-python-sdk/2.3.0-rc.1", Ok(Runtime::V20));
        check("e2b-python-sdk/2.63.0 more", Ok(Runtime::V21));
        check("e2b-js-sdk/10.0.0+x", Ok(Runtime::V21));
        check("e2b-js-sdk/x", Err("x"));
        check("e2b-js-sdk/", Err(""));
        check("e2b-js-sdk/2.3", Err("2.3"));
        check("curl/8", Ok(Runtime::V21));
        check("", Ok(Runtime::V21));
    }
}
