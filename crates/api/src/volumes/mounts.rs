//! Where a new sandbox has volumes.

use std::collections::HashMap;

use serde_json::{Value, json};
use soulbox_api_types::sandbox::VolumeMount as WireMount;
use soulbox_store::Team;
use soulbox_types::volume::{MOST_MOUNTS, check_mount_path};
use soulbox_types::{VolumeId, VolumeMount};

use crate::error::ApiError;
use crate::state::Api;

/// The envd from which on sandboxes can have volumes, on the wire.
const SINCE_ENVD: (u32, u32, u32) = (0, 5, 14);

/// Volumes to mount.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    pub(crate) volumes: Vec<VolumeMount>,
    /// For the sandbox's row: name and path as given, and which volume the name meant.
    pub(crate) record: Value,
}

/// Finds the volumes that are asked for, by name.
pub(crate) async fn resolve(
    api: &Api,
    team: &Team,
    asked: &[WireMount],
    envd_version: &str,
) -> Result<Mounts, ApiError> {
    if asked.is_empty() {
        return check(asked, &HashMap::new());
    }
    if version(envd_version).is_some_and(|version| version < SINCE_ENVD) {
        let (major, minor, patch) = SINCE_ENVD;
        return Err(ApiError::invalid(format!(
            "volumes are not supported; template must be rebuilt. Template envd version is {envd_version}, \
             must be at least {major}.{minor}.{patch}"
        )));
    }
    check(asked, &api.volumes.by_name(&team.id).await?)
}

fn check(asked: &[WireMount], known: &HashMap<String, VolumeId>) -> Result<Mounts, ApiError> {
    let mut volumes = Vec::with_capacity(asked.len());
    let mut taken: Vec<String> = Vec::with_capacity(asked.len());
    let mut problems = Vec::new();
    for (index, mount) in asked.iter().enumerate() {
        match one(mount, known, &taken) {
            Ok((volume, place)) => {
                taken.push(place);
                volumes.push(volume);
            }
            Err(reason) => problems.push(format!("\n\t- volume mount #{index}: {reason}")),
        }
    }
    if !problems.is_empty() {
        return Err(ApiError::invalid(format!(
            "invalid mounts:{}",
            problems.concat()
        )));
    }
    if volumes.len() > MOST_MOUNTS {
        return Err(ApiError::invalid(format!(
            "a sandbox may have at most {MOST_MOUNTS} volumes"
        )));
    }
    let record = asked.iter().zip(&volumes).map(|(mount, volume)| {
        json!({"name": mount.name, "path": mount.path, "volumeID": volume.volume})
    });
    Ok(Mounts {
        record: record.collect(),
        volumes,
    })
}

/// The volume of one entry, and its place without needless slashes.
fn one(
    mount: &WireMount,
    known: &HashMap<String, VolumeId>,
    taken: &[String],
) -> Result<(VolumeMount, String), String> {
    let WireMount { name, path } = mount;
    let volume = known.get(name);
    let volume = volume.ok_or_else(|| format!("volume '{name}' not found"))?;
    let place = check_mount_path(path).map_err(|error| error.to_string())?;
    if taken.contains(&place) {
        return Err(format!("path '{path}' is already used"));
    }
    let inside = |below: &str, above: &str| {
        let rest = below.strip_prefix(above);
        rest.is_some_and(|rest| rest.starts_with('/'))
    };
    let nested = taken
        .iter()
        .find(|other| inside(&place, other) || inside(other, &place));
    if let Some(other) = nested {
        return Err(format!(
            "path '{path}' and path '/{other}' lie in each other"
        ));
    }
    let volume = VolumeMount {
        volume: volume.clone(),
        path: format!("/{place}"),
    };
    Ok((volume, place))
}

fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.trim_start_matches('v').splitn(3, '.');
    let mut next = || {
        let digits = parts.next()?.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    };
    Some((next()?, next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(mounts: &[(&str, &str)]) -> Result<Mounts, String> {
        let known = ["a", "b"].map(|name| (name.to_owned(), VolumeId::random()));
        let mounts: Vec<WireMount> = mounts
            .iter()
            .map(|(name, path)| WireMount {
                name: (*name).to_owned(),
                path: (*path).to_owned(),
            })
            .collect();
        check(&mounts, &known.into()).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn what_is_right_is_kept_as_given() {
        let mounts = asked(&[("a", "/data/"), ("b", "/mnt//b"), ("a", "/again")]).unwrap();
        let paths: Vec<_> = mounts.volumes.iter().map(|v| v.path.as_str()).collect();
        assert_eq!(paths, ["/data", "/mnt/b", "/again"]);
        assert_eq!(mounts.volumes[0].volume, mounts.volumes[2].volume);
        assert_eq!(mounts.record[0]["path"], "/data/");
        assert_eq!(
            mounts.record[1]["volumeID"],
            mounts.volumes[1].volume.as_str()
        );
        assert_eq!(asked(&[]).unwrap().record, json!([]));
    }

    #[test]
    fn everything_that_is_wrong_is_named() {
        let refused = asked(&[
            ("none", "/x"),
            ("a", ""),
            ("a", "x"),
            ("a", "/x/../y"),
            ("a", "/ok"),
            ("b", "/ok/"),
            ("b", "/proc"),
            ("b", "/ok/below"),
        ])
        .unwrap_err();
        for line in [
            r"invalid mounts:\n\t- volume mount #0: volume 'none' not found",
            r"\n\t- volume mount #1: path cannot be empty",
            r"\n\t- volume mount #2: path must be absolute",
            r"\n\t- volume mount #3: path must not contain any '.' or '..' components",
            r"\n\t- volume mount #5: path '/ok/' is already used",
            r"\n\t- volume mount #6: path '/proc' belongs to the sandbox itself",
            r"\n\t- volume mount #7: path '/ok/below' and path '/ok' lie in each other",
        ] {
            assert!(refused.contains(line), "{line} in {refused}");
        }
        assert!(!refused.contains("#4"));
        let paths: Vec<String> = (0..9).map(|n| format!("/v{n}")).collect();
        let many: Vec<_> = paths.iter().map(|path| ("a", path.as_str())).collect();
        assert!(asked(&many).unwrap_err().contains("at most 8 volumes"));
    }

    #[test]
    fn versions() {
        assert!(version("0.5.13") < Some(SINCE_ENVD));
        assert!(version("0.6.0") > Some(SINCE_ENVD));
        assert_eq!(version("v0.5.14-x"), Some(SINCE_ENVD));
        assert_eq!(version("soon"), None);
    }
}
