use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::process::Command;

use super::*;
use crate::tree;

/// Directories for trees, and for what the kernel's overlay makes of them.
struct Bench {
    dir: tempfile::TempDir,
}

/// Whiteouts and marks of overlayfs can be made by root only.
fn bench(test: &str) -> Option<Bench> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP {test}: needs root");
        return None;
    }
    Some(Bench {
        dir: tempfile::tempdir().unwrap(),
    })
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a shell script in a new directory, as a layer; `w` makes a whiteout, `o` an opaque directory.
    fn layer(&self, name: &str, script: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        let helpers = "set -e; w() { mknod $1 c 0 0; }; o() { mkdir $1; echo > $1/.opaque; }; ";
        shell(&format!("cd {}; {helpers}{script}", path.display()));
        for dir in directories(&path) {
            if fs::remove_file(dir.join(".opaque")).is_ok() {
                set_attribute(&dir, OPAQUE, b"y");
            }
        }
        path
    }

    fn links(&self, name: &str) -> PathBuf {
        let path = self.path(&format!("{name}.links"));
        fs::create_dir(&path).unwrap();
        path
    }

    fn squash(&self, name: &str, from: &[&PathBuf]) -> PathBuf {
        let from: Vec<_> = from.iter().map(|path| (*path).clone()).collect();
        let to = self.path(name);
        tree::squash(&from, &to, &self.links(name)).unwrap();
        to
    }

    fn save(&self, name: &str, upper: &Path, below: &[&PathBuf]) -> Result<bool, ArtifactError> {
        let upper = File::open(upper).unwrap();
        let written = Written {
            upper: upper.as_fd(),
            first_id: 5_000_000,
            furnished: &[("etc/hosts", "told\n".to_owned())],
        };
        let below = below.iter().map(|path| (*path).clone()).collect();
        save(&written, below, &self.path(name), &self.links(name))
    }

    /// What the kernel shows of layers that lie on each other.
    fn view(&self, layers: &[&PathBuf]) -> Vec<String> {
        let empty = self.path("empty");
        fs::create_dir_all(&empty).unwrap();
        let mut lower: Vec<_> = layers
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        lower.push(empty.display().to_string());
        let options = format!("lowerdir={},redirect_dir=on,metacopy=off", lower.join(":"));
        self.mounted(&options, list)
    }

    /// Lets a shell script loose on an overlay of these layers with this upper directory.
    fn write(&self, upper: &str, layers: &[&PathBuf], script: &str) -> PathBuf {
        let (upper, work) = (self.path(upper), self.path(&format!("{upper}.work")));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        let lower: Vec<_> = layers
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},redirect_dir=on,index=off,metacopy=off",
            lower.join(":"),
            upper.display(),
            work.display()
        );
        self.mounted(&options, |at| {
            shell(&format!("set -e; cd {}; {script}", at.display()));
        });
        upper
    }

    fn mounted<T>(&self, options: &str, then: impl FnOnce(&Path) -> T) -> T {
        let at = self.path("mount");
        fs::create_dir_all(&at).unwrap();
        shell(&format!(
            "mount -t overlay overlay -o {options} {}",
            at.display()
        ));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| then(&at)));
        shell(&format!("umount {}", at.display()));
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn shell(script: &str) {
    let done = Command::new("bash").args(["-c", script]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{script}: {said}");
}

fn set_attribute(path: &Path, name: &CStr, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// Names and values of the extended attributes of an entry.
fn attributes(path: &Path) -> Vec<String> {
    let dir = Dir::open_root(path.parent().unwrap()).unwrap();
    let name = CString::new(path.file_name().unwrap().to_str().unwrap()).unwrap();
    let found = xattrs(&dir, &name).unwrap().into_iter();
    found
        .map(|(name, value)| format!("{}={value:?}", name.to_str().unwrap()))
        .collect()
}

/// All directories of a tree, itself first.
fn directories(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_path_buf()];
    let mut at = 0;
    while at < found.len() {
        let entries = fs::read_dir(&found[at]).unwrap().map(Result::unwrap);
        let below: Vec<_> = entries
            .filter(|e| e.file_type().unwrap().is_dir())
            .collect();
        found.extend(below.into_iter().map(|entry| entry.path()));
        at += 1;
    }
    found
}

/// Every entry with all that can be seen of it, but for times of directories and numbers of links.
fn list(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for dir in directories(root) {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let shown = path.strip_prefix(root).unwrap().display().to_string();
            let content = if meta.is_file() {
                format!("{:?}", fs::read(&path).unwrap())
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                String::new()
            };
            let time = if meta.is_dir() { 0 } else { meta.mtime_nsec() };
            found.push(format!(
                "{shown} {:o} {}:{} {time} {content} {:?}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                attributes(&path)
            ));
        }
    }
    found.sort();
    found
}

/// Upper, lower, and a third layer below both, which the squash of the first two must show or hide as they did.
const STACKS: &[(&str, &str, &str, &str)] = &[
    ("side by side", "echo 1 > a", "echo 2 > b", "echo 3 > c"),
    ("file over file", "echo 1 > a", "echo 2 > a", "echo 3 > a"),
    (
        "whiteout of a file",
        "w a",
        "echo 2 > a; echo 2 > b",
        "echo 3 > a",
    ),
    (
        "whiteout of what is further below",
        "w a",
        "echo 2 > b",
        "echo 3 > a",
    ),
    ("whiteout below", "echo 1 > b", "w a", "echo 3 > a"),
    (
        "whiteout below, written again",
        "echo 1 > a",
        "w a",
        "mkdir a; echo 3 > a/x",
    ),
    (
        "directory where a whiteout is",
        "o d; echo 1 > d/x",
        "w d",
        "mkdir d; echo 3 > d/y",
    ),
    (
        "directory over a whiteout",
        "mkdir d; echo 1 > d/x",
        "w d",
        "mkdir d; echo 3 > d/y",
    ),
    (
        "merged directory",
        "mkdir -p d/e; echo 1 > d/e/x",
        "mkdir -p d/e; echo 2 > d/e/y; echo 2 > d/e/x",
        "mkdir -p d/e; echo 3 > d/e/z",
    ),
    (
        "whiteout in a directory",
        "mkdir d; w d/x",
        "mkdir d; echo 2 > d/x; echo 2 > d/y",
        "mkdir d; echo 3 > d/x; echo 3 > d/z",
    ),
    (
        "opaque above",
        "o d; echo 1 > d/x",
        "mkdir d; echo 2 > d/y",
        "mkdir d; echo 3 > d/z",
    ),
    (
        "opaque below",
        "mkdir d; echo 1 > d/x",
        "o d; echo 2 > d/y",
        "mkdir d; echo 3 > d/z",
    ),
    (
        "whiteout below something opaque",
        "mkdir -p d/e; w d/e/x",
        "o d; mkdir d/e; echo 2 > d/e/x",
        "mkdir -p d/e; echo 3 > d/e/x",
    ),
    (
        "file over directory",
        "echo 1 > d",
        "mkdir d; echo 2 > d/x",
        "mkdir d; echo 3 > d/y",
    ),
    (
        "directory over file",
        "mkdir d; echo 1 > d/x",
        "echo 2 > d",
        "mkdir d; echo 3 > d/y",
    ),
    (
        "directory over link",
        "mkdir d; echo 1 > d/x",
        "ln -s /etc d",
        "mkdir d; echo 3 > d/y",
    ),
    (
        "link over directory",
        "ln -s nowhere d",
        "mkdir d; echo 2 > d/x",
        "mkdir d",
    ),
    (
        "looks",
        "mkdir -m 1777 d; chown 5:6 d",
        "mkdir -m 700 d; install -m 4755 -o 7 /dev/null d/s",
        "mkdir d; echo 3 > d/s",
    ),
    (
        "empty above",
        ":",
        "mkdir d; w x",
        "mkdir d; echo 3 > d/y; echo 3 > x",
    ),
];

#[test]
fn a_squash_looks_like_the_stack() {
    let Some(_) = bench("a_squash_looks_like_the_stack") else {
        return;
    };
    for (what, upper, lower, below) in STACKS {
        let bench = bench("").unwrap();
        let upper = bench.layer("upper", upper);
        let lower = bench.layer("lower", lower);
        let below = bench.layer("below", below);
        let before = list(&lower);
        let squashed = bench.squash("squashed", &[&upper, &lower]);
        assert_eq!(
            bench.view(&[&squashed, &below]),
            bench.view(&[&upper, &lower, &below]),
            "{what}"
        );
        assert_eq!(
            bench.view(&[&squashed]),
            bench.view(&[&upper, &lower]),
            "{what}"
        );
        let all = bench.squash("all", &[&upper, &lower, &below]);
        assert_eq!(
            bench.view(&[&all]),
            bench.view(&[&upper, &lower, &below]),
            "{what}"
        );
        // One after another is the same as at once.
        let again = bench.squash("again", &[&squashed, &below]);
        let digest = |path: &Path| tree::hash(path, &mut |_| ()).unwrap().digest;
        assert_eq!(digest(&again), digest(&all), "{what}");
        assert_eq!(list(&lower), before, "{what}");
    }
}

#[test]
fn content_of_layers_is_shared() {
    let Some(bench) = bench("content_of_layers_is_shared") else {
        return;
    };
    let one = bench.layer("one", "echo 1 > a");
    let other = bench.layer("other", "mkdir d; echo 2 > d/b; ln d/b d/c");
    let squashed = bench.squash("squashed", &[&one, &other]);
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(one.join("a")), inode(squashed.join("a")));
    assert_eq!(inode(other.join("d/b")), inode(squashed.join("d/c")));
}

/// What is done to an overlay of the base, by the kernel's own hand.
const WRITINGS: &[(&str, &str)] = &[
    (
        "write, delete, replace",
        "echo new > f; rm etc/passwd; echo x >> usr/bin/tool; rm -r lib; mkdir lib; echo y > lib/z",
    ),
    (
        "a directory for a file and the reverse",
        "rm f; mkdir f; echo x > f/x; rm -r lib; echo x > lib",
    ),
    (
        "looks",
        "chmod 4711 usr/bin/tool; chown 7:8 etc; chmod 1777 lib",
    ),
    ("moved directory", "mv usr opt"),
    (
        "moved within",
        "mv usr/bin usr/sbin; echo x > usr/sbin/x; rm usr/sbin/tool",
    ),
    (
        "moved twice and written to",
        "mv usr/share opt; mv usr lib/usr; echo x > opt/doc/x; rm opt/doc/a; mv opt/doc opt/dok",
    ),
    (
        "moved out of one that was moved",
        "mv usr opt; mv opt/share lib/share; mv lib/share/doc d; rmdir lib/share",
    ),
    (
        "moved and made again",
        "mv usr opt; mkdir usr; echo x > usr/x; mv opt/share usr/share",
    ),
    ("moved file", "mv usr/bin/tool tool; ln tool tool2"),
    (
        "links of all kinds",
        "ln f g; ln -s /etc/shadow s; mkfifo p; ln g lib/h; truncate -s 1M sparse; echo x >> sparse",
    ),
];

#[test]
fn what_was_written_is_seen_again() {
    let Some(_) = bench("what_was_written_is_seen_again") else {
        return;
    };
    for (what, script) in WRITINGS {
        let bench = bench("").unwrap();
        let bottom = bench.layer(
            "bottom",
            "mkdir -p usr/bin usr/share/doc etc lib; echo t > usr/bin/tool; echo a > usr/share/doc/a; \
             echo b > usr/share/doc/b; echo p > etc/passwd; echo f > f; echo l > lib/l",
        );
        let base = bench.layer(
            "base",
            "mkdir -p usr/share/doc; w usr/share/doc/b; echo c > usr/share/doc/c",
        );
        let upper = bench.write("upper", &[&base, &bottom], script);
        assert!(
            bench.save("saved", &upper, &[&base, &bottom]).unwrap(),
            "{what}"
        );
        let saved = bench.path("saved");
        let seen = bench.view(&[&saved, &base, &bottom]);
        assert_eq!(seen, bench.view(&[&upper, &base, &bottom]), "{what}");
        for dir in directories(&saved).into_iter().skip(1) {
            let attributes = attributes(&dir);
            let strange = |mark: &String| {
                let ours = ["trusted.overlay.opaque=[121]", "trusted.overlay.origin=[]"];
                mark.starts_with("trusted.") && !ours.contains(&mark.as_str())
            };
            assert!(!attributes.iter().any(strange), "{what}: {attributes:?}");
        }
        // A second sandbox on the first one's layer, and both in one.
        let second = bench.write(
            "second",
            &[&saved, &base, &bottom],
            "mv lib moved; echo 2 > second",
        );
        assert!(
            bench
                .save("saved2", &second, &[&saved, &base, &bottom])
                .unwrap(),
            "{what}"
        );
        let squashed = bench.squash("squashed", &[&bench.path("saved2"), &saved]);
        assert_eq!(
            bench.view(&[&squashed, &base, &bottom]),
            bench.view(&[&bench.path("saved2"), &saved, &base, &bottom]),
            "{what}"
        );
    }
}

#[test]
fn what_the_server_has_put_there_is_left_out() {
    let Some(_) = bench("what_the_server_has_put_there_is_left_out") else {
        return;
    };
    for (script, written) in [
        ("mkdir -m 755 etc; echo told > etc/hosts", ""),
        (
            "mkdir -m 755 etc proc dev sys; echo told > etc/hosts; echo x > dev/x",
            "",
        ),
        ("mkdir -m 755 etc; echo else > etc/hosts", "etc etc/hosts"),
        (
            "mkdir -m 755 etc; echo told > etc/hosts; chmod 600 etc/hosts",
            "etc etc/hosts",
        ),
        ("mkdir -m 755 etc; w etc/hosts", "etc etc/hosts"),
        ("mkdir -m 700 etc; echo told > etc/hosts", "etc"),
        (
            "mkdir -m 755 etc; echo told > etc/hosts; mkdir etc/proc",
            "etc etc/proc",
        ),
        (
            "mkdir -m 755 etc; echo told > etc/hosts; ln etc/hosts h",
            "h",
        ),
        ("echo told > hosts", "hosts"),
    ] {
        let bench = bench("").unwrap();
        let upper = bench.layer("upper", script);
        let something = bench.save("saved", &upper, &[]).unwrap();
        let names: Vec<_> = list(&bench.path("saved"))
            .iter()
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(names.join(" "), written, "{script}");
        assert_eq!(something, !written.is_empty(), "{script}");
    }
}

#[test]
fn shapes_are_kept_and_bounded() {
    let Some(bench) = bench("shapes_are_kept_and_bounded") else {
        return;
    };
    let upper = bench.layer(
        "upper",
        "mkdir a; echo x > a/one; ln a/one a/two; ln a/one three; w gone",
    );
    let sparse = File::create(upper.join("sparse")).unwrap();
    sparse.set_len(8 << 30).unwrap();
    sparse.write_all_at(b"middle", 1 << 30).unwrap();
    symlink("/etc/shadow", upper.join("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        upper.join("socket"),
        FileType::Socket,
        Mode::RUSR,
        0,
    )
    .unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        upper.join("null"),
        FileType::CharacterDevice,
        Mode::RUSR,
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    // Deeper than a path can be long.
    let mut deep = Dir::open_root(&upper).unwrap();
    for _ in 0..300 {
        let name = CString::new("d".repeat(100)).unwrap();
        rustix::fs::mkdirat(&deep, &name, Mode::RWXU).unwrap();
        deep = deep.child(&name).unwrap();
    }
    rustix::fs::linkat(
        rustix::fs::CWD,
        upper.join("three"),
        &deep,
        c"four",
        AtFlags::empty(),
    )
    .unwrap();
    bench.save("saved", &upper, &[]).unwrap();

    let saved = bench.path("saved");
    let meta = |name: &str| fs::symlink_metadata(saved.join(name)).unwrap();
    assert_eq!(meta("a/one").nlink(), 5, "four names and one of the maker");
    assert_eq!(meta("a/two").ino(), meta("three").ino());
    assert_eq!(meta("sparse").len(), 8 << 30);
    assert!(meta("sparse").blocks() < 100, "{}", meta("sparse").blocks());
    assert_eq!(meta("link").permissions().mode() & 0o170_000, 0o120_000);
    assert_eq!(meta("socket").mode() & 0o170_000, 0o140_000);
    for whiteout in ["gone", "null"] {
        assert_eq!(
            (meta(whiteout).rdev(), meta(whiteout).mode()),
            (0, 0o020_000),
            "{whiteout}"
        );
    }

    let refused = |name: &str, upper: &Path| match bench.save(name, upper, &[]) {
        Err(ArtifactError::Tree { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    sparse.set_len(super::file::HOLE_BYTES + (1 << 20)).unwrap();
    assert!(refused("holes", &upper).contains("holes"));
    for _ in 0..100 {
        rustix::fs::mkdirat(&deep, c"d", Mode::RWXU).unwrap();
        let fd = rustix::fs::openat(&deep, c"d", Dir::FLAGS, Mode::empty()).unwrap();
        deep = Dir::of(fd, PathBuf::new()).unwrap();
    }
    sparse.set_len(0).unwrap();
    assert!(refused("deep", &upper).contains("deep"));
    // The tree is deeper than the standard library can remove.
    shell(&format!("rm -rf {}", bench.dir.path().display()));
}

/// More names than ext4 gives one file: the layer has them all, of as many files as it takes.
#[test]
fn more_links_than_a_file_can_have() {
    let Some(bench) = bench("more_links_than_a_file_can_have") else {
        return;
    };
    let upper = bench.layer("upper", "echo x > 0");
    let mut names = 1;
    while fs::hard_link(upper.join("0"), upper.join(names.to_string())).is_ok() && names < 70_000 {
        names += 1;
    }
    bench.save("saved", &upper, &[]).unwrap();
    assert_eq!(fs::read_dir(bench.path("saved")).unwrap().count(), names);
    let facts = tree::hash(&bench.path("saved"), &mut |_| ()).unwrap();
    assert_eq!(
        facts.digest,
        tree::hash(&upper, &mut |_| ()).unwrap().digest
    );
    assert!(facts.content_bytes <= 4, "{facts:?}");
}
