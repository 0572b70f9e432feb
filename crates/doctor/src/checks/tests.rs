//! Every judgement, from a machine where all is well with one thing changed.

use super::*;
use crate::facts::{CgroupLayout, Kvm};
use crate::judge;
use crate::report::Status;

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn good() -> Facts {
    Facts {
        is_root: true,
        architecture: "x86_64",
        kernel_release: "6.12.9-amd64".into(),
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
    assert_eq!(report.status(), Status::Ok, "{report}");
    assert!(report.tiers[0].available && !report.tiers[1].available && !report.tiers[2].available);
    assert!(report.checks.iter().all(|check| check.fix.is_none()));
}

#[test]
fn one_thing_wrong_is_named_with_a_way_out() {
    use Status::{Fail, Warn};
    type Spoil = fn(&mut Facts);
    let cases: [(&str, Status, Spoil); 23] = [
        ("root", Fail, |f| f.is_root = false),
        ("kernel", Fail, |f| {
            f.kernel_release = "5.15.0-91-generic".into();
        }),
        ("kernel", Fail, |f| f.kernel_release = "strange".into()),
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
        ("debian keys", Warn, |f| {
            f.keyring_suites = vec![Suite::Bookworm];
        }),
        ("memory merging", Warn, |f| f.ksm = Some("1\n".into())),
        ("smt", Warn, |f| f.smt = Some("on\n".into())),
    ];
    for (name, status, spoil) in cases {
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
            (name, status, true)
        );
        assert_eq!(report.tiers[0].available, status != Fail, "{name}");
    }
}

#[test]
fn hybrid_and_legacy_cgroups_are_fine() {
    let mut facts = good();
    facts.cgroups = CgroupLayout {
        unified: Some(Vec::new()),
        legacy: words("memory cpu cpuacct pids freezer"),
    };
    assert!(cgroups(&facts).found.contains("hybrid"));
    facts.cgroups.unified = None;
    assert_eq!(cgroups(&facts).status, Status::Ok);
}

#[test]
fn risky_modules_are_listed_with_the_line_that_blocks_them() {
    let mut facts = good();
    facts.modules = vec![
        ("esp4", ModuleState::Loadable),
        ("esp6", ModuleState::Blocked),
        ("rxrpc", ModuleState::Loaded),
    ];
    let check = modules(&facts);
    assert_eq!(check.status, Status::Warn);
    assert_eq!(
        check.fix.unwrap(),
        "printf 'install esp4 /bin/false\\ninstall rxrpc /bin/false\\n' > /etc/modprobe.d/soulbox.conf"
    );
}

#[test]
fn versions() {
    assert_eq!(version("6.1.0-13-amd64"), Some((6, 1)));
    assert_eq!(version("5.19"), Some((5, 19)));
    assert_eq!(version("6"), None);
    assert_eq!(version(""), None);
}
