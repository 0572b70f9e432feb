//! Names of images, as people write them.

use std::fmt;

use crate::document::Digest;

/// The registry that a name without one means, and where it is.
const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";
const HUB_NAMES: [&str; 3] = [HUB, "index.docker.io", HUB_HOST];
/// Repositories of the hub that have no owner belong to this one.
const HUB_LIBRARY: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MOST_NAME: usize = 255;
const MOST_TAG: usize = 128;

/// A name of an image: `debian`, `ghcr.io/owner/image:1.2`, `localhost:5000/x@sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    written: String,
    registry: String,
    repository: String,
    tag: String,
    digest: Option<Digest>,
}

/// A name that no image can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{written}' is no name of an image: {why}\nFIX: write it like debian:12 or registry.example/team/image:1.0"
)]
pub struct BadReference {
    written: String,
    why: &'static str,
}

impl Reference {
    /// Reads a name.
    ///
    /// # Errors
    /// When it is none; the text says why.
    pub fn parse(written: &str) -> Result<Self, BadReference> {
        let bad = |why| BadReference {
            written: written.chars().take(300).collect(),
            why,
        };
        let (rest, digest) = match written.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|()| bad("after @ comes sha256: and 64 hexadecimal digits"))?;
                (rest, Some(digest))
            }
            None => (written, None),
        };
        let (registry, path) = match rest.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, path)
            }
            _ => (HUB, rest),
        };
        let (path, tag) = match path.rsplit_once(':') {
            Some((path, tag)) => (path, tag),
            None => (path, DEFAULT_TAG),
        };
        if !is_host(registry) {
            return Err(bad("the registry is no host name"));
        }
        if !is_tag(tag) {
            return Err(bad(
                "a tag has at most 128 letters, digits, dots, dashes and underscores",
            ));
        }
        if !is_path(path) {
            return Err(bad(
                "a repository has lower-case letters, digits, and single separators",
            ));
        }
        let is_hub = HUB_NAMES.contains(&registry);
        let library = if is_hub && !path.contains('/') {
            HUB_LIBRARY
        } else {
            ""
        };
        Ok(Self {
            written: written.to_owned(),
            registry: if is_hub {
                HUB.to_owned()
            } else {
                registry.to_ascii_lowercase()
            },
            repository: format!("{library}{path}"),
            tag: tag.to_owned(),
            digest,
        })
    }

    /// The registry as people call it: `docker.io`, `ghcr.io`, `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The host, with its port where one is written, that serves it.
    #[must_use]
    pub fn host(&self) -> &str {
        if self.registry == HUB {
            HUB_HOST
        } else {
            &self.registry
        }
    }

    /// The repository at that host.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// What its manifest is asked for by: the digest where there is one, else the tag.
    #[must_use]
    pub fn version(&self) -> String {
        match &self.digest {
            Some(digest) => digest.to_string(),
            None => self.tag.clone(),
        }
    }

    /// What the manifest must hash to, where the name says so.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

impl fmt::Display for Reference {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    let good_name = !name.is_empty()
        && name.len() <= MOST_NAME
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    good_name && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MOST_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_path(text: &str) -> bool {
    !text.is_empty() && text.len() <= MOST_NAME && text.split('/').all(is_component)
}

/// Letters and digits, with one of `.`, `_`, `__` or any number of `-` between them.
fn is_component(text: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(is_letter)
        && text.ends_with(is_letter)
        && text.split(is_letter).all(|between| {
            matches!(between, "" | "." | "_" | "__") || between.chars().all(|c| c == '-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:9b2a9a2c0f4b4a3d8a2c6f3c0e7d1b5a9b2a9a2c0f4b4a3d8a2c6f3c0e7d1b5a";

    #[test]
    fn names_mean_what_they_mean_elsewhere() {
        let pinned = format!("ghcr.io/o/i:1@{DIGEST}");
        for (written, registry, host, repository, version) in [
            ("debian", HUB, HUB_HOST, "library/debian", "latest"),
            ("debian:12", HUB, HUB_HOST, "library/debian", "12"),
            ("docker.io/debian:12", HUB, HUB_HOST, "library/debian", "12"),
            ("e2bdev/base", HUB, HUB_HOST, "e2bdev/base", "latest"),
            ("index.docker.io/a/b", HUB, HUB_HOST, "a/b", "latest"),
            ("localhost/x", "localhost", "localhost", "x", "latest"),
            (
                "Localhost:5000/x/y:v1.0",
                "localhost:5000",
                "localhost:5000",
                "x/y",
                "v1.0",
            ),
            (
                "10.0.0.1:5000/x",
                "10.0.0.1:5000",
                "10.0.0.1:5000",
                "x",
                "latest",
            ),
            (&pinned, "ghcr.io", "ghcr.io", "o/i", DIGEST),
        ] {
            let parsed = Reference::parse(written).unwrap();
            assert_eq!(parsed.registry(), registry, "{written}");
            assert_eq!(parsed.host(), host, "{written}");
            assert_eq!(parsed.repository(), repository, "{written}");
            assert_eq!(parsed.version(), version, "{written}");
            assert_eq!(parsed.to_string(), written);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for written in [
            "",
            "UPPER",
            "a b",
            "a//b",
            "a/../b",
            "-a",
            "a_",
            "a..b",
            "a:",
            "a:ta g",
            "a@sha256:12",
            "a@md5:00",
            "http://a/b",
            "host.example:99999/a",
            "host.example:0/a",
            "user@host.example/a",
            "a?x=1",
            "-x.example/a",
        ] {
            let error = Reference::parse(written).unwrap_err().to_string();
            assert!(error.contains("FIX: "), "{written}: {error}");
        }
    }
}
