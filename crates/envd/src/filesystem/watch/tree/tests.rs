//! Real directories and the real kernel; `drain` is synchronous, so nothing has to be waited for.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags};
use tempfile::TempDir;

use super::*;

struct Setup {
    directory: TempDir,
    kernel: OwnedFd,
    tree: Tree,
}

impl Setup {
    fn new(recursive: bool, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        prepare(&root);
        let kernel = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        let scope = Scope {
            root: root.to_str().unwrap().to_owned(),
            recursive,
            entries: false,
        };
        let tree = Tree::arm(kernel.as_fd(), scope).unwrap();
        Self {
            directory,
            kernel,
            tree,
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join("root").join(path)
    }

    fn events(&mut self) -> Vec<String> {
        self.tree.drain(self.kernel.as_fd());
        let mut all = Vec::new();
        while let Some(event) = self.tree.next() {
            let event = event.unwrap();
            let kind = match event.r#type.as_known().unwrap() {
                EventType::EVENT_TYPE_CREATE => "create",
                EventType::EVENT_TYPE_WRITE => "write",
                EventType::EVENT_TYPE_REMOVE => "remove",
                EventType::EVENT_TYPE_RENAME => "rename",
                EventType::EVENT_TYPE_CHMOD => "chmod",
                EventType::EVENT_TYPE_UNSPECIFIED => "?",
            };
            all.push(format!("{kind} {}", event.name));
        }
        all
    }
}

#[test]
fn a_flat_watch_sees_its_own_level() {
    let mut setup = Setup::new(false, |root| fs::create_dir(root.join("old")).unwrap());
    fs::write(setup.at("a"), "x").unwrap();
    fs::create_dir(setup.at("new")).unwrap();
    fs::write(setup.at("new/unseen"), "x").unwrap();
    fs::write(setup.at("old/unseen"), "x").unwrap();
    fs::rename(setup.at("a"), setup.at("b")).unwrap();
    fs::remove_file(setup.at("b")).unwrap();
    let expected = [
        "create a",
        "write a",
        "create new",
        "rename a",
        "create b",
        "remove b",
    ];
    assert_eq!(setup.events(), expected);
    assert!(setup.events().is_empty());
}

#[test]
fn what_is_in_a_new_directory_is_reported_once() {
    let mut setup = Setup::new(true, |_| {});
    fs::create_dir_all(setup.at("a/b")).unwrap();
    fs::write(setup.at("a/b/f"), "x").unwrap();
    assert_eq!(setup.events(), ["create a", "create a/b", "create a/b/f"]);
    fs::write(setup.at("a/b/f"), "y").unwrap();
    fs::write(setup.at("a/b/g"), "y").unwrap();
    assert_eq!(
        setup.events(),
        ["write a/b/f", "create a/b/g", "write a/b/g"]
    );
    fs::remove_file(setup.at("a/b/f")).unwrap();
    fs::write(setup.at("a/b/f"), "").unwrap();
    assert_eq!(setup.events(), ["remove a/b/f", "create a/b/f"]);
}

#[test]
fn directories_that_were_there_are_watched_and_not_reported() {
    let mut setup = Setup::new(true, |root| fs::create_dir_all(root.join("a/b")).unwrap());
    assert!(setup.events().is_empty());
    fs::write(setup.at("a/b/f"), "").unwrap();
    assert_eq!(setup.events(), ["create a/b/f"]);
}

#[test]
fn renamed_directories_stay_watched_under_their_new_name() {
    let mut setup = Setup::new(true, |root| fs::create_dir_all(root.join("a/b")).unwrap());
    fs::rename(setup.at("a"), setup.at("c")).unwrap();
    assert_eq!(setup.events(), ["rename a", "create c"]);
    fs::write(setup.at("c/b/f"), "").unwrap();
    assert_eq!(setup.events(), ["create c/b/f"]);
}

#[test]
fn directories_that_leave_are_forgotten_and_those_that_come_are_reported() {
    let mut setup = Setup::new(true, |root| fs::create_dir_all(root.join("a/b")).unwrap());
    let outside = setup.directory.path().join("outside");
    fs::rename(setup.at("a"), &outside).unwrap();
    assert_eq!(setup.events(), ["rename a"]);
    fs::write(outside.join("b/f"), "").unwrap();
    assert!(setup.events().is_empty());
    fs::rename(&outside, setup.at("back")).unwrap();
    assert_eq!(
        setup.events(),
        ["create back", "create back/b", "create back/b/f"]
    );
    fs::write(setup.at("back/b/f"), "x").unwrap();
    assert_eq!(setup.events(), ["write back/b/f"]);
}

#[test]
fn the_root_itself() {
    let mut setup = Setup::new(true, |_| {});
    fs::set_permissions(
        setup.at(""),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    assert_eq!(setup.events(), ["chmod ."]);
    fs::remove_dir(setup.at("")).unwrap();
    assert_eq!(setup.events(), ["remove ."]);

    let mut setup = Setup::new(true, |_| {});
    let elsewhere = setup.directory.path().join("elsewhere");
    fs::rename(setup.at(""), &elsewhere).unwrap();
    fs::write(elsewhere.join("f"), "").unwrap();
    assert_eq!(setup.events(), ["rename ."]);
    assert!(setup.events().is_empty());
}

#[test]
fn links_are_not_entered() {
    let mut setup = Setup::new(true, |_| {});
    let outside = setup.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, setup.at("link")).unwrap();
    assert_eq!(setup.events(), ["create link"]);
    fs::write(outside.join("f"), "").unwrap();
    assert!(setup.events().is_empty());
}

#[test]
fn too_many_events_end_the_watch() {
    let mut setup = Setup::new(false, |_| {});
    setup.tree.fail(WatchError::Overflow);
    assert_eq!(setup.tree.next(), Some(Err(WatchError::Overflow)));
    assert_eq!(setup.tree.next(), Some(Err(WatchError::Overflow)));
}
