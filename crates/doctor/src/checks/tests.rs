//! Every judgement, from a machine where all is well with one thing changed.

use std::time::Duration;

use soulbox_artifacts::Suite;

use crate::facts::{CgroupLayout, Facts, HttpsCertificate, Kvm, Life, Numbers, Port, RenewedBy};
use crate::judge;
use crate::modules::ModuleState;
use crate::report::Status::{self, Fail, Warn};
use crate::report::{Check, Report};

const GIB: u64 = 1 << 30;

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn with_days_left(days_left: u64) -> Option<HttpsCertificate> {
    let days = |days| Duration::from_hours(24 * days);
    Some(HttpsCertificate {
        from: "https://ca.test".into(),
        renewed_by: RenewedBy::Server,
        life: Ok(Life {
            whole: days(90),
            left: days(days_left),
        }),
    })
}

fn good() -> Facts {
    Facts {
        is_root: true,
        architecture: "x86_64",
        kernel_release: "6.12.115".into(),
        kernel_build: "#1 SMP PREEMPT_DYNAMIC".into(),
        kernel_signature: None,
        missing_namespaces: Vec::new(),
        openat2: Ok(()),
        pidfd: Ok(()),
        core_scheduling: None,
        landlock: Some(6),
        clock_kept: Some(true),
        swaps: Some("Filename\t\t\t\tType\t\tSize\n".into()),
        proc_options: Some("rw,nosuid,rw".into()),
        numbers: Numbers {
            aio_requests: Some(65_536),
            tracked_connections: None,
            inotify_instances: Some(128),
            process_numbers: Some(4_194_304),
            threads: Some(192_000),
            open_files: Some(u64::MAX),
        },
        configuration: Ok(()),
        port: Some(Port {
            address: "127.0.0.1:3000".into(),
            free: Ok(()),
            server_runs: false,
        }),
        disk_backing: Ok("image".into()),
        criu: Ok(()),
        https_certificate: with_days_left(60),
        acme_dns_command: Some(Ok(())),
        namespaces: Ok(()),
        idmapped_mount: Ok(()),
        overlay: Ok(()),
        data_dir: "/var/lib/soulbox".into(),
        seccomp_actions: Some(
            "kill_process kill_thread trap errno user_notif trace log allow\n".into(),
        ),
        cgroups: CgroupLayout {
            unified: Some(words("cpuset cpu io memory pids")),
            legacy: Vec::new(),
        },
        nft: Ok(()),
        links: Ok(()),
        ip_forward: Some(true),
        forward_drops: Vec::new(),
        has_mmdebstrap: true,
        has_debootstrap: false,
        keyring_suites: Suite::ALL.to_vec(),
        free_bytes: 100 * GIB,
        free_inodes: Some(1_000_000),
        open_files: Some(1 << 20),
        ksm: Some("0\n".into()),
        smt: Some("notsupported\n".into()),
        modules: vec![
            ("esp4", ModuleState::Blocked),
            ("rxrpc", ModuleState::Absent),
        ],
        unprivileged_user_namespaces: Some(false),
        security_modules: Some("lockdown,capability,yama,apparmor".into()),
        runsc: None,
        kvm: Kvm::Absent,
        qemu: None,
    }
}

#[test]
fn a_good_machine() {
    let report = judge(&good());
    assert_eq!(report.status, Status::Ok, "{report}");
    assert!(report.tiers[0].available && !report.tiers[1].available && !report.tiers[2].available);
    assert!(report.checks.iter().all(|check| check.fix.is_none()));
}

type Case = (&'static str, Status, fn(&mut Facts));

/// One thing wrong, and the one finding that it must lead to.
const CASES: &[Case] = &[
    ("root", Fail, |f| f.is_root = false),
    ("kernel", Fail, |f| {
        f.kernel_release = "5.15.209".into();
        f.modules.push(("rxrpc", ModuleState::Blocked));
    }),
    ("kernel", Fail, |f| f.architecture = "aarch64"),
    ("namespaces", Fail, |f| {
        f.namespaces = Err("No space left on device".into());
    }),
    ("idmapped mounts", Fail, |f| {
        f.idmapped_mount = Err("Invalid argument".into());
    }),
    ("overlay", Fail, |f| {
        f.overlay = Err("Invalid argument".into());
    }),
    ("seccomp", Fail, |f| f.seccomp_actions = None),
    ("seccomp", Fail, |f| {
        f.seccomp_actions = Some("kill_thread errno allow".into());
    }),
    ("cgroups", Fail, |f| {
        f.cgroups.unified = Some(words("cpu pids"));
    }),
    ("cgroups", Fail, |f| f.cgroups = CgroupLayout::default()),
    ("nft", Fail, |f| f.nft = Err("not found".into())),
    ("network links", Fail, |f| {
        f.links = Err("Operation not supported".into());
    }),
    ("ip forwarding", Warn, |f| f.ip_forward = Some(false)),
    ("forward policy", Warn, |f| {
        f.forward_drops = vec!["ip filter FORWARD".into()];
    }),
    ("disk", Fail, |f| f.free_bytes = GIB / 2),
    ("disk", Warn, |f| f.free_bytes = 2 * GIB),
    ("disk", Warn, |f| f.free_inodes = Some(10)),
    ("open files", Warn, |f| f.open_files = Some(4096)),
    ("bootstrap tool", Warn, |f| f.has_mmdebstrap = false),
    ("hibernation", Warn, |f| {
        f.criu = Err("nothing here\nFIX: put it there".into());
    }),
    ("https certificate", Warn, |f| {
        f.https_certificate = with_days_left(22);
    }),
    ("https certificate", Warn, |f| {
        f.https_certificate = with_days_left(0);
    }),
    ("https certificate", Warn, |f| {
        f.https_certificate.as_mut().unwrap().life = Err("there is none yet".into());
    }),
    ("acme dns command", Warn, |f| {
        f.acme_dns_command = Some(Err("/dns is not there".into()));
    }),
    ("debian keys", Warn, |f| {
        f.keyring_suites = vec![Suite::Bookworm];
    }),
    ("memory merging", Warn, |f| f.ksm = Some("1\n".into())),
    ("smt", Warn, |f| f.smt = Some("on\n".into())),
    ("configuration", Fail, |f| {
        f.configuration = Err("unknown setting".into());
    }),
    ("namespaces", Fail, |f| f.missing_namespaces = vec!["time"]),
    ("openat2", Fail, |f| f.openat2 = Err("no".into())),
    ("pidfd", Fail, |f| f.pidfd = Err("no".into())),
    ("disk limits", Fail, |f| f.disk_backing = Err("no".into())),
    ("disk limits", Warn, |f| f.disk_backing = Ok("none".into())),
    ("cgroups", Warn, |f| {
        f.cgroups = CgroupLayout {
            unified: Some(Vec::new()),
            legacy: words("memory cpu cpuacct pids freezer"),
        };
    }),
    ("port", Warn, |f| {
        f.port.as_mut().unwrap().free = Err("Address already in use".into());
    }),
    ("process numbers", Warn, |f| {
        f.numbers.process_numbers = Some(32_768);
    }),
    ("threads", Warn, |f| f.numbers.threads = Some(7000)),
    ("files of the machine", Warn, |f| {
        f.numbers.open_files = Some(100_000);
    }),
    ("watches", Warn, |f| f.numbers.inotify_instances = Some(8)),
    ("asynchronous I/O", Warn, |f| {
        f.numbers.aio_requests = Some(4096);
    }),
    ("tracked connections", Warn, |f| {
        f.numbers.tracked_connections = Some(8192);
    }),
    ("swap", Warn, |f| {
        f.swaps = Some("Filename\n/dev/sda2 partition 1000 0 -2\n".into());
    }),
    ("clock", Warn, |f| f.clock_kept = Some(false)),
    ("landlock", Warn, |f| f.landlock = None),
    ("security modules", Warn, |f| {
        f.security_modules = Some("capability,yama\n".into());
    }),
    ("user namespaces of others", Warn, |f| {
        f.unprivileged_user_namespaces = Some(true);
    }),
    ("risky modules", Warn, |f| {
        f.modules.push(("tipc", ModuleState::Loadable));
    }),
    ("CVE-2024-1086", Warn, |f| {
        f.kernel_release = "6.7.2".into();
        // The others are younger than the mending of this one: their code is kept out here.
        f.modules = ["algif_aead", "esp4", "esp6", "rxrpc"]
            .map(|name| (name, ModuleState::Absent))
            .into();
    }),
    ("CVE-2026-43500", Warn, |f| {
        f.kernel_release = "6.18.28-custom".into();
        f.modules = ["algif_aead", "esp4", "esp6"]
            .map(|name| (name, ModuleState::Absent))
            .into();
    }),
];

#[test]
fn one_thing_wrong_is_named_with_a_way_out() {
    for (name, status, spoil) in CASES {
        let mut facts = good();
        spoil(&mut facts);
        let report = judge(&facts);
        let wrong: Vec<_> = report
            .checks
            .iter()
            .filter(|check| check.status != Status::Ok)
            .collect();
        assert_eq!(wrong.len(), 1, "{name}: {report}");
        assert_eq!(
            (wrong[0].name, wrong[0].status, wrong[0].fix.is_some()),
            (*name, *status, true)
        );
        assert_eq!(report.tiers[0].available, *status != Fail, "{name}");
    }
}

fn found(report: &Report, name: &str) -> Check {
    let check = report.checks.iter().find(|check| check.name == name);
    check
        .unwrap_or_else(|| panic!("no {name}: {report}"))
        .clone()
}

#[test]
fn legacy_cgroups_work_and_are_told_apart() {
    let mut facts = good();
    facts.cgroups = CgroupLayout {
        unified: Some(Vec::new()),
        legacy: words("memory cpu cpuacct pids freezer"),
    };
    assert!(found(&judge(&facts), "cgroups").found.contains("hybrid"));
    facts.cgroups.unified = None;
    let check = found(&judge(&facts), "cgroups");
    assert!(check.status == Status::Warn && !check.found.contains("hybrid"));
}

#[test]
fn risky_modules_are_listed_with_the_line_that_blocks_them() {
    let mut facts = good();
    facts.modules = vec![
        ("esp4", ModuleState::Loadable),
        ("esp6", ModuleState::Blocked),
        ("rxrpc", ModuleState::Loaded),
    ];
    let check = found(&judge(&facts), "risky modules");
    assert_eq!(check.status, Status::Warn);
    assert_eq!(
        check.fix.unwrap(),
        "printf 'install esp4 /bin/false\\ninstall rxrpc /bin/false\\n' > /etc/modprobe.d/soulbox.conf"
    );
}

#[test]
fn a_port_that_the_running_server_has_is_fine() {
    let mut facts = good();
    facts.port = Some(Port {
        address: "127.0.0.1:3000".into(),
        free: Err("Address already in use".into()),
        server_runs: true,
    });
    assert_eq!(found(&judge(&facts), "port").status, Status::Ok);
}

#[test]
fn a_bug_names_the_way_out_or_says_that_it_cannot_tell() {
    let mut facts = good();
    facts.modules = vec![("algif_aead", ModuleState::Loadable)];
    facts.kernel_release = "6.1.100".into();
    let check = found(&judge(&facts), "CVE-2026-31431");
    assert_eq!(check.fix.unwrap(), "boot Linux 6.1.170 or newer");
    facts.kernel_release = "6.1.0-13-amd64".into();
    facts.kernel_build = "#1 SMP Debian 6.1.55-1 (2023-09-29)".into();
    let check = found(&judge(&facts), "CVE-2026-31431");
    assert!(check.found.contains("cannot tell"), "{}", check.found);
    facts.kernel_build = "#1 SMP Debian 6.1.192-2 (2026-11-16)".into();
    assert_eq!(found(&judge(&facts), "CVE-2026-31431").status, Status::Ok);
}

#[test]
fn a_strange_kernel_is_refused_and_nothing_is_claimed_of_it() {
    let mut facts = good();
    facts.kernel_release = "strange".into();
    let report = judge(&facts);
    assert_eq!(found(&report, "kernel").status, Status::Fail);
    let check = found(&report, "CVE-2026-31431");
    assert!(check.found.contains("not understood"), "{}", check.found);
}

#[test]
fn another_firewall_is_opened_by_the_program_of_its_family() {
    let mut facts = good();
    let mut programs = |drops: &[&str]| {
        facts.forward_drops = drops.iter().map(|&chain| chain.to_owned()).collect();
        let fix = found(&judge(&facts), "forward policy").fix.unwrap();
        (fix.contains("iptables -I"), fix.contains("ip6tables -I"))
    };
    assert_eq!(programs(&["ip filter FORWARD"]), (true, false));
    assert_eq!(programs(&["ip6 filter FORWARD"]), (false, true));
    let both = ["ip filter FORWARD", "ip6 filter FORWARD"];
    assert_eq!(programs(&both), (true, true));
}
