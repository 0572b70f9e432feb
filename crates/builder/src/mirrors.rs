//! Mirrors of package servers: what an operator may set, and the script that makes a root file system use them.
//!
//! The script changes what the distribution has written and adds files where there are none; what an owner of a
//! template has written stays. Every value is an argument of it, never a part of its text.

use std::collections::BTreeMap;

/// Where packages and images are taken from instead of their usual places. Addresses begin with `http://` or
/// `https://` and have no slash at their end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirrors {
    /// Stands for the servers of Debian and Ubuntu: below it are `debian`, `debian-security`, `ubuntu` and
    /// `ubuntu-ports`.
    pub apt: Option<String>,
    /// An index of Python packages, for example `https://mirror.example/simple`.
    pub pip: Option<String>,
    /// A registry of npm.
    pub npm: Option<String>,
    /// Registry of images, as it stands in their names (`docker.io`), and what is asked instead of it.
    pub registries: BTreeMap<String, String>,
}

/// Why a text is no address of a mirror, as what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMirror {
    /// Of a package server.
    #[error("an address such as https://mirror.example/path, without name, password, ? and #")]
    Address,
    /// Of a registry.
    #[error(
        "registry=address pairs such as docker.io=https://mirror.example, separated by commas, each registry once"
    )]
    Registries,
}

impl Mirrors {
    /// Reads an address; an empty text is none.
    ///
    /// # Errors
    /// When it is not one.
    pub fn address(text: &str) -> Result<Option<String>, BadMirror> {
        let text = text.trim().trim_end_matches('/');
        if text.is_empty() {
            return Ok(None);
        }
        let (scheme, rest) = text.split_once("://").ok_or(BadMirror::Address)?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let in_path = |b: u8| b.is_ascii_alphanumeric() || b"-._~/%+:".contains(&b);
        let good = matches!(scheme, "http" | "https") && is_host(host) && path.bytes().all(in_path);
        good.then(|| Some(text.to_owned()))
            .ok_or(BadMirror::Address)
    }

    /// Reads pairs of a registry and its mirror, separated by commas.
    ///
    /// # Errors
    /// When one of them is none, or a registry stands there twice.
    pub fn registries(text: &str) -> Result<BTreeMap<String, String>, BadMirror> {
        let mut registries = BTreeMap::new();
        for pair in text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
        {
            let (registry, mirror) = pair.split_once('=').ok_or(BadMirror::Registries)?;
            let registry = registry.trim().to_ascii_lowercase();
            let mirror = Self::address(mirror).ok().flatten();
            let mirror = mirror
                .filter(|_| is_host(&registry))
                .ok_or(BadMirror::Registries)?;
            if registries.insert(registry, mirror).is_some() {
                return Err(BadMirror::Registries);
            }
        }
        Ok(registries)
    }

    /// The arguments of [`SCRIPT`] for the root file system that it runs in; `None` when there is nothing to do.
    #[must_use]
    pub fn arguments(&self) -> Option<[&str; 4]> {
        let text = |mirror: &Option<String>| mirror.is_some();
        let any = text(&self.apt) || text(&self.pip) || text(&self.npm);
        let [apt, pip, npm] = [&self.apt, &self.pip, &self.npm].map(|m| m.as_deref().unwrap_or(""));
        any.then_some([apt, pip, npm, ""])
    }
}

/// A name or an IPv4 address, or an IPv6 address in brackets, with or without a port.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or("no port"))),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let bracketed = text.starts_with('[');
    let good_host = if bracketed {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        let part = |part: &str| {
            let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            !part.is_empty() && part.bytes().all(good)
        };
        host.split('.').all(part)
    };
    good_host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Makes a root file system use mirrors. For `sh`; runs as root and needs only `sed`, `grep` and the smallest programs.
///
/// Arguments: mirror of apt, of pip, of npm, each empty where there is none; root (empty for `/`).
///
/// - apt: addresses of the servers of Debian and Ubuntu are replaced in `sources.list`, in lists and `.sources` files
///   below `sources.list.d`, and in the lists of mirrors that cloud images have. Comments and other servers stay.
/// - pip, npm: `/etc/pip.conf` and `npmrc` (in `/etc`, and where the installed npm looks for it) say it, between two
///   marks, unless somebody else has said where packages come from.
pub const SCRIPT: &str = r#"
set -eu
apt=$1 pip=$2 npm=$3 root=$4
begin='# mirror, set by soulbox' end='# end of what soulbox has set'

rewrite() {
  [ -f "$1" ] || return 0
  # What sed takes for more than itself.
  to=$(printf '%s' "$apt" | sed 's/[&\\#]/\\&/g')
  sed -E -i -e "/^[[:space:]]*#/b" \
    -e "s#https?://security\.debian\.org(/debian-security)?(/|([[:space:]])|\$)#$to/debian-security\2#g" \
    -e "s#https?://(deb|(ftp|http)(\.[a-z]+)?|[a-z]+\.deb|cdn-fastly\.deb)\.debian\.org/#$to/#g" \
    -e "s#https?://([a-z.-]+\.)?archive\.ubuntu\.com/#$to/#g" \
    -e "s#https?://(security|ports)\.ubuntu\.com/#$to/#g" "$1"
}

# set_in FILE KEY TEXT [SECTION]: puts lines into a file, after the section's head where it has one.
set_in() {
  mkdir -p "$(dirname "$1")"
  [ -e "$1" ] || : >"$1"
  sed -i "/^$begin\$/,/^$end\$/d" "$1"
  if grep -Eq "^[[:space:]]*$2[[:space:]]*=" "$1"; then return 0; fi
  if [ -n "${4:-}" ] && ! grep -qxF "$4" "$1"; then printf '%s\n' "$4" >>"$1"; fi
  block=$(printf '%s\n%s\n%s' "$begin" "$3" "$end")
  put=
  {
    [ -n "${4:-}" ] || printf '%s\n' "$block"
    while IFS= read -r line || [ -n "$line" ]; do
      printf '%s\n' "$line"
      if [ -z "$put" ] && [ "$line" = "${4:-}" ] && [ -n "$line" ]; then
        printf '%s\n' "$block"
        put=yes
      fi
    done <"$1"
  } >"$1.soulbox"
  # Into the file that is there: it keeps its owner and mode.
  cat "$1.soulbox" >"$1"
  rm -f "$1.soulbox"
}

if [ -n "$apt" ]; then
  for file in "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/*.list \
    "$root"/etc/apt/sources.list.d/*.sources "$root"/etc/apt/mirrors/*.list; do
    rewrite "$file"
  done
fi

if [ -n "$pip" ]; then
  lines="index-url = $pip"
  case $pip in
    http://*)
      host=${pip#http://}
      lines=$(printf '%s\ntrusted-host = %s' "$lines" "${host%%/*}")
      ;;
  esac
  set_in "$root/etc/pip.conf" index-url "$lines" '[global]'
fi

if [ -n "$npm" ]; then
  for prefix in '' /usr /usr/local; do
    # npm reads `etc/npmrc` below its own prefix; Debian's reads the one in /etc.
    if [ -n "$prefix" ] && [ ! -e "$root$prefix/bin/npm" ] && [ ! -h "$root$prefix/bin/npm" ]; then continue; fi
    set_in "$root$prefix/etc/npmrc" registry "registry=$npm/"
  done
fi
"#;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn run(root: &Path, apt: &str, pip: &str, npm: &str) {
        let output = Command::new("sh")
            .args(["-c", SCRIPT, "sh", apt, pip, npm])
            .arg(root)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(root: &Path, name: &str) -> String {
        fs::read_to_string(root.join(name)).unwrap()
    }

    #[test]
    fn sources_of_both_formats() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(
            root,
            "etc/apt/sources.list",
            "# deb http://deb.debian.org/debian old main\n\
             deb http://deb.debian.org/debian bookworm main\n\
             deb [signed-by=/k] https://security.debian.org/debian-security bookworm-security main\n\
             deb http://security.debian.org buster/updates main\n\
             deb http://ftp.de.debian.org/debian/ bookworm main\n\
             deb https://packages.example/debian stable main\n",
        );
        write(
            root,
            "etc/apt/sources.list.d/ubuntu.sources",
            "Types: deb\nURIs: http://de.archive.ubuntu.com/ubuntu/ http://security.ubuntu.com/ubuntu\nSuites: noble\n\n\
             URIs: http://ports.ubuntu.com/ubuntu-ports\n",
        );
        write(
            root,
            "etc/apt/sources.list.d/debian.sources",
            "URIs: http://deb.debian.org/debian-security\n",
        );
        write(
            root,
            "etc/apt/mirrors/debian.list",
            "https://deb.debian.org/debian\n",
        );
        // Twice: what is done is not done again.
        for _ in 0..2 {
            run(root, "https://m.example:8443/a&b", "", "");
        }
        assert_eq!(
            read(root, "etc/apt/sources.list"),
            "# deb http://deb.debian.org/debian old main\n\
             deb https://m.example:8443/a&b/debian bookworm main\n\
             deb [signed-by=/k] https://m.example:8443/a&b/debian-security bookworm-security main\n\
             deb https://m.example:8443/a&b/debian-security buster/updates main\n\
             deb https://m.example:8443/a&b/debian/ bookworm main\n\
             deb https://packages.example/debian stable main\n"
        );
        assert_eq!(
            read(root, "etc/apt/sources.list.d/ubuntu.sources"),
            "Types: deb\nURIs: https://m.example:8443/a&b/ubuntu/ https://m.example:8443/a&b/ubuntu\nSuites: noble\n\n\
             URIs: https://m.example:8443/a&b/ubuntu-ports\n"
        );
        assert_eq!(
            read(root, "etc/apt/sources.list.d/debian.sources"),
            "URIs: https://m.example:8443/a&b/debian-security\n"
        );
        assert_eq!(
            read(root, "etc/apt/mirrors/debian.list"),
            "https://m.example:8443/a&b/debian\n"
        );
        assert!(!root.join("etc/pip.conf").exists() && !root.join("etc/npmrc").exists());
    }

    #[test]
    fn pip_and_npm_are_told_where_nobody_else_has() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(root, "usr/local/bin/npm", "");
        run(
            root,
            "",
            "http://m.example:8080/simple",
            "https://n.example",
        );
        let between =
            |text: &str| format!("# mirror, set by soulbox\n{text}# end of what soulbox has set\n");
        let pip = "index-url = http://m.example:8080/simple\ntrusted-host = m.example:8080\n";
        assert_eq!(
            read(root, "etc/pip.conf"),
            format!("[global]\n{}", between(pip))
        );
        for file in ["etc/npmrc", "usr/local/etc/npmrc"] {
            assert_eq!(
                read(root, file),
                between("registry=https://n.example/\n"),
                "{file}"
            );
        }
        assert!(!root.join("usr/etc").exists());
        run(root, "", "https://other.example/$(x)", "");
        let pip = between("index-url = https://other.example/$(x)\n");
        assert_eq!(read(root, "etc/pip.conf"), format!("[global]\n{pip}"));
        // What else is in the files stays, and so does a choice of somebody else.
        write(
            root,
            "etc/pip.conf",
            "[install]\nuser = no\n[global]\ntimeout = 5",
        );
        write(root, "etc/npmrc", "fund=false\n");
        for _ in 0..2 {
            run(root, "", "https://m.example", "https://n.example");
        }
        let pip = between("index-url = https://m.example\n");
        let expected = format!("[install]\nuser = no\n[global]\n{pip}timeout = 5\n");
        assert_eq!(read(root, "etc/pip.conf"), expected);
        let npm = format!("{}fund=false\n", between("registry=https://n.example/\n"));
        assert_eq!(read(root, "etc/npmrc"), npm);
        write(
            root,
            "etc/pip.conf",
            "[global]\nindex-url=https://mine.example\n",
        );
        write(root, "etc/npmrc", "registry = https://mine.example\n");
        run(root, "", "https://m.example", "https://n.example");
        assert_eq!(
            read(root, "etc/pip.conf"),
            "[global]\nindex-url=https://mine.example\n"
        );
        assert_eq!(read(root, "etc/npmrc"), "registry = https://mine.example\n");
    }

    #[test]
    fn addresses() {
        let good = |text: &str| Mirrors::address(text).unwrap();
        assert_eq!(good(" "), None);
        assert_eq!(
            good("https://m.example/"),
            Some("https://m.example".to_owned())
        );
        for text in [
            "http://10.0.0.1:8081/repository/apt",
            "https://[::1]:80/x",
            "http://[fd00::1]",
        ] {
            assert_eq!(good(text).as_deref(), Some(text));
        }
        for text in [
            "m.example",
            "ftp://m.example",
            "https://",
            "https://u:p@m.example",
            "https://m.example/?x",
            "https://m.example/a b",
            "https://m.example:0",
            "https://m..example",
            "https://[x]/",
            "https://[::1]80",
            "https://m.example/\n",
            "https://m.example/a\"b",
        ] {
            let bad = text.trim() == text;
            assert_eq!(Mirrors::address(text).is_err(), bad, "{text}");
        }
    }

    #[test]
    fn registries_have_one_mirror_each() {
        let found =
            Mirrors::registries("Docker.io=https://m.example/hub/, localhost:5000=http://n")
                .unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("docker.io", "https://m.example/hub"),
                ("localhost:5000", "http://n")
            ]
        );
        for text in [
            "docker.io",
            "docker.io=",
            "=https://m",
            "a/b=https://m",
            "a=https://m,A=https://n",
        ] {
            assert_eq!(
                Mirrors::registries(text),
                Err(BadMirror::Registries),
                "{text}"
            );
        }
        assert_eq!(Mirrors::registries(" ,").unwrap().len(), 0);
    }

    #[test]
    fn nothing_set_is_nothing_to_do() {
        assert_eq!(Mirrors::default().arguments(), None);
        let pip = Mirrors {
            pip: Some("https://m".to_owned()),
            ..Mirrors::default()
        };
        assert_eq!(pip.arguments(), Some(["", "https://m", "", ""]));
    }
}
