//! Which files of a context a source of COPY or ADD means.

use std::collections::BTreeMap;

use crate::BadDockerfile;
use crate::glob::Glob;
use crate::ignore::components;

/// Something in a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Relative to the context's root.
    pub path: &'a str,
    /// Whether it is a directory. A link to one is none.
    pub is_dir: bool,
}

/// Something that a source means. Of a directory, all that is below it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selected {
    /// Relative to the context's root, without `./`; empty for the whole context.
    pub path: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// The entries that a source means, by path. Directories that are only above an entry count as entries.
///
/// A pattern that matches nothing means nothing, as in BuildKit: `COPY package.json package-lock.json* ./`. A path that
/// is not there is an error.
///
/// # Errors
/// When the source is not in the context, leaves it, or is an address on the network.
pub fn select(entries: &[Entry<'_>], source: &str) -> Result<Vec<Selected>, BadDockerfile> {
    refuse_address(source)?;
    let wanted = components(source);
    if wanted.first() == Some(&"..") {
        return Err(
            BadDockerfile::new(format!("{source} is outside of the context"))
                .fix("build with a context that contains it, or copy it into the context first"),
        );
    }
    if wanted.is_empty() {
        return Ok(vec![Selected {
            path: String::new(),
            is_dir: true,
        }]);
    }
    let known = with_parents(entries);
    if !source.contains(['*', '?', '[']) {
        let path = wanted.join("/");
        return match known.get(path.as_str()) {
            Some(is_dir) => Ok(vec![Selected {
                path,
                is_dir: *is_dir,
            }]),
            None => Err(
                BadDockerfile::new(format!("{source} is not in the context"))
                    .fix("check the path, which starts at the context's root, and .dockerignore"),
            ),
        };
    }
    let globs: Vec<Glob> = wanted
        .iter()
        .map(|part| Glob::path(part))
        .collect::<Result<_, _>>()
        .map_err(|_| {
            BadDockerfile::new(format!("{source} is no pattern"))
                .fix("write \\ before a character that is not meant as part of a pattern")
        })?;
    let meant = known.iter().filter(|(path, _)| {
        let mut parts = path.split('/');
        globs
            .iter()
            .all(|glob| parts.next().is_some_and(|part| glob.matches(part)))
            && parts.next().is_none()
    });
    Ok(meant
        .map(|(path, is_dir)| Selected {
            path: path.clone(),
            is_dir: *is_dir,
        })
        .collect())
}

/// ADD knows addresses, here nothing does: what comes from the network is fetched by a command, in the sandbox.
pub(crate) fn refuse_address(source: &str) -> Result<(), BadDockerfile> {
    let remote = source.contains("://") || source.starts_with("git@");
    if !remote {
        return Ok(());
    }
    Err(
        BadDockerfile::new(format!("{source}: files are not fetched from the network"))
            .fix("fetch it with a command: RUN curl -fsSLo TARGET URL, or RUN git clone URL"),
    )
}

fn with_parents(entries: &[Entry<'_>]) -> BTreeMap<String, bool> {
    let mut known = BTreeMap::new();
    for entry in entries {
        let parts = components(entry.path);
        if parts.first() == Some(&"..") {
            // Nothing of a context; an archive may claim such.
            continue;
        }
        for count in 1..parts.len() {
            let parent = parts.get(..count).unwrap_or_default().join("/");
            known.insert(parent, true);
        }
        if !parts.is_empty() {
            let known = known.entry(parts.join("/")).or_default();
            *known |= entry.is_dir;
        }
    }
    known
}
