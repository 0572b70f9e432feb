//! Launches that fail and sandboxes that end: nothing may be left of either.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use soulbox_driver::{Driver, DriverError};
use soulbox_types::{LayerDigest, NetworkMode};

use crate::commands::ENVD_PORT;
use crate::support::{Stage, eventually, in_place, names_in, on_stage, soon, spec};

/// Nothing of any sandbox; the cgroups of the block itself may be there.
async fn expect_nothing_running(stage: &Stage) {
    stage.place.expect_empty().await;
}

#[test]
fn a_missing_layer_leaves_nothing() {
    on_stage(async |stage| {
        let mut wanted = stage.spec();
        wanted.image.layers = vec![LayerDigest::from_bytes([0; 32])];
        let error = stage.try_create(&wanted).await.unwrap_err();
        assert!(matches!(error, DriverError::Layer { .. }), "{error:?}");
        expect_nothing_running(stage).await;
    });
}

/// The name under which [`layer`] puts its tree.
const HOSTILE: LayerDigest = LayerDigest::from_bytes([0xbd; 32]);

/// A layer with `content` done to an otherwise bare tree.
fn layer(layers_dir: &Path, content: impl FnOnce(&Path)) -> PathBuf {
    let layer = layers_dir.join(HOSTILE.to_string());
    for name in ["proc", "sys", "dev", "etc", "tmp"] {
        fs::create_dir_all(layer.join(name)).unwrap();
    }
    content(&layer);
    layer
}

/// A template can hold anything. Links where something is to be mounted must not lead the mount elsewhere.
#[test]
fn hostile_layers_are_refused_and_leave_nothing() {
    in_place(async |place, mut needs| {
        needs.layers_dir = place.data_dir.join("layers");
        let layers_dir = needs.layers_dir.clone();
        let stage = Stage::new(place, needs, 0).await;
        for (name, expected) in [
            ("dev", "mount-tmpfs"),
            ("sys", "bind-read-only"),
            ("proc", "mount-proc"),
        ] {
            for link in [true, false] {
                let hostile = layer(&layers_dir, |layer| {
                    fs::remove_dir(layer.join(name)).unwrap();
                    if link {
                        symlink("/etc", layer.join(name)).unwrap();
                    }
                });
                let mut wanted = stage.spec();
                wanted.image.layers = vec![HOSTILE];
                let error = stage.try_create(&wanted).await.unwrap_err();
                assert!(
                    matches!(&error, DriverError::Launch { step, .. } if step == expected),
                    "{name}: {error:?}"
                );
                expect_nothing_running(&stage).await;
                fs::remove_dir_all(hostile).unwrap();
            }
        }
        stage.finish().await;
    });
}

#[test]
fn an_envd_that_ends_at_once_leaves_nothing() {
    in_place(async |place, mut needs| {
        // A static program that has nothing to do when nobody is on its standard input.
        needs.envd = needs.jail.clone();
        let stage = Stage::new(place, needs, 1).await;
        let error = stage.try_create(&stage.spec()).await.unwrap_err();
        assert!(matches!(error, DriverError::Envd { .. }), "{error:?}");
        stage.finish().await;
    });
}

#[test]
fn an_envd_that_cannot_be_run_leaves_nothing() {
    in_place(async |place, mut needs| {
        needs.envd = b"\x7fELF but not quite".to_vec();
        let stage = Stage::new(place, needs, 1).await;
        let error = stage.try_create(&stage.spec()).await.unwrap_err();
        assert!(
            matches!(&error, DriverError::Launch { step, .. } if step == "exec-envd"),
            "{error:?}"
        );
        stage.finish().await;
    });
}

#[test]
fn a_jail_that_cannot_be_run_leaves_nothing() {
    in_place(async |place, mut needs| {
        needs.jail = b"\x7fELF but not quite".to_vec();
        let stage = Stage::new(place, needs, 0).await;
        let error = stage.try_create(&stage.spec()).await.unwrap_err();
        assert!(matches!(error, DriverError::Host { .. }), "{error:?}");
        stage.finish().await;
    });
}

/// A small file system of its own, as data directory.
pub(crate) struct SmallDisk(pub(crate) PathBuf);

impl SmallDisk {
    pub(crate) fn mount(at: &Path, size: &str) -> Self {
        let path = at.join("small");
        fs::create_dir(&path).unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={size},mode=700"))
            .arg("tmpfs")
            .arg(&path)
            .status();
        assert!(status.unwrap().success());
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _status = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_as_such_and_leaves_nothing() {
    in_place(async |mut place, needs| {
        let outer = place.data_dir.clone();
        let disk = SmallDisk::mount(&outer, "1m");
        place.data_dir.clone_from(&disk.0);
        let driver = place.driver(&needs, 0);
        assert!(driver.adopt().await.unwrap().is_empty());
        let guest = driver.create(&spec(&needs)).await.unwrap();
        soon("kill", guest.kill()).await.unwrap();
        drop(guest);
        eventually("the files to be gone", || {
            // The image goes last, and takes its space with it.
            let left = [
                names_in(&disk.0.join("sandboxes")),
                names_in(&disk.0.join("disks")),
            ];
            let gone = left.iter().all(Vec::is_empty);
            gone.then_some(()).ok_or(format!("{left:?}"))
        })
        .await;
        fs::write(disk.0.join("ballast"), vec![1; 2 << 20]).unwrap_err();
        let error = driver.create(&spec(&needs)).await.unwrap_err();
        assert!(matches!(error, DriverError::StorageFull), "{error:?}");
        assert_eq!(names_in(&disk.0.join("sandboxes")), [""; 0]);
        driver.shutdown().await;
        drop((driver, disk));
        place.data_dir = outer;
        place.expect_empty().await;
    });
}

#[test]
fn kill_releases_everything_and_may_be_repeated() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let busy = sandbox
            .serve(
                "user",
                "import os, time; [os.fork() for _ in range(4)]; print('up'); time.sleep(600)",
            )
            .await;
        sandbox.root("setsid sleep 600 > /dev/null 2>&1 &").await;
        assert!(!stage.place.remains().is_empty());
        soon("kill", sandbox.guest.kill()).await.unwrap();
        soon("the end", sandbox.guest.ended()).await;
        assert!(!sandbox.proc("exe").exists() || fs::read_link(sandbox.proc("exe")).is_err());
        soon("another kill", sandbox.guest.kill()).await.unwrap();
        let gone = sandbox.guest.dial(ENVD_PORT).await.unwrap_err();
        assert!(matches!(gone, soulbox_driver::DialError::Gone), "{gone}");
        // A connection of this side keeps the sandbox's network alive.
        drop((busy, sandbox));
        expect_nothing_running(stage).await;
    });
}

#[test]
fn a_sandbox_that_ends_by_itself_is_noticed_and_cleaned_up() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let pid = rustix::process::Pid::from_raw(sandbox.pid).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
        soon("the end", sandbox.guest.ended()).await;
        soon("the end, told again", sandbox.guest.ended()).await;
        drop(sandbox);
        expect_nothing_running(stage).await;
    });
}

/// Directories nested deeper than a path can be. A unit test of the removal goes further.
const NEST: &str = r#"
import os
os.chdir("/home/user")
for n in range(4000):
    os.mkdir("d", 0o700)
    os.chdir("d")
open("end", "w").close()
"#;

#[test]
fn files_of_any_shape_are_removed() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        sandbox.root("mkdir /root/locked && touch /root/locked/f && chmod 000 /root/locked; ln -s /etc /root/out; ln -s / /root/top").await;
        let outside = stage.place.data_dir.join("outside");
        fs::write(&outside, "kept").unwrap();
        sandbox
            .root(&format!("ln -s {} /root/host", outside.display()))
            .await;
        let nested = sandbox.run("user", &["python3", "-c", NEST]).await;
        assert_eq!(nested.code, 0, "{nested:?}");
        soon("stats", sandbox.guest.stats()).await.unwrap();
        soon("kill", sandbox.guest.kill()).await.unwrap();
        drop(sandbox);
        expect_nothing_running(stage).await;
        assert_eq!(fs::read_to_string(outside).unwrap(), "kept");
        // The slot is given back.
        stage.create().await;
    });
}

#[test]
fn many_creates_at_once_all_succeed_and_leave_nothing() {
    in_place(async |place, needs| {
        let stage = Stage::new(place, needs, 4).await;
        let specs: Vec<_> = (0..24)
            .map(|n| {
                let mut wanted = stage.spec();
                wanted.network = if n % 4 == 0 {
                    NetworkMode::Offline
                } else {
                    NetworkMode::Internet
                };
                wanted
            })
            .collect();
        let mut creates = Vec::new();
        for wanted in &specs {
            creates.push(stage.driver.create(wanted));
        }
        let mut guests = Vec::new();
        for create in creates {
            guests.push(soon("create", create).await.unwrap());
        }
        for guest in &guests {
            guest.dial(ENVD_PORT).await.unwrap();
        }
        for guest in guests {
            soon("kill", guest.kill()).await.unwrap();
        }
        stage.finish().await;
    });
}
