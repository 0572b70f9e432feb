//! What registries and image layouts say about an image.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Documents are not larger than this.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Images have at most so many layers.
pub const MAX_LAYERS: usize = 256;
/// Kinds of manifests and indexes that are asked for.
pub const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// A SHA-256, written `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_hash(Sha256::new_with_prefix(bytes))
    }

    pub(crate) fn of_hash(hash: Sha256) -> Self {
        Self(data_encoding::HEXLOWER.encode(&hash.finalize()))
    }

    /// The digits alone.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let hex = text.strip_prefix("sha256:").ok_or(())?;
        let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        (hex.len() == 64 && hex.bytes().all(is_hex))
            .then(|| Self(hex.to_owned()))
            .ok_or(())
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
            .map_err(|()| format!("'{text}' is no SHA-256 digest"))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One thing that a document points at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its kind.
    #[serde(default)]
    pub media_type: String,
    /// What it hashes to.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// For whom, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// A kind of machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
}

/// A manifest: what an image consists of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// Either of the two documents that a name can stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// The same image for several machines.
    Index(Vec<Descriptor>),
}

/// A document that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadDocument(pub(crate) String);

impl Document {
    /// Reads a manifest or an index. What it is shows in what it holds: media types are not always told.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadDocument> {
        #[derive(Deserialize)]
        struct Either {
            #[serde(default)]
            manifests: Option<Vec<Descriptor>>,
            #[serde(default, rename = "schemaVersion")]
            schema_version: u32,
        }
        let bad =
            |error: serde_json::Error| BadDocument(format!("the manifest cannot be read: {error}"));
        let either: Either = serde_json::from_slice(bytes).map_err(bad)?;
        if let Some(manifests) = either.manifests {
            return Ok(Self::Index(manifests));
        }
        if either.schema_version == 1 {
            let text = "the manifest is of the first kind, which registries gave up: push the image again with a newer client";
            return Err(BadDocument(text.to_owned()));
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(bad)?;
        if manifest.layers.len() > MAX_LAYERS {
            let text = format!("the image has more than {MAX_LAYERS} layers");
            return Err(BadDocument(text));
        }
        Ok(Self::Manifest(manifest))
    }
}

/// The one of an index that is for this machine.
///
/// # Errors
/// When there is none; the text is the wire's.
pub fn choose<'a>(
    index: &'a [Descriptor],
    architecture: &str,
) -> Result<&'a Descriptor, BadDocument> {
    let fits = |descriptor: &&Descriptor| {
        let platform = descriptor.platform.as_ref();
        platform
            .is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture)
    };
    // An index of one that says nothing is what tools write for themselves.
    let only = || {
        index
            .first()
            .filter(|one| index.len() == 1 && one.platform.is_none())
    };
    index.iter().find(fits).or_else(only).ok_or_else(|| {
        let mut others: Vec<&str> = index
            .iter()
            .filter_map(|one| Some(one.platform.as_ref()?.architecture.as_str()))
            .filter(|name| *name != "unknown")
            .collect();
        others.sort_unstable();
        others.dedup();
        wrong_architecture(&others.join(", "), architecture)
    })
}

fn wrong_architecture(found: &str, wanted: &str) -> BadDocument {
    BadDocument(format!(
        "image architecture \"{found}\" does not match expected \"{wanted}\""
    ))
}

/// What an image says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ImageConfig {
    /// `amd64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// How programs are started in it.
    #[serde(default)]
    pub config: Execution,
    /// Its layers once more, uncompressed.
    #[serde(default)]
    pub rootfs: RootFs,
}

/// How programs are started in an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Execution {
    /// `NAME=value` each.
    pub env: Option<Vec<String>>,
    /// User, and perhaps group: names or numbers.
    pub user: Option<String>,
    /// Directory.
    pub working_dir: Option<String>,
    /// What is always run.
    pub entrypoint: Option<Vec<String>>,
    /// What is run unless something else is said, or the arguments of `entrypoint`.
    pub cmd: Option<Vec<String>>,
    /// Free words.
    pub labels: Option<BTreeMap<String, String>>,
}

/// The layers of an image, uncompressed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct RootFs {
    /// SHA-256 of each archive, lowest first.
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

/// An image, ready to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What the manifest hashes to. Says everything about the image.
    pub digest: Digest,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
    /// What it says about itself.
    pub config: ImageConfig,
}

impl Image {
    /// Puts together what was read, if it belongs together.
    ///
    /// # Errors
    /// When it does not, or is for another machine.
    pub fn of(
        digest: Digest,
        manifest: Manifest,
        config: &[u8],
        architecture: &str,
    ) -> Result<Self, BadDocument> {
        let config: ImageConfig = serde_json::from_slice(config).map_err(|error| {
            BadDocument(format!("the image's configuration cannot be read: {error}"))
        })?;
        if !config.architecture.is_empty() && config.architecture != architecture {
            return Err(wrong_architecture(&config.architecture, architecture));
        }
        let ids = config.rootfs.diff_ids.len();
        if ids != manifest.layers.len() {
            let text = format!(
                "the image has {} layers and describes {ids}",
                manifest.layers.len()
            );
            return Err(BadDocument(text));
        }
        Ok(Self {
            digest,
            layers: manifest.layers,
            config,
        })
    }

    /// The variables it starts programs with.
    #[must_use]
    pub fn env(&self) -> BTreeMap<String, String> {
        let pairs = self.config.config.env.iter().flatten();
        pairs
            .filter_map(|pair| pair.split_once('='))
            .filter(|(name, value)| {
                !name.is_empty() && !value.contains('\0') && !name.contains('\0')
            })
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

/// What registries call this machine's architecture.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(architecture: Option<&str>) -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest: Digest::of(architecture.unwrap_or_default().as_bytes()),
            size: 1,
            platform: architecture.map(|architecture| Platform {
                architecture: architecture.to_owned(),
                os: "linux".to_owned(),
            }),
        }
    }

    #[test]
    fn an_index_has_one_for_this_machine_or_says_which_it_has() {
        let index = ["amd64", "arm64", "unknown"].map(|name| descriptor(Some(name)));
        assert_eq!(choose(&index, "arm64"), Ok(&index[1]));
        let error = choose(&index, "riscv64").unwrap_err().to_string();
        assert_eq!(
            error,
            "image architecture \"amd64, arm64\" does not match expected \"riscv64\""
        );
        assert_eq!(choose(&[descriptor(None)], "amd64"), Ok(&descriptor(None)));
    }

    #[test]
    fn documents_are_told_apart_by_what_they_hold() {
        let zero = "0".repeat(64);
        let one = format!(r#"{{"digest":"sha256:{zero}","size":3,"mediaType":"x"}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{one},"layers":[{one}]}}"#);
        assert!(matches!(
            Document::parse(manifest.as_bytes()),
            Ok(Document::Manifest(_))
        ));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{one}]}}"#);
        assert!(matches!(
            Document::parse(index.as_bytes()),
            Ok(Document::Index(_))
        ));
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            r#"{"config":{"digest":"x","size":1}}"#,
        ] {
            assert!(Document::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_image_must_fit_together_and_to_the_machine() {
        let manifest = Manifest {
            config: descriptor(None),
            layers: vec![descriptor(None)],
        };
        let of =
            |text: &str| Image::of(Digest::of(b"m"), manifest.clone(), text.as_bytes(), "amd64");
        let zero = "0".repeat(64);
        let rootfs = format!(r#""rootfs":{{"type":"layers","diff_ids":["sha256:{zero}"]}}"#);
        let good = format!(
            r#"{{"architecture":"amd64","config":{{"Env":["A=1","B=x=y","bad"],"Cmd":null}},{rootfs}}}"#
        );
        let image = of(&good).unwrap();
        assert_eq!(
            image.env().into_iter().collect::<Vec<_>>(),
            [("A".into(), "1".into()), ("B".into(), "x=y".into())]
        );
        let other = format!(r#"{{"architecture":"arm64",{rootfs}}}"#);
        assert!(
            of(&other)
                .unwrap_err()
                .to_string()
                .contains("does not match")
        );
        assert!(
            of(r#"{"architecture":"amd64"}"#)
                .unwrap_err()
                .to_string()
                .contains("describes 0")
        );
        assert!(of("[").is_err());
    }

    #[test]
    fn digests_are_read_strictly() {
        let text = Digest::of(b"abc").to_string();
        assert_eq!(
            text,
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(text.parse(), Ok(Digest::of(b"abc")));
        for bad in [
            "",
            "sha256:",
            "sha512:00",
            &text.to_uppercase(),
            &text[..70],
            "sha256:../../../etc",
        ] {
            assert_eq!(bad.parse::<Digest>(), Err(()), "{bad}");
        }
    }
}
