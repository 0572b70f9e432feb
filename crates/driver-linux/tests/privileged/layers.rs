//! What a sandbox has written becomes a layer, and another sandbox sees the same.

use std::fs;
use std::time::Instant;

use serde_json::Value;
use soulbox_driver::{Driver as _, DriverError, SavedLayer};
use soulbox_driver_linux::{Backing, BackingChoice};
use soulbox_types::LayerDigest;

use crate::commands::Sandbox;
use crate::support::{Place, Stage, in_place, names_in, on_stage, soon};

/// Prints a digest of every second-level directory: names, types, modes, owners, sizes, times, links between names,
/// attributes, and content of what is below `/work`.
const LISTING: &str = r#"
import hashlib, json, os, stat
skip = {"/proc", "/sys", "/dev", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/run/e2b"}
found, inodes = {}, {}
def look(path):
    if path in skip: return
    s = os.lstat(path)
    line = [path, s.st_mode, s.st_uid, s.st_gid]
    if not stat.S_ISDIR(s.st_mode): line += [s.st_size, s.st_mtime_ns]
    if stat.S_ISLNK(s.st_mode): line.append(os.readlink(path))
    line.append([(n, os.getxattr(path, n, follow_symlinks=False).hex()) for n in sorted(os.listxattr(path, follow_symlinks=False))])
    if path.startswith("/work"):
        if stat.S_ISREG(s.st_mode):
            line.append(inodes.setdefault(s.st_ino, path))
            line.append(s.st_blocks < 100)
            with open(path, "rb") as f: line.append(hashlib.sha1(f.read(1 << 20)).hexdigest())
        found[path] = repr(line)
    place = "/".join(path.split("/")[:3])
    found.setdefault(place, hashlib.sha1())
    if not isinstance(found[place], str): found[place].update(repr(line).encode())
    if stat.S_ISDIR(s.st_mode):
        for name in sorted(os.listdir(path)): look(os.path.join(path, name))
look("/")
print(json.dumps({k: v if isinstance(v, str) else v.hexdigest() for k, v in found.items()}))
"#;

/// Writes, deletes and replaces files of the template, in all ways there are.
const CHANGES: &str = r#"
import os, shutil, struct
os.makedirs("/work/deep/er"); os.chdir("/work")
open("plain", "w").write("content " + os.uname().nodename)
os.link("plain", "deep/second"); os.symlink("/etc/shadow", "link"); os.mkfifo("fifo")
with open("sparse", "wb") as f: f.seek(64 << 20); f.write(b"end")
open("program", "w").write("x"); os.chown("program", 1000, 1001); os.chmod("program", 0o6755)
os.setxattr("plain", "user.test", b"value")
os.chmod("deep", 0o1777); os.chown("deep/er", 33, 44)
try:
    os.setxattr("program", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
    capable = True
except PermissionError:
    capable = False
os.remove("/etc/debian_version"); open("/etc/profile", "a").write(" :\n")
os.chmod("/etc/passwd", 0o640); os.chown("/usr/bin/env", 1000, 1000)
shutil.rmtree("/usr/share/doc"); os.mkdir("/usr/share/doc"); open("/usr/share/doc/new", "w").write("x")
os.remove("/usr/bin/git"); os.mkdir("/usr/bin/git")
shutil.rmtree("/usr/share/perl5", True); open("/usr/share/perl5", "w").write("x")
os.rename("/usr/share/zoneinfo", "/opt/zones"); open("/opt/zones/mine", "w").write("x")
print("true" if capable else "false")
"#;

/// Layers that a test has made, where other tests have the template. They go with it.
struct Made<'a> {
    stage: &'a Stage,
    layers: Vec<LayerDigest>,
}

impl<'a> Made<'a> {
    fn new(stage: &'a Stage) -> Self {
        Self {
            stage,
            layers: Vec::new(),
        }
    }

    async fn save(&mut self, sandbox: &Sandbox) -> SavedLayer {
        let saved = soon("save", sandbox.guest.save()).await.unwrap().unwrap();
        soon("the end", sandbox.guest.ended()).await;
        self.layers.push(saved.digest);
        saved
    }

    /// A sandbox on these layers, topmost first, and the template.
    async fn on(&self, layers: &[LayerDigest]) -> Sandbox {
        let mut spec = self.stage.spec();
        let below = std::mem::take(&mut spec.image.layers);
        spec.image.layers = [layers, &below].concat();
        self.stage.create_as(&spec).await
    }

    async fn remove(mut self) {
        let layers = std::mem::take(&mut self.layers);
        let removed = self.stage.driver.remove_layers(&layers).await.unwrap();
        assert_eq!(removed.len(), layers.len(), "{layers:?}");
        for layer in layers {
            let path = self.stage.needs.layers_dir.join(layer.to_string());
            assert!(!path.exists() && !path.with_extension("json").exists());
        }
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        for layer in &self.layers {
            let path = self.stage.needs.layers_dir.join(layer.to_string());
            let _gone = (
                fs::remove_dir_all(&path),
                fs::remove_file(path.with_extension("json")),
            );
        }
    }
}

async fn listing(sandbox: &Sandbox) -> Value {
    sandbox.python("root", LISTING).await
}

fn assert_same(one: &Value, other: &Value) {
    let (one, other) = (one.as_object().unwrap(), other.as_object().unwrap());
    let keys = one.keys().chain(other.keys());
    let differs: Vec<_> = keys
        .filter(|key| one.get(*key) != other.get(*key))
        .map(|key| format!("{key}: {:?} {:?}", one.get(key), other.get(key)))
        .collect();
    assert!(differs.is_empty(), "{differs:#?}");
}

/// `name` makes the layers other ones than those of a test beside this one: the same content would be the same layer.
async fn everything_is_seen_again(stage: &Stage, name: &str) {
    let mut made = Made::new(stage);
    let sandbox = stage.create().await;
    sandbox.root(&format!("echo {name} > /name")).await;
    let capable = sandbox.python("root", CHANGES).await == Value::Bool(true);
    let before = listing(&sandbox).await;
    let first = made.save(&sandbox).await;
    let second = made.on(&[first.digest]).await;
    assert_same(&before, &listing(&second).await);
    if capable {
        let path = stage.needs.layers_dir.join(first.digest.to_string());
        let mut value = [0; 64];
        let length = rustix::fs::getxattr(
            path.join("work/program"),
            "security.capability",
            &mut value[..],
        );
        assert_eq!(length, Ok(20), "as in an image: of no root in particular");
    }
    // On top of it, undoing some and going on.
    second
        .root(&format!(
            "cd /work && rm -r plain deep && mkdir deep && echo {name} > deep/x && rm /usr/share/doc/new && \
             mv /opt/zones /usr/share/zoneinfo && rmdir /usr/bin/git && ln -s env /usr/bin/git && rm /usr/share/perl5",
        ))
        .await;
    let before = listing(&second).await;
    let above = made.save(&second).await;
    let third = made.on(&[above.digest, first.digest]).await;
    assert_same(&before, &listing(&third).await);
    let whole = stage
        .driver
        .squash(&[above.digest, first.digest])
        .await
        .unwrap();
    made.layers.push(whole.digest);
    let fourth = made.on(&[whole.digest]).await;
    assert_same(&before, &listing(&fourth).await);
    // What somebody stands on stays.
    let wanted = [above.digest, first.digest, whole.digest];
    assert_eq!(stage.driver.remove_layers(&wanted).await.unwrap(), []);
    for sandbox in [third, fourth] {
        soon("kill", sandbox.guest.kill()).await.unwrap();
    }
    stage.driver.settle().await;
    made.remove().await;
    assert!(names_in(&stage.place.data_dir.join("sandboxes")).is_empty());
}

#[test]
fn a_saved_sandbox_is_seen_again() {
    on_stage(async |stage| everything_is_seen_again(stage, "image").await);
}

#[test]
fn a_saved_sandbox_without_a_disk_of_its_own_is_seen_again() {
    in_place(async |mut place: Place, needs| {
        place.disk.backing = BackingChoice::Only(Backing::None);
        let stage = Stage::new(place, needs, 0).await;
        everything_is_seen_again(&stage, "none").await;
        stage.finish().await;
    });
}

#[test]
fn nothing_written_is_no_layer() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let begun = Instant::now();
        let saved = soon("save", sandbox.guest.save()).await.unwrap();
        eprintln!("save of nothing: {:?}", begun.elapsed());
        assert_eq!(saved, None);
    });
}

#[test]
fn a_hundred_mebibytes_are_saved_at_once() {
    on_stage(async |stage| {
        let mut made = Made::new(stage);
        let sandbox = stage.create().await;
        sandbox.root("head -c 100M /dev/urandom > /big").await;
        let begun = Instant::now();
        let saved = made.save(&sandbox).await;
        eprintln!("save of 100 MiB: {:?}", begun.elapsed());
        assert_eq!(saved.content_bytes, 100 << 20);
        made.remove().await;
    });
}

/// Of two that save at the same time, one has the layer. A kill in between changes nothing.
#[test]
fn one_save_succeeds_whoever_kills() {
    on_stage(async |stage| {
        let mut made = Made::new(stage);
        let sandbox = stage.create().await;
        sandbox
            .root("echo one-save > /root/mark; cat /etc/hostname >> /root/mark")
            .await;
        let guest = &sandbox.guest;
        let (one, other, killed) = tokio::join!(guest.save(), guest.save(), guest.kill());
        killed.unwrap();
        let saved: Vec<_> = [one, other].into_iter().filter_map(Result::ok).collect();
        assert_eq!(saved.len(), 1, "{saved:?}");
        made.layers.push(saved[0].unwrap().digest);
        let error = guest.save().await.unwrap_err();
        assert!(matches!(error, DriverError::Host { .. }), "{error:?}");
        made.remove().await;
    });
}

#[test]
fn a_sandbox_that_has_ended_and_is_cleaned_up_cannot_be_saved() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        sandbox.root("echo x > /root/x").await;
        crate::support::kill_process(sandbox.pid);
        soon("the end", sandbox.guest.ended()).await;
        stage.driver.settle().await;
        let error = sandbox.guest.save().await.unwrap_err();
        assert!(matches!(error, DriverError::Host { .. }), "{error:?}");
    });
}

/// What cannot be a layer is refused, and the sandbox is gone all the same.
#[test]
fn a_tree_that_is_too_deep_is_refused() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let deep = "import os; os.chdir('/root')\nfor _ in range(500): os.mkdir('d'); os.chdir('d')\nprint(1)";
        sandbox.python("root", deep).await;
        let error = soon("save", sandbox.guest.save()).await.unwrap_err();
        let DriverError::Host { source, .. } = &error else {
            panic!("{error:?}");
        };
        assert!(source.to_string().contains("nested too deeply"), "{source}");
        soon("the end", sandbox.guest.ended()).await;
    });
}
