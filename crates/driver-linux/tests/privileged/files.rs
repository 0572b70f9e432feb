//! A sandbox's files: its own layer, the template's layers below, and set-id programs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::support::{names_in, on_stage};

/// Files of the base template that the tests change, one way each.
const TOUCHED: [&str; 6] = [
    "etc/passwd",
    "etc/profile",
    "etc/pip.conf",
    "usr/bin/env",
    "usr/bin/sudo",
    "etc/npmrc",
];

/// Content, mode, owner, group, and the times of the last changes.
type Look = (Vec<u8>, u32, u32, u32, i64, i64);

/// The files as the host sees them.
fn look(layer: &Path) -> BTreeMap<&'static str, Look> {
    let seen = TOUCHED.iter().map(|name| {
        let path = layer.join(name);
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = fs::read(&path).unwrap();
        (
            *name,
            (
                content,
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.ctime(),
            ),
        )
    });
    seen.collect()
}

#[test]
fn layers_never_change() {
    on_stage(async |stage| {
        let digest = stage.needs.layers.last().unwrap();
        let layer = &stage.needs.layers_dir.join(digest.to_string());
        let before = look(layer);
        let (one, other) = (stage.create().await, stage.create().await);
        one.root(
            "echo x >> /etc/passwd; rm /etc/profile; chown 1000:1000 /etc/pip.conf; chmod 777 /usr/bin/env; \
             mv /usr/bin/sudo /usr/bin/sudo2; truncate -s 0 /etc/npmrc; rm -rf /usr/share/doc; mkdir /usr/share/doc; \
             setfattr -n user.test -v x /etc/debian_version 2>/dev/null; ln /etc/shadow /root/hard; true",
        )
        .await;
        assert_eq!(
            one.root("tail -1 /etc/passwd; test ! -e /etc/profile && echo gone")
                .await,
            "x\ngone\n"
        );
        assert!(look(layer) == before, "a layer has changed");
        assert_eq!(
            other
                .root("tail -1 /etc/passwd | grep -cx x; test -e /etc/profile && echo there; true")
                .await,
            "0\nthere\n"
        );
        assert_eq!(
            other
                .root("stat -c '%a %u' /usr/bin/env /etc/pip.conf")
                .await,
            "755 0\n644 0\n"
        );
    });
}

#[test]
fn set_id_programs_work_inside() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let run = async |command: &str| sandbox.run("user", &["sh", "-c", command]).await.stdout;
        assert_eq!(
            run("sudo id -u; sudo -u user id -u; id -u").await,
            "0\n1000\n1000\n"
        );
        sandbox
            .root("cp /usr/bin/id /usr/local/bin/rootid && chmod 4755 /usr/local/bin/rootid")
            .await;
        assert_eq!(run("rootid -u").await, "0\n");
        assert_eq!(
            run("cat /proc/self/uid_map | tr -s ' ' | cut -d' ' -f3")
                .await
                .trim(),
            sandbox.slot.uid_base().to_string()
        );
    });
}

/// On the disk ids are stored unmapped, so a set-id program made inside looks like one of the host's root. What keeps it
/// from the host's users is that nobody but root gets near it.
#[test]
fn set_id_programs_are_out_of_reach_on_the_host() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        sandbox
            .root("cp /bin/sh /root/shell && chmod 4755 /root/shell")
            .await;
        let stored = fs::metadata(sandbox.directory.join("disk/upper/root/shell"));
        match names_in(&stage.place.data_dir.join("disks"))[..] {
            // In a file system that is mounted nowhere on the host.
            [_] => assert_eq!(stored.unwrap_err().kind(), std::io::ErrorKind::NotFound),
            _ => {
                let stored = stored.unwrap();
                assert_eq!((stored.uid(), stored.mode() & 0o7777), (0, 0o4755));
            }
        }
        for guarded in [
            stage.place.data_dir.join("disks"),
            sandbox.directory.join("disk"),
            sandbox.directory.clone(),
            stage.place.data_dir.join("sandboxes"),
        ] {
            let meta = fs::metadata(&guarded).unwrap();
            assert_eq!(
                (meta.mode() & 0o777, meta.uid()),
                (0o700, 0),
                "{}",
                guarded.display()
            );
        }
        // Through the sandbox itself the owner is an id that nobody has outside.
        let seen = fs::metadata(sandbox.proc("root/root/shell")).unwrap();
        assert_eq!(seen.uid(), sandbox.slot.uid_base());
    });
}

#[test]
fn directories_of_sandboxes_are_private_even_when_they_were_not() {
    use std::os::unix::fs::PermissionsExt as _;
    crate::support::in_place(async |place, needs| {
        for name in ["run", "sandboxes"] {
            fs::create_dir(place.data_dir.join(name)).unwrap();
            fs::set_permissions(place.data_dir.join(name), fs::Permissions::from_mode(0o755))
                .unwrap();
        }
        let stage = crate::support::Stage::new(place, needs, 0).await;
        for name in ["run", "sandboxes"] {
            let mode = fs::metadata(stage.place.data_dir.join(name))
                .unwrap()
                .mode();
            assert_eq!(mode & 0o777, 0o700, "{name}");
        }
        stage.finish().await;
    });
}

#[test]
fn a_sandbox_can_run_its_own_system() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        for command in [
            "useradd -m extra && su extra -c 'id -un' | grep -qx extra",
            "touch /root/f && chown 1000:1000 /root/f && chmod 6755 /root/f",
            "install -d -o user -g user /srv/data && su user -c 'touch /srv/data/f'",
            "setpriv --reuid 1234 --clear-groups true",
            "dd if=/dev/zero of=/dev/shm/f bs=1k count=10 2>/dev/null && rm /dev/shm/f",
            "python3 -c 'import os, pty; m, s = pty.openpty(); os.write(m, b\"x\")'",
            "chroot / true",
            "nice -n 5 true",
            "ping -c 1 -W 1 127.0.0.1 > /dev/null",
        ] {
            let output = sandbox.run("root", &["sh", "-c", command]).await;
            assert_eq!(output.code, 0, "{command}: {output:?}");
        }
    });
}
