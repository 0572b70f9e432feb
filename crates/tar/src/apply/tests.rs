use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use tar::{Builder, Header};

use super::*;

const PLENTY: Limits = Limits {
    bytes: 1 << 30,
    entries: 1000,
};

/// An archive of entries: name, kind, content or link target, mode.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn add(mut self, name: &str, kind: EntryType, text: &str, mode: u32) -> Self {
        let mut header = Header::new_gnu();
        let is_link = matches!(kind, EntryType::Link | EntryType::Symlink);
        // The names that the library refuses to write are what is tested.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(rustix::process::getuid().as_raw().into());
        header.set_gid(rustix::process::getgid().as_raw().into());
        header.set_mtime(1_000_000_000);
        let content = if is_link { "" } else { text };
        if is_link {
            header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content.as_bytes()).unwrap();
        self
    }

    fn file(self, name: &str, text: &str) -> Self {
        self.add(name, EntryType::Regular, text, 0o644)
    }

    fn dir(self, name: &str) -> Self {
        self.add(name, EntryType::Directory, "", 0o755)
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.add(name, EntryType::Symlink, target, 0o777)
    }

    fn hard(self, name: &str, target: &str) -> Self {
        self.add(name, EntryType::Link, target, 0o644)
    }

    fn over(self, root: &Path) -> Result<Done, UnpackError> {
        self.within(root, PLENTY)
    }

    fn within(self, root: &Path, limits: Limits) -> Result<Done, UnpackError> {
        let bytes = self.0.into_inner().unwrap();
        let root = OwnedFd::from(File::open(root).unwrap());
        archive(&root, Cursor::new(bytes), &Meaning::Layer, limits)
    }
}

fn tree() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(dir.path().join("outside"), "untouched").unwrap();
    (dir, root)
}

fn text(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_else(|e| format!("{path}: {e}"))
}

fn names(directory: PathBuf) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn entries_come_with_mode_time_and_links() {
    let (_dir, root) = tree();
    let done = Layer::new()
        .add("a/b/tool", EntryType::Regular, "x", 0o4755)
        .add("d", EntryType::Directory, "", 0o1777)
        .symlink("a/link", "/a/b/tool")
        .hard("d/second", "a/b/tool")
        .add("pipe", EntryType::Fifo, "", 0o600)
        .over(&root)
        .unwrap();
    assert_eq!((done.entries, done.bytes, done.left_out), (5, 1, 0));
    let tool = fs::metadata(root.join("a/b/tool")).unwrap();
    assert_eq!(
        (tool.mode() & 0o7777, tool.mtime(), tool.nlink()),
        (0o4755, 1_000_000_000, 2)
    );
    let d = fs::metadata(root.join("d")).unwrap();
    assert_eq!((d.mode() & 0o7777, d.mtime()), (0o1777, 1_000_000_000));
    assert_eq!(
        fs::read_link(root.join("a/link")).unwrap(),
        Path::new("/a/b/tool")
    );
}

#[test]
fn whiteouts_take_away_what_is_below_and_nothing_of_their_own() {
    let (_dir, root) = tree();
    let below = Layer::new()
        .file("a/one", "1")
        .file("a/two", "2")
        .file("o/x/deep", "x")
        .file("o/y", "y");
    below.over(&root).unwrap();
    Layer::new()
        .file("a/.wh.one", "")
        .file("a/new", "n")
        .file("a/.wh.new", "")
        .file("a/.wh.never", "")
        .file("nowhere/.wh.x", "")
        .file("o/x/kept", "k")
        .file("o/.wh..wh..opq", "")
        .file("o/z", "z")
        .file(".wh..wh.plnk", "")
        .over(&root)
        .unwrap();
    assert_eq!(names(root.join("a")), ["new", "two"]);
    assert_eq!(names(root.join("o")), ["x", "z"]);
    assert_eq!(names(root.clone()), ["a", "o"]);
}

#[test]
fn an_opaque_directory_that_the_layer_made_again_loses_only_what_is_below() {
    let (_dir, root) = tree();
    Layer::new().file("o/x/old", "o").over(&root).unwrap();
    let again = Layer::new()
        .dir("o")
        .dir("o/x")
        .file("o/x/new", "n")
        .file("o/.wh..wh..opq", "");
    again.over(&root).unwrap();
    assert_eq!(names(root.join("o/x")), ["new"]);
}

#[test]
fn kinds_replace_each_other() {
    let (_dir, root) = tree();
    Layer::new()
        .file("a/x", "1")
        .file("f", "f")
        .symlink("l", "a")
        .over(&root)
        .unwrap();
    Layer::new()
        .file("a", "file")
        .dir("f")
        .dir("l")
        .file("l/in", "i")
        .over(&root)
        .unwrap();
    assert_eq!(text(&root, "a"), "file");
    assert!(root.join("f").is_dir());
    assert_eq!(text(&root, "l/in"), "i");
    assert!(!fs::symlink_metadata(root.join("l")).unwrap().is_symlink());
}

#[test]
fn links_of_layers_below_are_followed_inside_only() {
    let (dir, root) = tree();
    let outside = dir.path().display().to_string();
    Layer::new()
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .symlink("out", &outside)
        .symlink("up", "../../../..")
        .over(&root)
        .unwrap();
    Layer::new()
        .file("lib/a", "a")
        .file("abs/b", "b")
        .file("out/outside", "caught")
        .file("up/c", "c")
        .over(&root)
        .unwrap();
    assert_eq!(names(root.join("usr/lib")), ["a", "b"]);
    assert_eq!(
        fs::read_to_string(dir.path().join("outside")).unwrap(),
        "untouched"
    );
    assert_eq!(text(&root, "c"), "c");
    assert_eq!(names(dir.path().to_owned()), ["outside", "root"]);
}

#[test]
fn ways_out_are_refused() {
    let refused = |layer: Layer| {
        let (dir, root) = tree();
        let error = layer.over(&root).unwrap_err();
        assert_eq!(
            fs::read_to_string(dir.path().join("outside")).unwrap(),
            "untouched"
        );
        error.to_string()
    };
    let outside = "the entry leads out of the image";
    assert!(refused(Layer::new().file("../outside", "x")).contains(outside));
    assert!(refused(Layer::new().file("a/../../outside", "x")).contains(outside));
    assert!(refused(Layer::new().hard("mine", "../outside")).contains(outside));
    assert!(refused(Layer::new().dir("a").file("a/.wh...", "")).contains(outside));
    assert!(
        refused(Layer::new().hard("mine", "missing")).contains("a hard link to what is not there")
    );
    let through_a_link = Layer::new().symlink("s", "..").hard("mine", "s/outside");
    assert!(refused(through_a_link).contains("a hard link to what is not there"));
}

#[test]
fn an_absolute_name_is_one_of_the_image() {
    let (_dir, root) = tree();
    Layer::new()
        .file("/etc/x", "x")
        .file("./y", "y")
        .over(&root)
        .unwrap();
    assert_eq!(
        (text(&root, "etc/x"), text(&root, "y")),
        ("x".to_owned(), "y".to_owned())
    );
}

#[test]
fn a_link_that_replaces_the_directory_of_the_entry_before_is_seen() {
    let (dir, root) = tree();
    Layer::new()
        .file("d/one", "1")
        .symlink("d", "../..")
        .file("d/outside", "2")
        .over(&root)
        .unwrap();
    assert_eq!(
        fs::read_to_string(dir.path().join("outside")).unwrap(),
        "untouched"
    );
    assert_eq!(text(&root, "outside"), "2");
}

#[test]
fn devices_are_left_out() {
    let (_dir, root) = tree();
    let done = Layer::new()
        .add("dev/sda", EntryType::Block, "", 0o666)
        .add("dev/null", EntryType::Char, "", 0o666)
        .over(&root)
        .unwrap();
    assert_eq!((done.entries, done.left_out), (2, 2));
    assert!(names(root.join("dev")).is_empty());
}

#[test]
fn limits_hold() {
    let (_dir, root) = tree();
    let small = Limits {
        bytes: 3,
        entries: 2,
    };
    let large = Layer::new()
        .file("a", "12")
        .file("b", "34")
        .within(&root, small);
    assert_eq!(
        large.unwrap_err().to_string(),
        "the layer unpacks to more than 3 bytes"
    );
    let many = Layer::new().dir("a").dir("b").dir("c").within(&root, small);
    assert_eq!(
        many.unwrap_err().to_string(),
        "the layer holds more than 2 entries"
    );
    let grown = PLENTY.for_compressed(2 << 20);
    assert_eq!(grown.bytes, 400 << 20);
    assert_eq!(PLENTY.for_compressed(1).bytes, 256 << 20);
}

#[test]
fn high_ids_belong_to_nobody() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP high_ids_belong_to_nobody: needs root");
        return;
    }
    let (_dir, root) = tree();
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_path("f").unwrap();
    header.set_uid(197_609);
    header.set_gid(12);
    header.set_mode(0o600);
    header.set_size(0);
    header.set_cksum();
    builder.append(&header, &b""[..]).unwrap();
    Layer(builder).over(&root).unwrap();
    let facts = fs::metadata(root.join("f")).unwrap();
    assert_eq!((facts.uid(), facts.gid()), (NOBODY, 12));
    assert_eq!(facts.permissions().mode() & 0o7777, 0o600);
}

#[test]
fn the_whole_archive_is_hashed() {
    let (_dir, root) = tree();
    let bytes = Layer::new().file("a", "1").0.into_inner().unwrap();
    let expected: String = Sha256::digest(&bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let root = OwnedFd::from(File::open(root).unwrap());
    let done = archive(&root, Cursor::new(bytes), &Meaning::Layer, PLENTY).unwrap();
    assert_eq!(done.diff_id, expected);
}

#[test]
fn files_are_only_files() {
    let (_dir, root) = tree();
    Layer::new()
        .add("srv/there", EntryType::Directory, "", 0o711)
        .file("srv/there/kept", "k")
        .over(&root)
        .unwrap();
    let bytes = Layer::new()
        .add("there", EntryType::Directory, "", 0o755)
        .file("there/.wh.kept", "a name")
        .add("new", EntryType::Directory, "", 0o750)
        .hard("new/again", "there/.wh.kept")
        .0
        .into_inner()
        .unwrap();
    let into = Meaning::Files("/srv".into());
    let at = OwnedFd::from(File::open(&root).unwrap());
    archive(&at, Cursor::new(bytes), &into, PLENTY).unwrap();
    assert_eq!(names(root.join("srv/there")), [".wh.kept", "kept"]);
    let mode = |path: &str| fs::metadata(root.join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("srv/there"), mode("srv/new")), (0o711, 0o750));
    assert_eq!(text(&root, "srv/new/again"), "a name");
}

#[test]
fn one_file_goes_to_a_path_or_into_a_directory() {
    let (_dir, root) = tree();
    Layer::new().dir("there").over(&root).unwrap();
    let at = OwnedFd::from(File::open(&root).unwrap());
    for target in ["/there", "/other/name"] {
        let bytes = Layer::new().file("a", "1").0.into_inner().unwrap();
        let meaning = Meaning::File(target.into());
        archive(&at, Cursor::new(bytes), &meaning, PLENTY).unwrap();
    }
    assert_eq!(text(&root, "there/a"), "1");
    assert_eq!(text(&root, "other/name"), "1");
}

#[test]
fn a_last_block_without_padding_is_only_taken_where_the_content_was_promised() {
    let bytes = Layer::new().file("a", "text").0.into_inner().unwrap();
    let cut = &bytes[..512 + 4];
    for (meaning, taken) in [(Meaning::PromisedLayer, true), (Meaning::Layer, false)] {
        let (_dir, root) = tree();
        let at = OwnedFd::from(File::open(&root).unwrap());
        let done = archive(&at, Cursor::new(cut.to_vec()), &meaning, PLENTY);
        assert_eq!(done.is_ok(), taken, "{done:?}");
        if let Ok(done) = done {
            let expected: String = Sha256::digest(cut)
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            assert_eq!(
                (done.diff_id, text(&root, "a").as_str()),
                (expected, "text")
            );
        }
    }
}
