//! The server dies, the sandboxes live, and the next server takes them over.
//!
//! The server that dies is this test program, started again with one test chosen: [`server_that_is_killed`].

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sha2::{Digest as _, Sha256};
use soulbox_driver::Driver;

use crate::commands::Sandbox;
use crate::support::{Place, eventually, in_place, in_runtime, names_in, soon, spec};

const DATA_DIR: &str = "PRIVILEGED_TEST_SERVER_DATA_DIR";

/// Not a test of its own: what the others start and kill. Creates one sandbox, says its id, and waits.
#[test]
#[ignore = "started by other tests in a process of its own"]
fn server_that_is_killed() {
    let Some(data_dir) = std::env::var_os(DATA_DIR) else {
        return;
    };
    let needs = crate::support::Needs::find().unwrap();
    in_runtime(async {
        // Leaves everything: this process is killed, and whoever started it owns the place.
        let place = std::mem::ManuallyDrop::new(Place::at(PathBuf::from(data_dir)));
        let driver = place.driver(&needs, 3);
        driver.adopt().await.unwrap();
        let guest = driver.create(&spec(&needs)).await.unwrap();
        let mut stdout = std::io::stdout();
        writeln!(stdout, "\ncreated {}", guest.spec().id).unwrap();
        stdout.flush().unwrap();
        std::future::pending::<()>().await;
    });
}

/// Starts the server above in a place and waits for its sandbox. Gives the sandbox's id.
pub(crate) fn start_server(place: &Place) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "adoption::server_that_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(DATA_DIR, &place.data_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let id = lines.find_map(|line| line.unwrap().strip_prefix("created ").map(str::to_owned));
    (child, id.expect("the server makes a sandbox"))
}

pub(crate) fn kill_server(mut server: Child) {
    server.kill().unwrap();
    server.wait().unwrap();
}

/// Processes in the cgroups of the block that are no descendants of the sandbox's envd: waiting jails.
fn jails(place: &Place) -> Vec<i32> {
    let pids = place
        .slots()
        .into_iter()
        .flat_map(|slot| slot.processes().unwrap());
    let is_jail = |pid: &i32| {
        std::fs::read_link(format!("/proc/{pid}/exe"))
            .is_ok_and(|exe| exe.to_string_lossy().contains("soulbox-jail"))
    };
    pids.filter(is_jail).collect()
}

#[test]
fn a_sandbox_outlives_its_server_and_is_adopted() {
    in_place(async |place, needs| {
        let (server, id) = start_server(&place);
        eventually("prepared slots", || {
            (jails(&place).len() >= 3)
                .then_some(())
                .ok_or(format!("{:?}", jails(&place)))
        })
        .await;
        kill_server(server);
        eventually("the waiting jails to end", || {
            jails(&place)
                .is_empty()
                .then_some(())
                .ok_or(format!("{:?}", jails(&place)))
        })
        .await;

        let driver = place.driver(&needs, 0);
        let guests = driver.adopt().await.unwrap();
        assert_eq!(
            guests
                .iter()
                .map(|guest| guest.spec().id.to_string())
                .collect::<Vec<_>>(),
            [id]
        );
        let sandbox = Sandbox::new(guests.into_iter().next().unwrap(), &place);
        assert_eq!(
            sandbox.root("echo adopted; cat /etc/hostname").await,
            format!("adopted\n{}\n", sandbox.guest.spec().id)
        );
        assert!(sandbox.guest.stats().await.unwrap().pids >= 1);
        // The new server hears who is killed for memory, and envd hears it from the new server.
        let greedy = "x = bytearray(900 << 20)";
        let output = sandbox.run("user", &["python3", "-c", greedy]).await;
        if std::fs::File::open("/dev/kmsg").is_ok() {
            let named = "signal: killed (out of memory: killed python3, pid ";
            assert!(output.status.starts_with(named), "{output:?}");
        } else {
            println!("SKIP names of killed processes: /dev/kmsg cannot be read here");
            assert_eq!(output.status, "signal: killed (out of memory)");
        }
        // Slots that were only prepared are gone; the new server gives out others.
        assert_eq!(place.slots().len(), 1);
        let beside = driver.create(&spec(&needs)).await.unwrap();
        let beside = Sandbox::new(beside, &place);
        assert_ne!(beside.slot, sandbox.slot);
        soon("kill", sandbox.guest.kill()).await.unwrap();
        soon("the end", sandbox.guest.ended()).await;
        soon("kill", beside.guest.kill()).await.unwrap();
        drop((sandbox, beside));
        driver.shutdown().await;
        place.expect_empty().await;
    });
}

#[test]
fn a_sandbox_that_died_without_a_server_is_cleared_away() {
    in_place(async |place, needs| {
        let (server, id) = start_server(&place);
        let pid = crate::support::recorded_pid(&place, &id).unwrap();
        kill_server(server);
        let pidfd = rustix::process::pidfd_open(
            rustix::process::Pid::from_raw(pid).unwrap(),
            rustix::process::PidfdFlags::empty(),
        )
        .unwrap();
        rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
        let mut ended = [rustix::event::PollFd::new(
            &pidfd,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut ended, None).unwrap();
        assert_eq!(names_in(&place.data_dir.join("sandboxes")), [id]);
        let driver = place.driver(&needs, 0);
        assert!(driver.adopt().await.unwrap().is_empty());
        place.expect_empty().await;
        driver.shutdown().await;
    });
}

/// A record with the checksum that it would have had, had the server written it.
fn resealed(mut record: serde_json::Value) -> String {
    record.as_object_mut().unwrap().remove("sha256").unwrap();
    let digest = Sha256::digest(record.to_string());
    record["sha256"] = data_encoding::HEXLOWER.encode(&digest).into();
    record.to_string()
}

/// Adopts in a place where one record has been tampered with: nothing runs afterwards, and the reason is told.
fn tampered(reason: &str, tamper: impl Fn(&Place, &str, &Path)) {
    in_place(async |place, needs| {
        let (server, id) = start_server(&place);
        kill_server(server);
        let directory = place.data_dir.join("sandboxes").join(&id);
        tamper(&place, &id, &directory);
        let driver = place.driver(&needs, 0);
        assert!(driver.adopt().await.unwrap().is_empty());
        assert_eq!(driver.lost(), [(id.parse().unwrap(), reason.to_owned())]);
        place.expect_empty().await;
        driver.shutdown().await;
    });
}

#[test]
fn a_damaged_record_ends_its_sandbox_and_says_so() {
    tampered(
        "its state.json is damaged: its checksum does not match",
        |place, id, directory| {
            let mut record = crate::support::record(place, id).unwrap();
            record["slot"] = 99.into();
            std::fs::write(directory.join("state.json"), record.to_string()).unwrap();
        },
    );
    tampered(
        "its state.json is damaged: EOF while parsing a value at line 1 column 0",
        |_, _, directory| {
            std::fs::write(directory.join("state.json"), "").unwrap();
        },
    );
    tampered("its launch was not finished", |_, _, directory| {
        std::fs::remove_file(directory.join("state.json")).unwrap();
    });
    tampered("its state.json belongs to user 4242", |_, _, directory| {
        std::os::unix::fs::chown(directory.join("state.json"), Some(4242), None).unwrap();
    });
}

#[test]
fn a_sandbox_of_another_boot_is_lost() {
    tampered("the machine was restarted", |place, id, directory| {
        let mut record = crate::support::record(place, id).unwrap();
        record["boot_id"] = "another".into();
        std::fs::write(directory.join("state.json"), resealed(record)).unwrap();
    });
}

/// What damages one sandbox costs that one.
#[test]
fn damage_to_one_sandbox_spares_the_others() {
    in_place(async |place, needs| {
        let (server, id) = start_server(&place);
        kill_server(server);
        let sandboxes = place.data_dir.join("sandboxes");
        std::fs::create_dir(sandboxes.join("half")).unwrap();
        std::fs::create_dir_all(sandboxes.join("odd/state.json/x")).unwrap();
        std::fs::write(sandboxes.join("file"), "x").unwrap();
        let driver = place.driver(&needs, 0);
        let guests = driver.adopt().await.unwrap();
        assert_eq!(guests.len(), 1);
        // A file is nothing that a server makes there: it is told and left alone.
        assert_eq!(names_in(&sandboxes), ["file".to_owned(), id]);
        std::fs::remove_file(sandboxes.join("file")).unwrap();
        let sandbox = Sandbox::new(guests.into_iter().next().unwrap(), &place);
        assert_eq!(sandbox.root("echo alive").await, "alive\n");
        soon("kill", sandbox.guest.kill()).await.unwrap();
        drop(sandbox);
        driver.shutdown().await;
        place.expect_empty().await;
    });
}

/// The claim of a block was lost and the server got another one: what it left in the old one does not stay for ever.
#[test]
fn a_sandbox_in_another_block_is_ended() {
    in_place(async |place, needs| {
        let (server, id) = start_server(&place);
        kill_server(server);
        let pid = crate::support::recorded_pid(&place, &id).unwrap();
        let other = Place::new();
        let driver = other.driver_of(&place.data_dir, &needs, 0);
        assert!(driver.adopt().await.unwrap().is_empty());
        let (_, why) = driver.lost().remove(0);
        assert!(why.starts_with("it stands in address block "), "{why}");
        // Its parent is the machine's first process by now, which collects it when it gets to it.
        eventually("the process to be gone", || {
            let there = Path::new(&format!("/proc/{pid}")).exists();
            (!there).then_some(()).ok_or_else(|| pid.to_string())
        })
        .await;
        assert!(names_in(&place.data_dir.join("sandboxes")).is_empty());
        driver.shutdown().await;
        drop(other);
        // Prepared slots of the dead server are in the old block; its next owner clears them.
        place.driver(&needs, 0).adopt().await.unwrap();
        place.expect_empty().await;
    });
}

/// A record alone is not believed: the number may belong to another process by now.
#[test]
fn a_record_of_another_process_adopts_nothing() {
    in_place(async |place, needs| {
        let (server, id) = start_server(&place);
        kill_server(server);
        let path = place
            .data_dir
            .join("sandboxes")
            .join(&id)
            .join("state.json");
        let mut record = crate::support::record(&place, &id).unwrap();
        record["pid"] = std::process::id().into();
        std::fs::write(&path, resealed(record)).unwrap();
        let driver = place.driver(&needs, 0);
        assert!(driver.adopt().await.unwrap().is_empty());
        // What stood in the slot was nobody's, and is gone.
        place.expect_empty().await;
        driver.shutdown().await;
    });
}

#[test]
fn a_stopped_server_leaves_its_sandboxes_and_nothing_else() {
    in_place(async |place, needs| {
        let driver = place.driver(&needs, 2);
        driver.adopt().await.unwrap();
        let sandbox = Sandbox::new(driver.create(&spec(&needs)).await.unwrap(), &place);
        driver.shutdown().await;
        assert_eq!(place.slots().len(), 1);
        assert_eq!(sandbox.root("echo alive").await, "alive\n");
        soon("kill", sandbox.guest.kill()).await.unwrap();
        drop((sandbox, driver));
        place.expect_empty().await;
    });
}
