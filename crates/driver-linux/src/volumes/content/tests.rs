use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::*;

struct Scene {
    tree: Tree,
    dir: tempfile::TempDir,
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    let open = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        OwnedFd::from(fs::File::open(path).unwrap())
    };
    let tree = Tree {
        data: open("data"),
        work: open("work"),
    };
    Scene { tree, dir }
}

impl Scene {
    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    fn write(&self, path: &str, text: &str, replace: bool) -> Result<VolumeEntry, VolumeError> {
        let place = Place { path, replace };
        let file = self.tree.begin(place)?;
        rustix::io::write(&file, text.as_bytes()).unwrap();
        self.tree.finish(&file, "upload-1", place, owned(0o640))
    }

    /// Nothing half written or half removed is left.
    fn clean(&self) -> bool {
        let mut left = fs::read_dir(self.dir.path().join("work")).unwrap();
        left.next().is_none()
    }
}

fn owned(mode: u32) -> Owned {
    Owned {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mode,
    }
}

fn not_found<T>(result: &Result<T, VolumeError>) -> bool {
    matches!(result, Err(VolumeError::NotFound(_)))
}

fn in_the_way<T>(result: &Result<T, VolumeError>) -> bool {
    matches!(result, Err(VolumeError::InTheWay(..)))
}

#[test]
fn files_are_there_whole_or_not_at_all() {
    let scene = scene();
    let begun = scene.tree.begin(Place {
        path: "/f",
        replace: false,
    });
    rustix::io::write(begun.unwrap(), b"half").unwrap();
    assert!(!scene.data().join("f").exists());
    let entry = scene.write("f", "one", false).unwrap();
    assert_eq!((entry.path.as_str(), entry.size), ("/f", 3));
    assert_eq!(entry.owned, owned(0o640));
    assert!(in_the_way(&scene.write("/f", "two", false)));
    assert_eq!(scene.write("/f", "two", true).unwrap().size, 3);
    assert_eq!(fs::read_to_string(scene.data().join("f")).unwrap(), "two");
    fs::create_dir(scene.data().join("d")).unwrap();
    assert!(in_the_way(&scene.write("/d", "x", true)));
    assert!(not_found(&scene.write("/no/f", "x", true)));
    assert!(in_the_way(&scene.write("/", "x", true)));
    // What got in the way meanwhile stays.
    let place = Place {
        path: "/late",
        replace: true,
    };
    let file = scene.tree.begin(place).unwrap();
    fs::create_dir(scene.data().join("late")).unwrap();
    let finished = scene.tree.finish(&file, "upload-2", place, owned(0o600));
    assert!(in_the_way(&finished));
    assert!(scene.clean());
}

#[test]
fn no_path_and_no_link_leads_out() {
    let scene = scene();
    for (link, target) in [
        ("up", "../secret"),
        ("far", "../../../../../etc/passwd"),
        ("absolute", "/etc/passwd"),
        ("proc", "/proc/self/root"),
        ("loop", "loop"),
    ] {
        symlink(target, scene.data().join(link)).unwrap();
        assert!(not_found(&scene.tree.read(link)), "{link}");
        let entry = scene.tree.stat(link).unwrap();
        assert_eq!(entry.kind, EntryKind::Link(target.to_owned()));
    }
    symlink(scene.dir.path(), scene.data().join("above")).unwrap();
    symlink("..", scene.data().join("dots")).unwrap();
    assert!(not_found(&scene.tree.read("/above/secret")));
    assert!(not_found(&scene.tree.read("/dots/secret")));
    assert!(not_found(&scene.tree.read("/../../secret")));
    assert!(not_found(&scene.write("/above/new", "x", true)));
    assert!(scene.write("/dots/new", "x", true).is_ok());
    assert!(scene.data().join("new").exists());
    assert!(not_found(&scene.tree.remove("/above/secret", "removed-1")));
    scene.tree.remove("/above", "removed-1").unwrap();
    let secret = scene.dir.path().join("secret");
    assert_eq!(fs::read_to_string(secret).unwrap(), "secret");
}

#[test]
fn nothing_that_is_no_file_is_opened() {
    let scene = scene();
    let pipe = scene.data().join("pipe");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    symlink("pipe", scene.data().join("link")).unwrap();
    for path in ["/pipe", "/link"] {
        let read = scene.tree.read(path);
        assert!(matches!(read, Err(VolumeError::Invalid(_))), "{read:?}");
    }
    assert_eq!(scene.tree.stat("/pipe").unwrap().kind, EntryKind::Other);
    scene.write("/pipe", "a file now", true).unwrap();
    assert_eq!(fs::read_to_string(pipe).unwrap(), "a file now");
}

#[test]
fn directories() {
    let scene = scene();
    let make = |path, parents| scene.tree.make_directory(path, owned(0o700), parents);
    assert_eq!(make("/a", false).unwrap().owned.mode, 0o700);
    assert!(in_the_way(&make("/a", false)));
    assert!(in_the_way(&make("/", false)));
    assert!(make("/", true).is_ok());
    assert!(not_found(&make("/b/c", false)));
    assert_eq!(make("/a/b//c", true).unwrap().path, "/a/b/c");
    assert!(make("/a/b/c", true).is_ok());
    scene.write("/a/f", "x", false).unwrap();
    assert!(in_the_way(&make("/a/f", true)));
    assert!(in_the_way(&make("/a/f/g", true)));
    let paths = |path, depth| {
        let entries = scene.tree.list(path, depth).unwrap();
        entries.into_iter().map(|e| e.path).collect::<Vec<_>>()
    };
    assert_eq!(paths("/", 1), ["/a"]);
    assert_eq!(paths("/a", 2), ["/a/b", "/a/b/c", "/a/f"]);
    assert!(not_found(&scene.tree.list("/a/f", 1)));
    assert!(matches!(
        scene.tree.list("/", 0),
        Err(VolumeError::Invalid(_))
    ));
    scene.tree.remove("/a", "removed-1").unwrap();
    assert!(paths("/", 9).is_empty() && scene.clean());
    assert!(not_found(&scene.tree.remove("/a", "removed-1")));
    assert!(not_found(&scene.tree.remove("/", "removed-1")));
}

#[test]
fn owners_and_modes_have_bounds() {
    let scene = scene();
    scene.write("/f", "x", false).unwrap();
    let changed = scene.tree.change("/f", (None, None), Some(0o4711)).unwrap();
    assert_eq!(changed.owned.mode, 0o4711);
    let mode = Path::new(&scene.data()).join("f").metadata().unwrap();
    assert_eq!(mode.permissions().mode() & 0o7777, 0o4711);
    symlink("f", scene.data().join("l")).unwrap();
    for (path, owner, mode) in [
        ("/f", (Some(65_536), None), None),
        ("/f", (None, Some(u32::MAX)), None),
        ("/f", (None, None), Some(0o10000)),
        ("/l", (None, None), Some(0o600)),
        ("\0", (None, None), None),
        ("", (None, None), None),
    ] {
        let changed = scene.tree.change(path, owner, mode);
        assert!(
            matches!(changed, Err(VolumeError::Invalid(_))),
            "{changed:?}"
        );
    }
}
