//! Paths as clients write them, turned into paths of the sandbox.
//!
//! envd lives inside the sandbox's own root, so these are ordinary paths; nothing here touches the file system.

/// A path that cannot be expanded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("cannot expand user-specific home dir")]
    OtherHome,
    #[error("path contains a NUL byte")]
    Nul,
}

/// Expands a path for an account: empty is the default directory, `~` the home, relative paths start at home.
/// Absolute ones stay exactly as given, because clients compare what comes back.
pub(crate) fn resolve(path: &str, home: &str, workdir: Option<&str>) -> Result<String, PathError> {
    if path.contains('\0') {
        return Err(PathError::Nul);
    }
    if path.is_empty() {
        return match workdir {
            Some(workdir) if !workdir.is_empty() => resolve(workdir, home, None),
            _ => Ok(home.to_owned()),
        };
    }
    if path == "~" {
        return Ok(home.to_owned());
    }
    if let Some(rest) = path.strip_prefix("~/") {
        return Ok(clean(&format!("{home}/{rest}")));
    }
    if path.starts_with('~') {
        return Err(PathError::OtherHome);
    }
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    Ok(clean(&format!("{home}/{path}")))
}

/// Removes `.`, `..`, doubled and trailing slashes, by the text alone.
pub(crate) fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&"..") => parts.push(part),
                Some(_) => {
                    parts.pop();
                }
                None if absolute => {}
                None => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    match (absolute, parts.join("/")) {
        (true, joined) => format!("/{joined}"),
        (false, joined) if joined.is_empty() => ".".to_owned(),
        (false, joined) => joined,
    }
}

/// The last component, as shown to clients: `/` for the root, `.` for nothing.
pub(crate) fn base_name(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit('/').next() {
        Some("") | None if path.starts_with('/') => "/",
        Some("") | None => ".",
        Some(name) => name,
    }
}

/// Everything before the last component.
pub(crate) fn parent(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", _)) => "/",
        Some((parent, _)) => parent,
        None => ".",
    }
}

/// Appends a component without doubling the slash.
pub(crate) fn join(directory: &str, name: &str) -> String {
    if directory.ends_with('/') {
        format!("{directory}{name}")
    } else {
        format!("{directory}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table() {
        let home = "/home/user";
        let at = |path, workdir| resolve(path, home, workdir);
        assert_eq!(at("", None).unwrap(), home);
        assert_eq!(at("", Some("/code")).unwrap(), "/code");
        assert_eq!(at("", Some("code")).unwrap(), "/home/user/code");
        assert_eq!(at("~", Some("/code")).unwrap(), home);
        assert_eq!(at("~/a/../b", None).unwrap(), "/home/user/b");
        assert_eq!(at("~root", None).unwrap_err(), PathError::OtherHome);
        assert_eq!(at("/a//b/../c/", None).unwrap(), "/a//b/../c/");
        assert_eq!(at("a/./b//c/", Some("/code")).unwrap(), "/home/user/a/b/c");
        assert_eq!(at("../x", None).unwrap(), "/home/x");
        assert_eq!(at("a\0b", None).unwrap_err(), PathError::Nul);
    }

    #[test]
    fn pieces() {
        assert_eq!(
            (
                base_name("/a/b"),
                base_name("/a/b/"),
                base_name("/"),
                base_name("a")
            ),
            ("b", "b", "/", "a")
        );
        assert_eq!(
            (parent("/a/b/"), parent("/a"), parent("a")),
            ("/a", "/", ".")
        );
        assert_eq!(
            (clean("/../a"), clean("../a"), clean("a/..")),
            ("/a".into(), "../a".into(), ".".into())
        );
        assert_eq!(
            (join("/", "a"), join("/b", "a")),
            ("/a".into(), "/b/a".into())
        );
    }
}
