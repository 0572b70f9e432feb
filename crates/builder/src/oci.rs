//! An OCI image layout in one tar file, as bytes: everything that stands before and after the layer. Pure.
//!
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>. One layer, which is written by others; its
//! size and hashes must be known, because they stand in what comes before it.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use soulbox_store::{Build, Template};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const BLOCK: u64 = 512;

/// The one layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerBlob {
    /// Bytes of the compressed archive.
    pub(crate) size_bytes: u64,
    /// SHA-256 of them, hexadecimal.
    pub(crate) digest: String,
    /// SHA-256 of the archive before compression, hexadecimal.
    pub(crate) diff_id: String,
}

/// What stands around the layer in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Around {
    /// Up to the first byte of the layer.
    pub(crate) head: Vec<u8>,
    /// From its end to the end of the file.
    pub(crate) tail: Vec<u8>,
}

/// Lays the file out. `architecture` as OCI calls it.
///
/// # Errors
/// When a header cannot be written, which numbers and names of ours do not let happen.
pub(crate) fn around(
    template: &Template,
    build: &Build,
    architecture: &str,
    layer: &LayerBlob,
) -> std::io::Result<Around> {
    let labels = labels(template, build);
    let config = config(build, architecture, layer, &labels).to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &sha256(config.as_bytes()), config.len() as u64),
        "layers": [descriptor(LAYER, &layer.digest, layer.size_bytes)],
        "annotations": labels,
    })
    .to_string();
    let mut described = descriptor(
        MANIFEST,
        &sha256(manifest.as_bytes()),
        manifest.len() as u64,
    );
    described["platform"] = json!({ "architecture": architecture, "os": "linux" });
    if let Some(version) = &build.semver {
        described["annotations"] = json!({ "org.opencontainers.image.ref.name": version });
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [described] });
    let mut file = tar::Builder::new(Vec::new());
    let mut add = |name: &str, content: &[u8]| {
        file.append_data(&mut header(content.len() as u64), name, content)
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json", index.to_string().as_bytes())?;
    add(&blob(&sha256(manifest.as_bytes())), manifest.as_bytes())?;
    add(&blob(&sha256(config.as_bytes())), config.as_bytes())?;
    let mut head = std::mem::take(file.get_mut());
    let mut last = header(layer.size_bytes);
    last.set_path(blob(&layer.digest))?;
    last.set_cksum();
    head.extend_from_slice(last.as_bytes());
    Ok(Around {
        head,
        tail: vec![0; padding(layer.size_bytes)],
    })
}

/// Zeros up to the next block, and the two blocks that end an archive.
fn padding(size_bytes: u64) -> usize {
    let missing = (BLOCK - size_bytes % BLOCK) % BLOCK;
    usize::try_from(missing + 2 * BLOCK).unwrap_or(0)
}

/// A regular file that everybody may read, without a time: the same template makes the same bytes.
fn header(size_bytes: u64) -> tar::Header {
    // GNU's form, whose sizes may have more than 33 bits.
    let mut header = tar::Header::new_gnu();
    header.set_size(size_bytes);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header
}

fn blob(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

fn descriptor(media_type: &str, digest: &str, size_bytes: u64) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size_bytes })
}

fn config(
    build: &Build,
    architecture: &str,
    layer: &LayerBlob,
    labels: &Map<String, Value>,
) -> Value {
    let made = build.finished_at.unwrap_or(build.created_at).to_string();
    let env: Vec<String> = build
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut config = json!({ "User": build.default_user, "Env": env, "Labels": labels });
    if let Some(workdir) = &build.default_workdir {
        config["WorkingDir"] = json!(workdir);
    }
    json!({
        "created": made,
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.diff_id)] },
        "history": [{ "created": made, "created_by": "soulbox template export" }],
    })
}

/// What an image has no place for. What there is nothing of is left out.
fn labels(template: &Template, build: &Build) -> Map<String, Value> {
    let name = template.names.first().cloned();
    let start = build.start.as_ref();
    let labels = [
        (
            "template",
            Some(name.unwrap_or_else(|| template.id.to_string())),
        ),
        ("version", build.semver.clone()),
        ("start-command", start.map(|start| start.command.clone())),
        ("ready-command", start.map(|start| start.ready.clone())),
        ("description", template.description.clone()),
    ];
    labels
        .into_iter()
        .filter_map(|(key, value)| {
            Some((
                format!("dev.soulbox.{key}"),
                value.filter(|text| !text.is_empty())?.into(),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use soulbox_store::BuildStatus;
    use soulbox_types::{
        BuildContext, BuildId, Limits, StartCommand, TeamId, TemplateId, Timestamp,
    };

    use super::*;

    fn template() -> Template {
        Template {
            id: TemplateId::random(),
            team: TeamId::random(),
            public: false,
            is_default: false,
            aliases: vec!["mine".to_owned()],
            names: vec!["team/mine".to_owned()],
            description: Some("Runs \"it\"".to_owned()),
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
            last_spawned_at: None,
            spawn_count: 0,
        }
    }

    fn build() -> Build {
        Build {
            id: BuildId::random(),
            template: TemplateId::random(),
            status: BuildStatus::Ready,
            limits: Limits::STANDARD,
            layers: vec![],
            envd_version: String::new(),
            default_user: "user".to_owned(),
            default_workdir: Some("/app".to_owned()),
            env: BTreeMap::from([("A".to_owned(), "b=c".to_owned())]),
            start: Some(StartCommand {
                command: "serve".to_owned(),
                ready: String::new(),
                context: BuildContext::default(),
            }),
            memory: None,
            reason: None,
            version: 1,
            semver: Some("1.2.0".to_owned()),
            size_bytes: 0,
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
            finished_at: Some(Timestamp(1_735_689_600_000_000)),
        }
    }

    /// The files of a layout by name, with this layer in its place.
    fn unpacked(content: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let layer = LayerBlob {
            size_bytes: content.len() as u64,
            digest: sha256(content),
            diff_id: sha256(b"before"),
        };
        let Around { head, tail } = around(&template(), &build(), "amd64", &layer).unwrap();
        let whole = [&head[..], content, &tail[..]].concat();
        assert_eq!(whole.len() % 512, 0);
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(&whole[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        files
    }

    fn read(files: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Vec<u8> {
        let digest = descriptor["digest"]
            .as_str()
            .unwrap()
            .strip_prefix("sha256:")
            .unwrap();
        let bytes = files[&blob(digest)].clone();
        assert_eq!(descriptor["size"], bytes.len());
        assert_eq!(sha256(&bytes), digest);
        bytes
    }

    #[test]
    fn a_layout_leads_from_index_to_layer() {
        for content in [&b"layer"[..], &[7; 512], &[7; 1025]] {
            let files = unpacked(content);
            assert_eq!(files.len(), 5);
            let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
            let manifest: Value =
                serde_json::from_slice(&read(&files, &index["manifests"][0])).unwrap();
            let config: Value = serde_json::from_slice(&read(&files, &manifest["config"])).unwrap();
            assert_eq!(read(&files, &manifest["layers"][0]), content);
            assert_eq!(
                config["rootfs"]["diff_ids"][0],
                format!("sha256:{}", sha256(b"before"))
            );
            assert_eq!(config["created"], "2025-01-01T00:00:00.000000Z");
            assert_eq!(config["config"]["Env"], json!(["A=b=c"]));
            let want = json!({
                "dev.soulbox.template": "team/mine",
                "dev.soulbox.version": "1.2.0",
                "dev.soulbox.start-command": "serve",
                "dev.soulbox.description": "Runs \"it\"",
            });
            assert_eq!(
                (&config["config"]["Labels"], &manifest["annotations"]),
                (&want, &want)
            );
        }
    }

    #[test]
    fn a_layer_may_be_large() {
        let layer = LayerBlob {
            size_bytes: 20 << 30,
            digest: sha256(b""),
            diff_id: sha256(b""),
        };
        let around = around(&template(), &build(), "arm64", &layer).unwrap();
        let header = tar::Header::from_byte_slice(&around.head[around.head.len() - 512..]);
        assert_eq!(header.size().unwrap(), 20 << 30);
    }
}
