//! The limit of a sandbox's disk: kept by the kernel, told truthfully, and nobody else's trouble.
//!
//! These run with the backing that the host of the tests has. Where that is a project quota, the tests about images say
//! so and check nothing of them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use soulbox_driver::{Driver as _, DriverError};
use soulbox_driver_linux::{Backing, BackingChoice};
use soulbox_types::Limits;

use crate::adoption::{kill_server, start_server};
use crate::commands::Sandbox;
use crate::launches::SmallDisk;
use crate::support::{
    Place, Stage, eventually, in_place, loop_devices, names_in, on_stage, soon, spec,
};

const MIB: u64 = 1 << 20;
/// Root directory and lost+found of an empty image, and what every sandbox gets in `/etc`.
const EMPTY_BYTES: u64 = 256 << 10;

async fn with_disk(stage: &Stage, disk_mib: u32) -> Sandbox {
    let mut spec = stage.spec();
    spec.limits = Limits {
        disk_mib,
        ..Limits::STANDARD
    };
    stage.create_as(&spec).await
}

/// Size, use and rest of the root file system, in bytes or inodes.
async fn df(sandbox: &Sandbox, columns: &str) -> Vec<u64> {
    let command = format!("df -B1 --output={columns} / | tail -1");
    let line = sandbox.root(&command).await;
    line.split_ascii_whitespace()
        .map(|number| number.parse().unwrap())
        .collect()
}

async fn used(sandbox: &Sandbox) -> u64 {
    let stats = soon("stats", sandbox.guest.stats()).await;
    stats.unwrap().disk_used_bytes
}

/// Bytes that the images of a place take on the host.
fn on_host(place: &Place) -> u64 {
    let disks = place.data_dir.join("disks");
    let allocated = |name: String| fs::metadata(disks.join(name)).unwrap().blocks() * 512;
    names_in(&disks).into_iter().map(allocated).sum()
}

/// Writes until nothing more can be written; prints the error's number.
const FILL: &str = r#"
import os, sys
f = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
try:
    for n in range(200):
        os.write(f, b"x" * (1 << 20))
    print(0)
except OSError as error:
    print(error.errno)
"#;

#[test]
fn a_full_disk_is_the_guests_own_enospc() {
    on_stage(async |stage| {
        let greedy = with_disk(stage, 64).await;
        let neighbour = with_disk(stage, 64).await;
        let [size, before, _] = df(&greedy, "size,used,avail").await[..] else {
            panic!("df has three columns");
        };
        assert_eq!(size, 64 * MIB);
        assert!(before < EMPTY_BYTES, "{before}");
        assert!(used(&greedy).await.abs_diff(before) < 64 << 10);
        for user in ["user", "root"] {
            let file = format!("/tmp/{user}");
            let filled = greedy.run(user, &["python3", "-c", FILL, &file]).await;
            assert_eq!(filled.stdout, format!("{}\n", libc::ENOSPC), "{filled:?}");
        }
        let [full] = df(&greedy, "avail").await[..] else {
            panic!("df has one column");
        };
        assert!(full < MIB, "{full}");
        assert!(used(&greedy).await > 44 * MIB);
        greedy.root("sync").await;
        let images = on_host(&stage.place);
        assert!(images < 2 * (64 + 12) * MIB, "{images} bytes on the host");
        neighbour
            .root("head -c 20M /dev/zero > /root/f && sync /root/f")
            .await;
        greedy
            .root("rm /tmp/user /tmp/root && echo x > /root/again")
            .await;
        assert!(used(&greedy).await < MIB);
        assert!(used(&neighbour).await > 20 * MIB);
    });
}

#[test]
fn inodes_run_out_for_the_guest_only() {
    on_stage(async |stage| {
        let sandbox = with_disk(stage, 64).await;
        let [inodes, before] = df(&sandbox, "itotal,iused").await[..] else {
            panic!("df has two columns");
        };
        assert_eq!(inodes, 32_768);
        assert!(before < 100, "{before}");
        let program = r#"
import os, json
os.mkdir("/root/many")
try:
    for n in range(40000):
        os.close(os.open(f"/root/many/{n}", os.O_CREAT | os.O_WRONLY))
    print(json.dumps([0, 0]))
except OSError as error:
    print(json.dumps([error.errno, n]))
"#;
        let end = sandbox.python("root", program).await;
        assert_eq!(end[0], libc::ENOSPC, "{end}");
        assert!(end[1].as_u64().unwrap() > 32_000, "{end}");
        with_disk(stage, 64).await.root("touch /root/f").await;
        sandbox.root("rm -rf /root/many && touch /root/again").await;
    });
}

#[test]
fn sparse_files_and_hard_links_cost_what_they_take() {
    on_stage(async |stage| {
        let sandbox = with_disk(stage, 64).await;
        let before = used(&sandbox).await;
        sandbox
            .root("for n in 1 2 3 4; do truncate -s 8T /root/bomb$n; done")
            .await;
        assert!(used(&sandbox).await - before < MIB);
        let program = r#"
import os, json
open("/root/one", "w").write("x")
os.mkdir("/root/links")
for n in range(20000):
    os.link("/root/one", f"/root/links/{n}")
print(json.dumps(os.stat("/root/one").st_nlink))
"#;
        assert_eq!(sandbox.python("root", program).await, 20_001);
        assert!(used(&sandbox).await - before < 4 * MIB);
        let copied = sandbox
            .run(
                "root",
                &["cp", "--sparse=never", "/root/bomb1", "/root/copy"],
            )
            .await;
        assert_ne!(copied.code, 0);
        assert!(
            copied.stderr.contains("No space left on device"),
            "{copied:?}"
        );
        let images = on_host(&stage.place);
        assert!(images < (64 + 12) * MIB, "{images} bytes on the host");
    });
}

#[test]
fn sizes_are_the_templates_also_unusual_ones() {
    in_place(async |place, needs| {
        let stage = Stage::new(place, needs, 1).await;
        for disk_mib in [100, 10_240, 777] {
            let sandbox = with_disk(&stage, disk_mib).await;
            assert_eq!(df(&sandbox, "size").await, [u64::from(disk_mib) * MIB]);
            let metrics = sandbox.root("stat -f -c '%S %b' /").await;
            let [block, blocks] = metrics
                .split_ascii_whitespace()
                .map(|number| number.parse::<u64>().unwrap())
                .collect::<Vec<_>>()[..]
            else {
                panic!("{metrics}");
            };
            assert_eq!(block * blocks, u64::from(disk_mib) * MIB);
        }
        stage.finish().await;
    });
}

#[test]
fn what_was_not_written_is_dropped_with_the_sandbox() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        sandbox.root("head -c 100M /dev/zero > /root/f").await;
        soon("kill", sandbox.guest.kill()).await.unwrap();
        drop(sandbox);
        stage.place.expect_empty().await;
    });
}

#[test]
fn what_is_deleted_the_host_has_back() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let before = on_host(&stage.place);
        // Past every cache, so that it is in the image at once.
        sandbox
            .root("dd if=/dev/zero of=/root/f bs=1M count=200 oflag=direct 2>&1")
            .await;
        assert!(used(&sandbox).await >= 200 * MIB);
        let full = on_host(&stage.place);
        assert!(full - before >= 200 * MIB, "{before} {full}");
        sandbox.root("rm /root/f").await;
        assert!(used(&sandbox).await < MIB);
        eventually("the host's space", || {
            let now = on_host(&stage.place);
            (now - before < 20 * MIB)
                .then_some(())
                .ok_or(format!("{before} {now}"))
        })
        .await;
    });
}

/// Files of the template and of the sandbox are on two file systems. Programs that stay on one must find both.
#[test]
fn all_files_seem_to_be_on_one_disk() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let devices = sandbox
            .root("echo x > /root/new; echo x >> /etc/profile; stat -c %d / /etc /usr/bin/env /root/new /etc/profile | sort -u | wc -l")
            .await;
        assert_eq!(devices, "1\n");
        let inodes = sandbox
            .root("find / -xdev -type f -printf '%i\\n' | wc -l")
            .await;
        let unique = sandbox
            .root("find / -xdev -type f -links 1 -printf '%i\\n' | sort | uniq -d | wc -l")
            .await;
        assert!(inodes.trim().parse::<u32>().unwrap() > 1000, "{inodes}");
        assert_eq!(unique, "0\n");
    });
}

/// Requests that would change the file system below the overlay, or the limit.
const REACH_BELOW: &str = r#"
import fcntl, glob, json, os, struct
requests = {
    "EXT4_IOC_SHUTDOWN": (0x8004587d, struct.pack("I", 2)),
    "EXT4_IOC_RESIZE_FS": (0x40086610, struct.pack("Q", 1 << 30)),
    "EXT4_IOC_GROUP_EXTEND": (0x40086607, struct.pack("Q", 1 << 30)),
    "FITRIM": (0xc0185879, struct.pack("QQQ", 0, 1 << 40, 0)),
    "FIFREEZE": (0xc0045877, struct.pack("I", 0)),
    "FS_IOC_FSSETXATTR": (0x401c5820, struct.pack("IIIII8x", 0x200, 0, 0, 4711, 0)),
}
os.makedirs("/root/d", exist_ok=True)
allowed = []
for where in ["/", "/root", "/root/d", "/etc/hostname"]:
    fd = os.open(where, os.O_RDONLY)
    for name, (request, argument) in requests.items():
        try:
            fcntl.ioctl(fd, request, argument)
            allowed.append([name, where])
        except OSError:
            pass
names = [os.path.join(where, name) for where, _, files in os.walk("/dev") for name in files]
blocks = [name for name in names if (os.lstat(name).st_mode & 0o170000) == 0o060000]
print(json.dumps([allowed, blocks, glob.glob("/sys/block/*")]))
"#;

#[test]
fn root_inside_does_not_reach_below_its_files() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let reached = sandbox.python("root", REACH_BELOW).await;
        assert_eq!(reached, serde_json::json!([[], [], []]));
        sandbox.root("echo alive > /root/f && sync /root/f").await;
    });
}

#[test]
fn nothing_is_created_on_a_host_without_reserve() {
    in_place(async |mut place, needs| {
        place.disk.reserve_mib = u32::MAX;
        let stage = Stage::new(place, needs, 1).await;
        let error = stage.try_create(&stage.spec()).await.unwrap_err();
        assert!(matches!(error, DriverError::StorageFull), "{error:?}");
        assert!(error.to_string().contains("FIX: "), "{error}");
        stage.finish().await;
    });
}

/// Images are larger than what they take. When the host has no space for what a sandbox has written, the sandbox loses
/// it and is told with its next sync; it goes on, can be looked at, and ends like any other.
#[test]
fn a_host_that_fills_up_is_an_error_of_the_writer() {
    in_place(async |mut place, needs| {
        let outer = place.data_dir.clone();
        let disk = SmallDisk::mount(&outer, "32m");
        place.data_dir = disk.0.clone();
        let driver = place.driver(&needs, 0);
        assert!(driver.adopt().await.unwrap().is_empty());
        let guest = driver.create(&spec(&needs)).await.unwrap();
        let sandbox = Sandbox::new(guest, &place);
        sandbox.root("head -c 64M /dev/zero > /root/f").await;
        // What the kernel does by itself after some seconds.
        let written = std::process::Command::new("sync").status().unwrap();
        assert!(written.success());
        let program = r#"
import json, os
try:
    os.fsync(os.open("/root/f", os.O_RDONLY))
    print(json.dumps(0))
except OSError as error:
    print(json.dumps(error.errno))
"#;
        // Which of the two depends on who met the full host first: the kernel's own writing, or this call.
        let errno = sandbox.python("root", program).await.as_i64();
        let told = [libc::EIO, libc::ENOSPC].map(|errno| Some(i64::from(errno)));
        assert!(told.contains(&errno), "{errno:?}");
        assert_eq!(sandbox.root("echo alive; ls /root").await, "alive\nf\n");
        soon("stats", sandbox.guest.stats()).await.unwrap();
        soon("kill", sandbox.guest.kill()).await.unwrap();
        drop(sandbox);
        driver.shutdown().await;
        place.expect_empty().await;
        drop((driver, disk));
        place.data_dir = outer;
        place.expect_empty().await;
    });
}

#[test]
fn an_adopted_sandbox_keeps_its_limit_and_tells_its_use() {
    in_place(async |place, needs| {
        let (server, _) = start_server(&place);
        kill_server(server);
        let driver = place.driver(&needs, 0);
        let guests = driver.adopt().await.unwrap();
        let sandbox = Sandbox::new(guests.into_iter().next().unwrap(), &place);
        // What the dead server had only prepared is gone.
        eventually("one disk", || {
            let disks = (names_in(&place.data_dir.join("disks")), ours(&place));
            (disks.0.len() <= 1 && disks.1.len() <= 1)
                .then_some(())
                .ok_or(format!("{disks:?}"))
        })
        .await;
        let before = used(&sandbox).await;
        assert!(before < EMPTY_BYTES, "{before}");
        sandbox.root("head -c 20M /dev/zero > /root/f").await;
        assert!(used(&sandbox).await - before >= 20 * MIB);
        let size = u64::from(sandbox.guest.spec().limits.disk_mib) * MIB;
        assert_eq!(df(&sandbox, "size").await, [size]);
        soon("kill", sandbox.guest.kill()).await.unwrap();
        drop(sandbox);
        driver.shutdown().await;
        place.expect_empty().await;
    });
}

/// An operator may remove the file of an image by mistake. The sandbox is not told and need not be.
#[test]
fn a_sandbox_whose_image_was_removed_is_adopted_all_the_same() {
    in_place(async |place, needs| {
        let (server, _) = start_server(&place);
        kill_server(server);
        let disks = place.data_dir.join("disks");
        if names_in(&disks).is_empty() {
            eprintln!("SKIP a_sandbox_whose_image_was_removed: disks are no images here");
            return;
        }
        for name in names_in(&disks) {
            fs::remove_file(disks.join(name)).unwrap();
        }
        let driver = place.driver(&needs, 0);
        let guests = driver.adopt().await.unwrap();
        let sandbox = Sandbox::new(guests.into_iter().next().unwrap(), &place);
        sandbox.root("head -c 20M /dev/zero > /root/f").await;
        assert!(used(&sandbox).await >= 20 * MIB);
        soon("kill", sandbox.guest.kill()).await.unwrap();
        drop(sandbox);
        driver.shutdown().await;
        place.expect_empty().await;
    });
}

#[test]
fn sandboxes_without_a_limit_run_when_the_operator_says_so() {
    in_place(async |mut place, needs| {
        place.disk.backing = BackingChoice::Only(Backing::None);
        let stage = Stage::new(place, needs, 1).await;
        let sandbox = stage.create().await;
        assert_eq!(ours(&stage.place), [""; 0]);
        let before = used(&sandbox).await;
        sandbox
            .root("head -c 20M /dev/zero > /root/f && sync /root/f")
            .await;
        assert!(used(&sandbox).await - before >= 20 * MIB);
        drop(sandbox);
        stage.finish().await;
    });
}

/// Files of this place that are behind loop devices.
fn ours(place: &Place) -> Vec<String> {
    let disks: PathBuf = place.data_dir.join("disks");
    let files = loop_devices().into_values();
    files
        .filter(|file| file.starts_with(&disks.display().to_string()))
        .collect()
}
