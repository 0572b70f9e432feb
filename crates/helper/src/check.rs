//! Whether the helper should do what it is asked: judged as if the server had been taken over.
//!
//! Types already say most: an id is an id, a layer is a digest, and there is no path of the host in any request. The
//! paths there are, of mounts of volumes and inside of volumes, are resolved beneath a root. What is left are sizes: a request may not make the helper use up its own memory or that of the host.

use std::collections::HashSet;

use soulbox_driver::VolumeRequest;
use soulbox_types::volume::{MOST_MOUNTS, check_mount_path};
use soulbox_types::{LayerDigest, Limits, NetworkMode, SandboxSpec};

/// Layers of one template; the names of more do not fit into the options of a mount.
const LAYERS: usize = 52;
/// Layers that one request removes.
const LAYERS_REMOVED: usize = 10_000;
/// Bytes of all environment variables; the API accepts less.
const ENVIRONMENT_BYTES: usize = 1024 * 1024;
/// Sizes of volumes, in MiB.
const VOLUME_MIB: std::ops::RangeInclusive<u32> = 16..=8_388_608;
/// Length of the value of a record.
const RECORD_BYTES: usize = 43;
/// Bytes of each other text.
const TEXT_BYTES: usize = 4096;

/// Judges the value of a record: it is a digest in base64 for URLs (RFC 8555, 8.4), so that no shell finds a meaning in it.
///
/// # Errors
/// What is wrong with it.
pub fn record(value: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if value.len() == RECORD_BYTES && value.bytes().all(good) {
        Ok(())
    } else {
        Err("a record's value that is no digest".to_owned())
    }
}

/// Judges what a sandbox is to be created from.
///
/// # Errors
/// What is wrong with it.
pub fn spec(spec: &SandboxSpec) -> Result<(), String> {
    let image = &spec.image;
    if image.layers.is_empty() || image.layers.len() > LAYERS {
        return Err(format!("{} layers, not 1 to {LAYERS}", image.layers.len()));
    }
    let environment: usize = spec.env_vars.iter().map(|(k, v)| k.len() + v.len()).sum();
    if environment > ENVIRONMENT_BYTES {
        return Err(format!("{environment} bytes of environment"));
    }
    let workdir = image.default_workdir.as_deref().unwrap_or_default();
    for text in [&image.default_user, workdir, &spec.envd_access_token] {
        if text.len() > TEXT_BYTES || text.contains('\0') {
            return Err("a text that is too long or holds a zero byte".to_owned());
        }
    }
    if spec.volumes.len() > MOST_MOUNTS {
        return Err(format!("{} volumes", spec.volumes.len()));
    }
    for mount in &spec.volumes {
        check_mount_path(&mount.path).map_err(|error| error.to_string())?;
    }
    network(&spec.network)?;
    limits(&spec.limits)
}

/// Judges what a sandbox is to reach. Its entries are what they are by their types; here, how many.
///
/// # Errors
/// What is wrong with it.
pub fn network(network: &NetworkMode) -> Result<(), String> {
    match network.policy() {
        Some(policy) if !policy.fits() => Err("a network policy that is too long".to_owned()),
        _ => Ok(()),
    }
}

/// Judges a request on a volume. What is in it is judged where it is carried out; here, what it costs.
///
/// # Errors
/// What is wrong with it.
pub fn volume(request: &VolumeRequest) -> Result<(), String> {
    match request {
        VolumeRequest::Make { size_mib } if !VOLUME_MIB.contains(size_mib) => {
            Err(format!("{size_mib} MiB of volume"))
        }
        _ => Ok(()),
    }
}

/// Judges which layers are to become one. The same one twice is nothing that lies on another.
///
/// # Errors
/// What is wrong with them.
pub fn squash(layers: &[LayerDigest]) -> Result<(), String> {
    number(layers, 2, LAYERS)?;
    let different: HashSet<_> = layers.iter().collect();
    if different.len() < layers.len() {
        return Err("a layer that lies on itself".to_owned());
    }
    Ok(())
}

/// Judges which layers are to be removed.
///
/// # Errors
/// When there are none or too many.
pub fn removal(layers: &[LayerDigest]) -> Result<(), String> {
    number(layers, 1, LAYERS_REMOVED)
}

fn number(layers: &[LayerDigest], low: usize, high: usize) -> Result<(), String> {
    if (low..=high).contains(&layers.len()) {
        Ok(())
    } else {
        Err(format!("{} layers, not {low} to {high}", layers.len()))
    }
}

/// Limits that the kernel would not take, or that limit nothing.
fn limits(limits: &Limits) -> Result<(), String> {
    let ranges = [
        ("vCPUs", limits.vcpu_count, 1, 1024),
        ("MiB of memory", limits.memory_mib, 16, 16 * 1024 * 1024),
        ("processes", limits.pids, 1, 4 * 1024 * 1024),
        ("MiB of disk", limits.disk_mib, 1, 16_777_216),
    ];
    let wrong = ranges
        .iter()
        .find(|(_, value, low, high)| value < low || value > high);
    match wrong {
        Some((what, value, low, high)) => Err(format!("{value} {what}, not {low} to {high}")),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use soulbox_types::{
        Cidr, EgressPolicy, SandboxId, TemplateId, TemplateImage, VolumeId, VolumeMount,
    };

    use super::*;

    pub(crate) fn good() -> SandboxSpec {
        SandboxSpec {
            id: SandboxId::random(),
            image: TemplateImage {
                template_id: TemplateId::random(),
                layers: vec![LayerDigest::from_bytes([1; 32])],
                default_user: "user".to_owned(),
                default_workdir: None,
            },
            limits: Limits::STANDARD,
            network: NetworkMode::Internet,
            env_vars: BTreeMap::new(),
            envd_access_token: "token".to_owned(),
            volumes: Vec::new(),
            team: None,
        }
    }

    fn mount(path: &str) -> VolumeMount {
        VolumeMount {
            volume: VolumeId::random(),
            path: path.to_owned(),
        }
    }

    #[test]
    fn the_usual_is_accepted() {
        assert_eq!(super::spec(&good()), Ok(()));
        let with_volume = SandboxSpec {
            volumes: vec![mount("/data")],
            ..good()
        };
        assert_eq!(super::spec(&with_volume), Ok(()));
        for (size_mib, ok) in [(15, false), (10_240, true), (u32::MAX, false)] {
            let request = VolumeRequest::Make { size_mib };
            assert_eq!(super::volume(&request).is_ok(), ok, "{size_mib}");
        }
    }

    #[test]
    fn what_a_taken_over_server_might_ask_is_refused() {
        let changes: [fn(&mut SandboxSpec); 13] = [
            |s| s.image.layers.clear(),
            |s| s.image.layers = vec![LayerDigest::from_bytes([1; 32]); 53],
            |s| drop(s.env_vars.insert("A".into(), "x".repeat(2_000_000))),
            |s| s.image.default_user = "u".repeat(5000),
            |s| s.image.default_workdir = Some("/a\0b".into()),
            |s| s.limits.vcpu_count = 0,
            |s| s.limits.memory_mib = 0,
            |s| s.limits.pids = u32::MAX,
            |s| s.limits.disk_mib = 0,
            |s| s.volumes = vec![mount("/data"); 9],
            |s| s.volumes = vec![mount("/data/../../etc")],
            |s| s.volumes = vec![mount("/proc")],
            |s| {
                s.network = NetworkMode::Filtered(EgressPolicy {
                    deny: vec![Cidr::ALL; 1001],
                    ..EgressPolicy::default()
                });
            },
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut spec = good();
            change(&mut spec);
            assert!(super::spec(&spec).is_err(), "change {number}");
        }
    }

    #[test]
    fn layers_are_counted() {
        let layers: Vec<_> = (0..10_001_u32)
            .map(|n| {
                let mut bytes = [0; 32];
                bytes[..4].copy_from_slice(&n.to_be_bytes());
                LayerDigest::from_bytes(bytes)
            })
            .collect();
        for (count, squash, removal) in [
            (0, false, false),
            (1, false, true),
            (2, true, true),
            (52, true, true),
            (53, false, true),
            (10_000, false, true),
            (10_001, false, false),
        ] {
            let layers = &layers[..count];
            assert_eq!(super::squash(layers).is_ok(), squash, "{count}");
            assert_eq!(super::removal(layers).is_ok(), removal, "{count}");
        }
        assert!(super::squash(&[layers[0], layers[0]]).is_err());
    }

    /// No text that stands for an id or a layer can lead out of the directory it names something in.
    #[test]
    fn no_request_can_name_a_path() {
        for text in ["..", "/", "../../etc", "a/b", ""] {
            assert!(text.parse::<SandboxId>().is_err(), "{text}");
            assert!(text.parse::<LayerDigest>().is_err(), "{text}");
            assert!(text.parse::<TemplateId>().is_err(), "{text}");
        }
    }
}
