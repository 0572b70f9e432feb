use std::os::fd::AsFd as _;

use super::*;

fn store() -> (tempfile::TempDir, Artifacts) {
    let dir = tempfile::tempdir().unwrap();
    let artifacts = Artifacts::open(dir.path()).unwrap();
    (dir, artifacts)
}

/// A layer with one file of this name and content.
fn saved(artifacts: &Artifacts, name: &str, content: &str) -> Option<LayerFacts> {
    let upper = tempfile::tempdir().unwrap();
    if !name.is_empty() {
        fs::write(upper.path().join(name), content).unwrap();
    }
    let upper = File::open(upper.path()).unwrap();
    let written = Written {
        upper: upper.as_fd(),
        first_id: 1,
        furnished: &[],
    };
    artifacts.save(&written, &[]).unwrap()
}

fn unfinished(artifacts: &Artifacts) -> Vec<String> {
    let entries = fs::read_dir(artifacts.data_dir().join("tmp")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(PREFIX)).collect()
}

#[test]
fn layers_come_and_go() {
    let (_dir, artifacts) = store();
    assert_eq!(saved(&artifacts, "", ""), None);
    let one = saved(&artifacts, "a", "1").unwrap();
    let other = saved(&artifacts, "b", "22").unwrap();
    assert_eq!((one.entries, one.content_bytes), (2, 1));
    let whole = artifacts.squash(&[one.digest, other.digest]).unwrap();
    assert_eq!((whole.entries, whole.content_bytes), (3, 3));
    for layer in [one, other, whole] {
        let path = artifacts.check_layer(&layer.digest).unwrap();
        assert_eq!(tree::hash(&path, &mut |_| ()).unwrap(), layer);
    }
    assert!(unfinished(&artifacts).is_empty());

    assert!(artifacts.remove_layer(&one.digest).unwrap().is_some());
    assert!(artifacts.remove_layer(&one.digest).unwrap().is_none());
    assert!(unfinished(&artifacts).is_empty());
    assert!(!artifacts.layer_path(&one.digest).exists());
    assert!(!artifacts.marker_path(&one.digest).exists());
    artifacts.check_layer(&whole.digest).unwrap();
    let missing = artifacts.squash(&[whole.digest, one.digest]);
    assert!(matches!(missing, Err(ArtifactError::LayerMissing { .. })));
    assert!(unfinished(&artifacts).is_empty());
}

#[test]
fn the_same_layer_is_used_again_and_a_damaged_one_is_not() {
    let (_dir, artifacts) = store();
    let layer = saved(&artifacts, "a", "1").unwrap();
    let path = artifacts.layer_path(&layer.digest);
    let inode = || {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(&path).unwrap().ino()
    };
    let first = inode();
    assert_eq!(saved(&artifacts, "a", "1"), Some(layer));
    assert_eq!(inode(), first);
    fs::write(path.join("planted"), "").unwrap();
    assert_eq!(saved(&artifacts, "a", "1"), Some(layer));
    assert_ne!(inode(), first);
    artifacts.check_layer(&layer.digest).unwrap();
}

/// What a kill between two steps leaves.
#[test]
fn halves_are_made_good() {
    let (_dir, artifacts) = store();
    let layer = saved(&artifacts, "a", "1").unwrap();
    let path = artifacts.layer_path(&layer.digest);
    // A marker without a layer, of a save or a removal.
    let away = artifacts.data_dir().join("tmp").join("away");
    fs::rename(&path, &away).unwrap();
    assert!(artifacts.check_layer(&layer.digest).is_err());
    assert_eq!(saved(&artifacts, "a", "1"), Some(layer));
    artifacts.check_layer(&layer.digest).unwrap();
    fs::rename(&path, artifacts.data_dir().join("tmp").join("again")).unwrap();
    assert!(artifacts.remove_layer(&layer.digest).unwrap().is_none());
    assert!(!artifacts.marker_path(&layer.digest).exists());
}

#[test]
fn only_the_work_of_the_dead_is_cleared() {
    let (dir, artifacts) = store();
    let alive = Work::begin(&artifacts).unwrap();
    let dead = artifacts.data_dir().join("tmp/layer-1-1");
    fs::create_dir_all(dead.join("tree/a/b")).unwrap();
    fs::create_dir_all(dead.join("links")).unwrap();
    Artifacts::clear_unfinished(dir.path()).unwrap();
    assert!(!dead.exists());
    assert!(alive.path.exists());
    drop(alive);
    assert!(unfinished(&artifacts).is_empty());
    Artifacts::clear_unfinished(&dir.path().join("nothing")).unwrap();
}

/// A small file system that fills up: nothing half made stays, and it is told as what it is.
#[test]
fn a_full_disk_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP a_full_disk_leaves_nothing: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = |arguments: &[&str]| {
        let status = std::process::Command::new(arguments[0])
            .args(&arguments[1..])
            .arg(dir.path())
            .status();
        assert!(status.unwrap().success(), "{arguments:?}");
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"]);
    let upper = tempfile::tempdir().unwrap();
    fs::write(upper.path().join("big"), vec![1; 2 << 20]).unwrap();
    let found = std::panic::catch_unwind(|| {
        let artifacts = Artifacts::open(dir.path()).unwrap();
        let upper = File::open(upper.path()).unwrap();
        let written = Written {
            upper: upper.as_fd(),
            first_id: 1,
            furnished: &[],
        };
        let error = artifacts.save(&written, &[]).unwrap_err();
        let layers = fs::read_dir(artifacts.layers_dir()).unwrap().count();
        (error.kind(), unfinished(&artifacts), layers)
    });
    mount(&["umount"]);
    let nothing = (soulbox_types::ErrorKind::StorageFull, Vec::new(), 0);
    assert_eq!(found.unwrap(), nothing);
}

#[test]
fn the_bare_layer_is_the_same_every_time() {
    let (_dir, artifacts) = store();
    let made = artifacts.bare().unwrap();
    assert_eq!(artifacts.bare().unwrap(), made);
    artifacts.check_layer(&made.digest).unwrap();
    assert!(
        artifacts
            .layer_path(&made.digest)
            .join("etc/passwd")
            .is_file()
    );
    assert!(unfinished(&artifacts).is_empty());
    drop(artifacts.remove_layer(&made.digest).unwrap());
    assert_eq!(artifacts.bare().unwrap(), made);
}
