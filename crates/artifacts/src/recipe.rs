//! What is in `base` and how it is built: package list, tool arguments. Pure; the scripts are in `assets/`.

use std::fmt;
use std::path::{Path, PathBuf};

/// A Debian release that the recipe was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suite {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Suite {
    /// Every release, the preferred one first.
    pub const ALL: [Self; 2] = [Self::Trixie, Self::Bookworm];

    /// Its name on a mirror.
    #[must_use]
    pub fn codename(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// As a person would write it.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Bookworm => "debian 12 (bookworm)",
            Self::Trixie => "debian 13 (trixie)",
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.codename())
    }
}

/// Packages of `base` beyond Debian's essential ones. No recommends are installed, so what is wanted is named.
pub(crate) const PACKAGES: &[&str] = &[
    "bash",
    "build-essential",
    "ca-certificates",
    "curl",
    "file",
    "git",
    "iproute2",
    "iputils-ping",
    "jq",
    "less",
    "locales",
    "nano",
    "netbase",
    "nodejs",
    "openssh-client",
    "procps",
    "python-is-python3",
    "python3",
    "python3-dev",
    "python3-pip",
    "python3-venv",
    "ripgrep",
    "socat",
    "sudo",
    "unzip",
    "wget",
    "xz-utils",
    "zip",
];

/// The npm that goes into `base`: the last 10.x, which runs on the node of both releases, with its SHA-512.
///
/// Debian's own npm package brings 350 packages and 150 MB with it, and doubles the time of the build.
/// The npm project's self-contained package is 12 MB; it is fetched by the host's npm client and checked against
/// this digest. A host without npm gets Debian's package instead.
pub(crate) const NPM_VERSION: &str = "10.9.9";
pub(crate) const NPM_SHA512: &str = "d60fba8cb42f688b81e33c2f1cbef2ad7b977166700ec0ad057f1b6d60ea6ef2524abf673e20c35931cd8305d1dbb8887134d6eefdc0e7b8435bd458bf65b862";

/// dpkg's settings inside: no manuals, no translations, no guard against pip, no fsync per file.
const DPKG_OPTIONS: &[&str] = &[
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-include=/usr/share/locale/en*",
    "path-exclude=/usr/lib/python3*/EXTERNALLY-MANAGED",
    "force-unsafe-io",
];

/// apt's settings while building; removed at the end.
const APT_OPTIONS: &[&str] = &[
    r#"APT::Install-Recommends "false""#,
    r#"Acquire::Languages "none""#,
    r#"Acquire::Queue-Mode "access""#,
    r#"Acquire::Retries "5""#,
    r#"APT::Keep-Downloaded-Packages "true""#,
];

/// The last step of either tool, run on the host with the tree as its argument.
pub(crate) const CUSTOMIZE: &str = include_str!("../assets/customize.sh");
/// What mmdebstrap does in one program, for hosts that only have debootstrap.
pub(crate) const DEBOOTSTRAP: &str = include_str!("../assets/debootstrap.sh");

/// Which program makes the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToolKind {
    /// Quicker: one pass, apt resolves dependencies.
    Mmdebstrap,
    /// The classic; needs apt inside for everything beyond the minimum.
    Debootstrap,
}

/// Where npm comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NpmSource {
    /// The npm project's package, already checked.
    Tarball(PathBuf),
    /// Debian's package.
    Debian,
}

/// Everything that decides what one build does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) suite: Suite,
    pub(crate) tool: ToolKind,
    pub(crate) program: PathBuf,
    pub(crate) mirror: String,
    pub(crate) security_mirror: String,
    pub(crate) keyring: PathBuf,
    pub(crate) apt_settings: Vec<String>,
    pub(crate) npm: NpmSource,
}

/// Files and directories of one build.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BuildPaths<'a> {
    pub(crate) rootfs: &'a Path,
    pub(crate) apt_cache: &'a Path,
    pub(crate) customize: &'a Path,
    pub(crate) debootstrap: &'a Path,
}

impl Recipe {
    /// Names what is built, without where it comes from: two machines with one recipe build alike.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let npm = match self.npm {
            NpmSource::Tarball(_) => NPM_SHA512,
            NpmSource::Debian => "debian",
        };
        for part in [self.suite.codename(), npm, CUSTOMIZE]
            .iter()
            .chain(PACKAGES)
            .chain(DPKG_OPTIONS)
        {
            hasher.update(part.as_bytes());
            hasher.update(b"\0");
        }
        hasher.finalize().to_hex().chars().take(16).collect()
    }

    /// The packages to install, comma-separated.
    fn include(&self) -> String {
        let npm = (self.npm == NpmSource::Debian).then_some("npm");
        PACKAGES
            .iter()
            .copied()
            .chain(npm)
            .collect::<Vec<_>>()
            .join(",")
    }

    /// apt source lines for the build.
    fn sources(&self) -> Vec<String> {
        let Self {
            suite,
            mirror,
            security_mirror,
            keyring,
            ..
        } = self;
        let signed = format!("[signed-by={}]", keyring.display());
        vec![
            format!("deb {signed} {mirror} {suite} main"),
            format!("deb {signed} {mirror} {suite}-updates main"),
            format!("deb {signed} {security_mirror} {suite}-security main"),
        ]
    }

    /// Program and arguments of the build.
    pub(crate) fn command(&self, paths: &BuildPaths<'_>) -> Vec<String> {
        match self.tool {
            ToolKind::Mmdebstrap => self.mmdebstrap(paths),
            ToolKind::Debootstrap => {
                vec![
                    "/bin/sh".into(),
                    shown(paths.debootstrap),
                    shown(&self.program),
                    shown(paths.rootfs),
                ]
            }
        }
    }

    /// What the scripts find in their environment.
    pub(crate) fn environment(&self, paths: &BuildPaths<'_>) -> Vec<(&'static str, String)> {
        let apt: Vec<String> = self.apt_options().map(|line| format!("{line};")).collect();
        let npm = match &self.npm {
            NpmSource::Tarball(path) => shown(path),
            NpmSource::Debian => String::new(),
        };
        vec![
            ("SOULBOX_SUITE", self.suite.codename().into()),
            ("SOULBOX_NPM_TARBALL", npm),
            ("SOULBOX_APT_CACHE", shown(paths.apt_cache)),
            ("SOULBOX_CUSTOMIZE", shown(paths.customize)),
            ("SOULBOX_INCLUDE", self.include().replace(',', " ")),
            ("SOULBOX_MIRROR", self.mirror.clone()),
            ("SOULBOX_KEYRING", shown(&self.keyring)),
            ("SOULBOX_SOURCES", self.sources().join("\n")),
            ("SOULBOX_APT_CONF", apt.join("\n")),
            ("SOULBOX_DPKG_CONF", DPKG_OPTIONS.join("\n")),
        ]
    }

    fn apt_options(&self) -> impl Iterator<Item = String> {
        APT_OPTIONS
            .iter()
            .map(ToString::to_string)
            .chain(self.apt_settings.iter().cloned())
    }

    /// Mode root, not unshare: the latter needs subordinate ids in the host's configuration. The mounts it makes stay
    /// in the private mount namespace that the caller starts it in.
    fn mmdebstrap(&self, paths: &BuildPaths<'_>) -> Vec<String> {
        let mut args: Vec<String> = vec![shown(&self.program)];
        args.extend(
            [
                "--mode=root",
                "--variant=minbase",
                "--format=directory",
                "--verbose",
            ]
            .map(String::from),
        );
        // The cache outlives the build: packages are fetched once, and a killed download continues.
        args.extend(["--skip=download/empty", "--skip=essential/unlink"].map(String::from));
        args.push(
            r#"--setup-hook=mkdir -p "$1/var/cache/apt/archives" && mount --bind "$SOULBOX_APT_CACHE" "$1/var/cache/apt/archives""#.into(),
        );
        args.push(r#"--customize-hook=umount "$1/var/cache/apt/archives" && /bin/sh "$SOULBOX_CUSTOMIZE" "$1""#.into());
        args.extend(
            self.apt_options()
                .map(|option| format!("--aptopt={option}")),
        );
        args.extend(
            DPKG_OPTIONS
                .iter()
                .map(|option| format!("--dpkgopt={option}")),
        );
        args.push(format!("--keyring={}", self.keyring.display()));
        args.push(format!("--include={}", self.include()));
        args.push(self.suite.codename().into());
        args.push(shown(paths.rootfs));
        args.extend(self.sources());
        args
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe {
            suite: Suite::Trixie,
            tool: ToolKind::Mmdebstrap,
            program: "/usr/bin/mmdebstrap".into(),
            mirror: "http://mirror.example/debian".into(),
            security_mirror: "http://mirror.example/debian-security".into(),
            keyring: "/k.gpg".into(),
            apt_settings: vec![r#"Acquire::http::Proxy "http://p:1""#.into()],
            npm: NpmSource::Tarball("/npm.tgz".into()),
        }
    }

    fn paths() -> BuildPaths<'static> {
        let path = |p: &'static str| Path::new(p);
        BuildPaths {
            rootfs: path("/r"),
            apt_cache: path("/c"),
            customize: path("/x.sh"),
            debootstrap: path("/d.sh"),
        }
    }

    #[test]
    fn mmdebstrap_arguments() {
        let args = recipe().command(&paths());
        assert_eq!(args[0], "/usr/bin/mmdebstrap");
        assert!(args.contains(&r#"--aptopt=Acquire::http::Proxy "http://p:1""#.into()));
        assert!(
            args.contains(
                &"deb [signed-by=/k.gpg] http://mirror.example/debian trixie main".into()
            )
        );
        assert!(
            !args
                .iter()
                .any(|a| a.starts_with("--include=") && a.ends_with(",npm"))
        );
        let position = |text: &str| args.iter().position(|a| a == text).unwrap();
        assert_eq!(position("/r"), position("trixie") + 1);
    }

    #[test]
    fn without_a_tarball_debian_provides_npm() {
        let recipe = Recipe {
            npm: NpmSource::Debian,
            ..recipe()
        };
        assert!(
            recipe
                .command(&paths())
                .iter()
                .any(|a| a.starts_with("--include=") && a.ends_with(",npm"))
        );
        let environment = recipe.environment(&paths());
        assert!(environment.contains(&("SOULBOX_NPM_TARBALL", String::new())));
    }

    #[test]
    fn the_fingerprint_names_content_not_origin() {
        let moved = Recipe {
            mirror: "http://other/debian".into(),
            npm: NpmSource::Tarball("/else.tgz".into()),
            ..recipe()
        };
        assert_eq!(moved.fingerprint(), recipe().fingerprint());
        assert_ne!(
            Recipe {
                suite: Suite::Bookworm,
                ..recipe()
            }
            .fingerprint(),
            recipe().fingerprint()
        );
        assert_ne!(
            Recipe {
                npm: NpmSource::Debian,
                ..recipe()
            }
            .fingerprint(),
            recipe().fingerprint()
        );
    }
}
