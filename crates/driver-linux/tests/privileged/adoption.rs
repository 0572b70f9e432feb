//! The server dies, the sandboxes live, and the next server takes them over.
//!
//! The server that dies is this test program, started again with one test chosen: [`server_that_is_killed`].

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

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
fn start_server(place: &Place) -> (Child, String) {
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

fn kill_server(mut server: Child) {
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
        std::fs::write(&path, record.to_string()).unwrap();
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
