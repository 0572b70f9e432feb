//! What the host offers for building `base`: facts gathered thinly, decisions taken from them purely.
//!
//! The host's own apt configuration knows best how to reach a mirror, so mirror and proxy are read from there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bootstrap::BootstrapOptions;
use crate::error::ArtifactError;
use crate::recipe::{NpmSource, Recipe, Suite, ToolKind};
use crate::tool;

/// Files that Debian's archive keys are kept in, newest convention first.
pub const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
];

const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
const DEFAULT_SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";

/// The finished layer has 0.7 GiB; packages, and the tree beside its last steps, need the rest.
const NEED_MIB: u64 = 2048;

/// Everything about the host that a build depends on.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostFacts {
    pub(crate) is_root: bool,
    pub(crate) architecture: &'static str,
    pub(crate) mmdebstrap: Option<PathBuf>,
    pub(crate) debootstrap: Option<PathBuf>,
    pub(crate) npm: Option<PathBuf>,
    pub(crate) setpriv: Option<PathBuf>,
    pub(crate) unshare: Option<PathBuf>,
    /// Keyrings that are there, and what they hold the keys of.
    pub(crate) keyrings: Vec<(PathBuf, Vec<Suite>)>,
    pub(crate) apt_sources: Vec<AptSources>,
    /// Output of `apt-config dump`.
    pub(crate) apt_config: String,
    pub(crate) free_mib: u64,
}

/// One file of apt sources.
#[derive(Debug, Clone)]
pub(crate) struct AptSources {
    /// `.sources` files have stanzas, `.list` files one entry per line.
    pub(crate) deb822: bool,
    pub(crate) text: String,
}

impl HostFacts {
    /// Looks at this machine.
    pub(crate) fn gather(data_dir: &Path) -> Result<Self, ArtifactError> {
        let stat =
            rustix::fs::statvfs(data_dir).map_err(|e| ArtifactError::io("stat", data_dir, e))?;
        let keyrings = KEYRINGS
            .iter()
            .filter_map(|path| Some((PathBuf::from(path), keyring_suites(&fs::read(path).ok()?))));
        Ok(Self {
            is_root: rustix::process::geteuid().is_root(),
            architecture: std::env::consts::ARCH,
            mmdebstrap: find_program("mmdebstrap"),
            debootstrap: find_program("debootstrap"),
            npm: find_program("npm"),
            setpriv: find_program("setpriv"),
            unshare: find_program("unshare"),
            keyrings: keyrings.collect(),
            apt_sources: read_apt_sources(),
            apt_config: read_apt_config(),
            free_mib: (stat.f_bavail.saturating_mul(stat.f_frsize)) >> 20,
        })
    }

    /// Says why a build cannot even begin.
    pub(crate) fn check(&self, data_dir: &Path) -> Result<(), ArtifactError> {
        if !self.is_root {
            return Err(ArtifactError::NotRoot);
        }
        if self.architecture != "x86_64" {
            return Err(ArtifactError::Architecture {
                found: self.architecture,
            });
        }
        if self.mmdebstrap.is_none() && self.debootstrap.is_none() {
            return Err(ArtifactError::NoTool);
        }
        for (program, found) in [("setpriv", &self.setpriv), ("unshare", &self.unshare)] {
            if found.is_none() {
                return Err(ArtifactError::NoProgram { program });
            }
        }
        if self.free_mib < NEED_MIB {
            return Err(ArtifactError::NoSpace {
                path: data_dir.into(),
                have_mib: self.free_mib,
                need_mib: NEED_MIB,
            });
        }
        Ok(())
    }

    /// Program and arguments that unpack one package of a release, and those that it needs, into an empty directory.
    /// Newer releases are signed with the keys of the last stable one, too.
    pub(crate) fn extract(
        &self,
        mirror: Option<&str>,
        release: &str,
        package: &str,
        into: &Path,
    ) -> Result<Vec<String>, ArtifactError> {
        if !self.is_root {
            return Err(ArtifactError::NotRoot);
        }
        let program = self.mmdebstrap.as_ref().ok_or(ArtifactError::NoTool)?;
        let newest = |(_, suites): &&(PathBuf, Vec<Suite>)| suites.contains(&Suite::Trixie);
        let (keyring, _) =
            self.keyrings
                .iter()
                .find(newest)
                .ok_or_else(|| ArtifactError::NoKeyring {
                    wanted: Suite::Trixie.description().into(),
                })?;
        let host = debian_mirrors(&self.apt_sources).archive;
        let mirror = mirror.map_or(host, |mirror| Some(mirror.to_owned()));
        let mirror = mirror.unwrap_or_else(|| DEFAULT_MIRROR.into());
        let keyring = keyring.display();
        let mut arguments = vec![program.display().to_string()];
        let fixed = ["--mode=root", "--variant=extract", "--format=directory"];
        arguments.extend(fixed.map(String::from));
        let settings = reach_settings(&self.apt_config).into_iter();
        arguments.extend(settings.map(|setting| format!("--aptopt={setting}")));
        arguments.push(format!("--keyring={keyring}"));
        arguments.push(format!("--include={package}"));
        arguments.push(release.to_owned());
        arguments.push(into.display().to_string());
        arguments.push(format!("deb [signed-by={keyring}] {mirror} {release} main"));
        Ok(arguments)
    }

    /// The builds to try, best first: one per release whose keys are here.
    pub(crate) fn recipes(
        &self,
        options: &BootstrapOptions,
        npm: &NpmSource,
    ) -> Result<Vec<Recipe>, ArtifactError> {
        let (tool, program) = match (&self.mmdebstrap, &self.debootstrap) {
            (Some(program), _) => (ToolKind::Mmdebstrap, program),
            (None, Some(program)) => (ToolKind::Debootstrap, program),
            (None, None) => return Err(ArtifactError::NoTool),
        };
        let wanted: Vec<Suite> = options
            .suite
            .map_or(Suite::ALL.to_vec(), |suite| vec![suite]);
        let mirrors = debian_mirrors(&self.apt_sources);
        let with_keys = wanted.iter().filter_map(|suite| {
            let (keyring, _) = self
                .keyrings
                .iter()
                .find(|(_, suites)| suites.contains(suite))?;
            Some(Recipe {
                suite: *suite,
                tool,
                program: program.clone(),
                mirror: options
                    .mirror
                    .clone()
                    .or_else(|| mirrors.archive.clone())
                    .unwrap_or_else(|| DEFAULT_MIRROR.into()),
                security_mirror: mirrors
                    .security
                    .clone()
                    .unwrap_or_else(|| DEFAULT_SECURITY_MIRROR.into()),
                keyring: keyring.clone(),
                apt_settings: reach_settings(&self.apt_config),
                npm: npm.clone(),
            })
        });
        let recipes: Vec<Recipe> = with_keys.collect();
        if recipes.is_empty() {
            let wanted: Vec<&str> = wanted.iter().map(|suite| suite.description()).collect();
            return Err(ArtifactError::NoKeyring {
                wanted: wanted.join(" or "),
            });
        }
        Ok(recipes)
    }
}

/// Releases whose archive signing key is in a binary OpenPGP keyring.
///
/// Every self-signature names its issuer by the 8-byte key id (RFC 4880, section 5.2.3.5), so the id is in the file
/// when the key is. This only chooses what to try: the signature itself is checked by apt.
#[must_use]
pub fn keyring_suites(keyring: &[u8]) -> Vec<Suite> {
    let key_id = |suite: Suite| match suite {
        Suite::Trixie => 0x2256_29DF_75B1_88BD_u64,
        Suite::Bookworm => 0xB7C5_D7D6_3509_47F8_u64,
    };
    let holds = |suite: &Suite| {
        keyring
            .windows(8)
            .any(|window| window == key_id(*suite).to_be_bytes())
    };
    Suite::ALL.into_iter().filter(holds).collect()
}

/// Where packages come from, as far as the host's sources tell.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mirrors {
    archive: Option<String>,
    security: Option<String>,
}

/// One enabled entry of any source file.
#[derive(Debug, Default)]
struct AptEntry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: String,
}

/// Finds Debian's own archive among the host's sources; other vendors' repositories are passed over.
fn debian_mirrors(files: &[AptSources]) -> Mirrors {
    let mut mirrors = Mirrors::default();
    for entry in files.iter().flat_map(|file| {
        if file.deb822 {
            stanzas(&file.text)
        } else {
            lines(&file.text)
        }
    }) {
        let foreign = !(entry.signed_by.is_empty() || entry.signed_by.contains("debian-archive"));
        if foreign || !entry.components.iter().any(|c| c == "main") {
            continue;
        }
        let Some(uri) = entry
            .uris
            .iter()
            .find(|uri| uri.starts_with("http://") || uri.starts_with("https://"))
        else {
            continue;
        };
        let uri = uri.trim_end_matches('/');
        let is = |suffix: &str| {
            entry
                .suites
                .iter()
                .any(|suite| suite.strip_suffix(suffix).is_some_and(is_debian_release))
        };
        if is("") && uri.ends_with("/debian") {
            mirrors.archive.get_or_insert_with(|| uri.into());
        } else if is("-security") && uri.contains("debian-security") {
            mirrors.security.get_or_insert_with(|| uri.into());
        }
    }
    mirrors
}

fn is_debian_release(name: &str) -> bool {
    [
        "bullseye",
        "bookworm",
        "trixie",
        "forky",
        "sid",
        "stable",
        "oldstable",
        "testing",
        "unstable",
    ]
    .contains(&name)
}

/// deb822: `Field: value`, continued by indented lines, entries parted by empty lines (sources.list(5)).
fn stanzas(text: &str) -> Vec<AptEntry> {
    let mut entries = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#')).chain([""]) {
        if line.trim().is_empty() {
            entries.extend(stanza(&fields));
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().into()));
        }
    }
    entries
}

fn stanza(fields: &[(String, String)]) -> Option<AptEntry> {
    let field = |name: &str| {
        fields
            .iter()
            .find(|(n, _)| n == name)
            .map_or("", |(_, value)| value.as_str())
    };
    let words = |name: &str| {
        field(name)
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let enabled = !["no", "false", "0"].contains(&field("enabled").to_ascii_lowercase().as_str());
    (enabled && words("types").iter().any(|t| t == "deb")).then(|| AptEntry {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by: field("signed-by").into(),
    })
}

/// `deb [options] uri suite component…`
fn lines(text: &str) -> Vec<AptEntry> {
    let parse = |line: &str| {
        let line = line.split('#').next()?.trim();
        let rest = line
            .strip_prefix("deb")?
            .strip_prefix([' ', '\t'])?
            .trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        let signed_by = options
            .split_whitespace()
            .find_map(|o| o.strip_prefix("signed-by="))
            .unwrap_or_default();
        Some(AptEntry {
            uris: words.next().into_iter().collect(),
            suites: words.next().into_iter().collect(),
            components: words.collect(),
            signed_by: signed_by.into(),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// The host's apt settings on how to reach mirrors, in the form of apt.conf lines without the semicolon.
fn reach_settings(apt_config_dump: &str) -> Vec<String> {
    const PREFIXES: [&str; 6] = [
        "acquire::http::",
        "acquire::https::",
        "acquire::check-date",
        "acquire::check-valid-until",
        "acquire::forceipv4",
        "acquire::forceipv6",
    ];
    let wanted = |line: &&str| {
        PREFIXES
            .iter()
            .any(|prefix| line.to_ascii_lowercase().starts_with(prefix))
    };
    apt_config_dump
        .lines()
        .filter(wanted)
        .map(|line| line.trim_end().trim_end_matches(';').to_owned())
        .collect()
}

/// Whether the tool's last lines say that the mirror has no such release (or not its keys), so that an older one may do.
pub(crate) fn release_unavailable(tail: &[String]) -> bool {
    const SIGNS: [&str; 5] = [
        "does not have a Release file",
        "404  Not Found",
        "NO_PUBKEY",
        "is not signed",
        "Invalid Release file",
    ];
    tail.iter()
        .any(|line| SIGNS.iter().any(|sign| line.contains(sign)))
}

fn read_apt_sources() -> Vec<AptSources> {
    let mut paths: Vec<PathBuf> = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    // Debian's own files before other vendors'.
    paths.sort_by_key(|path| {
        (
            path.file_stem().is_none_or(|stem| stem != "debian"),
            path.clone(),
        )
    });
    paths.insert(0, "/etc/apt/sources.list".into());
    let read = |path: &PathBuf| {
        let extension = path.extension()?.to_str()?;
        let deb822 = match extension {
            "sources" => true,
            "list" => false,
            _ => return None,
        };
        Some(AptSources {
            deb822,
            text: fs::read_to_string(path).ok()?,
        })
    };
    paths.iter().filter_map(read).collect()
}

/// A host without apt has no settings for it.
fn read_apt_config() -> String {
    let mut text = String::new();
    let mut command = Command::new("apt-config");
    command.arg("dump");
    let outcome = tool::run(command, Duration::from_secs(30), &mut |line| {
        text.push_str(line);
        text.push('\n');
    });
    if outcome.is_ok() { text } else { String::new() }
}

/// A program on the path, or where root's programs are when the path lacks those.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from));
    let runnable = |file: &PathBuf| {
        file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
    };
    dirs.map(|dir| dir.join(name)).find(runnable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors(deb822: bool, text: &str) -> Mirrors {
        debian_mirrors(&[AptSources {
            deb822,
            text: text.into(),
        }])
    }

    fn found(archive: Option<&str>, security: Option<&str>) -> Mirrors {
        Mirrors {
            archive: archive.map(Into::into),
            security: security.map(Into::into),
        }
    }

    #[test]
    fn one_line_sources() {
        let text = "# deb http://commented/debian trixie main\n\
            deb cdrom:[Debian]/ bookworm main\n\
            deb-src http://source/debian bookworm main\n\
            deb [arch=amd64 signed-by=/etc/apt/keyrings/x.gpg] https://vendor/linux/debian bookworm main\n\
            deb https://vendor/linux/debian bookworm stable\n\
            deb https://vendor.example bookworm main\n\
            deb [ signed-by=/usr/share/keyrings/debian-archive-keyring.gpg ] http://mirror/debian/ bookworm main contrib # ours\n\
            deb http://second/debian bookworm main\n\
            deb\thttp://mirror/debian-security bookworm-security main\n";
        assert_eq!(
            mirrors(false, text),
            found(
                Some("http://mirror/debian"),
                Some("http://mirror/debian-security")
            )
        );
    }

    #[test]
    fn deb822_sources() {
        let text = "Types: deb deb-src\n# a comment\nURIs: http://mirror/debian\nSuites: trixie\n trixie-updates\nComponents: main\n\
            Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
            Enabled: no\nTypes: deb\nURIs: http://off/debian-security\nSuites: trixie-security\nComponents: main\n\n\
            types: deb\nuris: http://sec/debian-security\nsuites: trixie-security\ncomponents: main";
        assert_eq!(
            mirrors(true, text),
            found(
                Some("http://mirror/debian"),
                Some("http://sec/debian-security")
            )
        );
    }

    #[test]
    fn other_distributions_and_other_transports() {
        let ubuntu = "Types: deb\nURIs: http://archive.ubuntu.com/ubuntu\nSuites: noble noble-updates\nComponents: main\n";
        assert_eq!(mirrors(true, ubuntu), found(None, None));
        let listed = "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: trixie\nComponents: main\n";
        assert_eq!(mirrors(true, listed), found(None, None));
        for junk in [
            "",
            "\n\n",
            ":",
            "Types",
            "deb",
            "deb [",
            "deb [x] ",
            " continued: first\n",
        ] {
            assert_eq!(
                (mirrors(true, junk), mirrors(false, junk)),
                (found(None, None), found(None, None)),
                "{junk:?}"
            );
        }
    }

    #[test]
    fn apt_settings_that_matter_are_kept() {
        let dump = "APT \"\";\nAcquire::http::Proxy \"http://proxy:3128\";\nAcquire::Check-Valid-Until \"false\";\n\
            Dir::Cache \"var/cache/apt\";\nacquire::https::CAInfo \"/x;y\";\nAcquire::Languages \"none\";\n";
        let kept = [
            "Acquire::http::Proxy \"http://proxy:3128\"",
            "Acquire::Check-Valid-Until \"false\"",
            "acquire::https::CAInfo \"/x;y\"",
        ];
        assert_eq!(reach_settings(dump), kept);
    }

    #[test]
    fn keys_are_found_anywhere_in_the_ring() {
        let trixie = 0x2256_29DF_75B1_88BD_u64.to_be_bytes();
        assert_eq!(
            keyring_suites(&[b"xx".as_slice(), &trixie, b"yy"].concat()),
            [Suite::Trixie]
        );
        assert_eq!(keyring_suites(&trixie[..7]), []);
        assert_eq!(keyring_suites(b""), []);
    }

    fn facts() -> HostFacts {
        HostFacts {
            is_root: true,
            architecture: "x86_64",
            mmdebstrap: Some("/m".into()),
            setpriv: Some("/s".into()),
            unshare: Some("/u".into()),
            keyrings: vec![
                ("/old".into(), vec![Suite::Bookworm]),
                ("/new".into(), Suite::ALL.to_vec()),
            ],
            free_mib: 1 << 20,
            ..HostFacts::default()
        }
    }

    #[test]
    fn what_is_missing_is_named_with_a_way_out() {
        let dir = Path::new("/d");
        facts().check(dir).unwrap();
        type Spoil = fn(&mut HostFacts);
        let cases: [(Spoil, &str); 5] = [
            (|f| f.is_root = false, "sudo"),
            (|f| f.mmdebstrap = None, "mmdebstrap"),
            (|f| f.setpriv = None, "util-linux"),
            (|f| f.unshare = None, "util-linux"),
            (|f| f.free_mib = 100, "1948 MiB"),
        ];
        for (spoil, fix) in cases {
            let mut facts = facts();
            spoil(&mut facts);
            let error = facts.check(dir).unwrap_err();
            assert!(
                error.fix().is_some_and(|text| text.contains(fix)),
                "{error}"
            );
        }
    }

    #[test]
    fn releases_are_tried_in_order_with_the_keyring_that_has_them() {
        let tried = |facts: &HostFacts, options: &BootstrapOptions| {
            let recipes = facts.recipes(options, &NpmSource::Debian);
            recipes.map(|all| {
                all.iter()
                    .map(|r| (r.suite, r.keyring.display().to_string()))
                    .collect::<Vec<_>>()
            })
        };
        let all = tried(&facts(), &BootstrapOptions::default()).unwrap();
        assert_eq!(
            all,
            [
                (Suite::Trixie, "/new".into()),
                (Suite::Bookworm, "/old".into())
            ]
        );
        let chosen = BootstrapOptions {
            suite: Some(Suite::Bookworm),
            ..BootstrapOptions::default()
        };
        assert_eq!(
            tried(&facts(), &chosen).unwrap(),
            [(Suite::Bookworm, "/old".into())]
        );
        let none = HostFacts {
            keyrings: Vec::new(),
            ..facts()
        };
        assert!(matches!(
            tried(&none, &BootstrapOptions::default()),
            Err(ArtifactError::NoKeyring { .. })
        ));
    }

    #[test]
    fn one_package_of_a_release_from_the_wanted_mirror() {
        let facts = HostFacts {
            is_root: true,
            mmdebstrap: Some("/usr/bin/mmdebstrap".into()),
            keyrings: vec![("/k".into(), vec![Suite::Trixie])],
            apt_config: "Acquire::http::Proxy \"http://p\";\n".into(),
            ..HostFacts::default()
        };
        let arguments = |mirror| facts.extract(mirror, "forky", "criu", Path::new("/d"));
        let text = arguments(Some("http://mine/debian")).unwrap().join("\n");
        assert!(
            text.ends_with("forky\n/d\ndeb [signed-by=/k] http://mine/debian forky main"),
            "{text}"
        );
        assert!(
            text.contains("--aptopt=Acquire::http::Proxy \"http://p\"\n"),
            "{text}"
        );
        assert!(arguments(None).unwrap().join(" ").contains(DEFAULT_MIRROR));
        let keyless = HostFacts {
            keyrings: Vec::new(),
            ..facts
        };
        assert!(
            keyless
                .extract(None, "forky", "criu", Path::new("/d"))
                .is_err()
        );
    }

    #[test]
    fn mirror_from_options_then_host_then_default() {
        let mirror = |facts: &HostFacts, options: &BootstrapOptions| {
            facts.recipes(options, &NpmSource::Debian).unwrap()[0]
                .mirror
                .clone()
        };
        let mut facts = facts();
        assert_eq!(mirror(&facts, &BootstrapOptions::default()), DEFAULT_MIRROR);
        facts.apt_sources = vec![AptSources {
            deb822: false,
            text: "deb http://near/debian trixie main".into(),
        }];
        assert_eq!(
            mirror(&facts, &BootstrapOptions::default()),
            "http://near/debian"
        );
        let options = BootstrapOptions {
            mirror: Some("http://mine/debian".into()),
            ..BootstrapOptions::default()
        };
        assert_eq!(mirror(&facts, &options), "http://mine/debian");
    }
}
