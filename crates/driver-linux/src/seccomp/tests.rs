//! The compiled filter, run as the kernel runs it, for both architectures.

use std::str::FromStr as _;

use super::*;

const ALLOW: u32 = RET_ALLOW;
const REFUSE: u32 = RET_ERRNO | EPERM;
const ABSENT: u32 = RET_ERRNO | ENOSYS;
/// Beyond the newest number of any kernel.
const LAST: u32 = 1024;

/// Runs the filter as the kernel does.
fn run(code: &[Instruction], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    let (mut at, mut a) = (0usize, 0u32);
    loop {
        let (op, jt, jf, k) = code[at];
        at += 1;
        let branch = |taken: bool| usize::from(if taken { jt } else { jf });
        match op {
            LD_W_ABS => {
                a = match k {
                    OFFSET_NR => nr,
                    OFFSET_ARCH => arch,
                    other => {
                        let place = other - OFFSET_ARGS;
                        let word = args[(place / 8) as usize];
                        u32::try_from(word >> (8 * (place % 8)) & 0xffff_ffff).unwrap()
                    }
                }
            }
            AND => a &= k,
            JEQ => at += branch(a == k),
            JGE => at += branch(a >= k),
            JSET => at += branch(a & k != 0),
            0x05 => at += k as usize,
            RET => return k,
            _ => panic!("unknown instruction {op:#x}"),
        }
    }
}

fn native(nr: i64, args: [u64; 6]) -> u32 {
    run(&program(), NATIVE_ARCH, u32::try_from(nr).unwrap(), args)
}

#[test]
fn every_number_gets_the_listed_answer() {
    let code = program();
    assert!(code.len() < 4096);
    for nr in 0..LAST {
        let want = match listing().iter().find(|call| call.number == nr) {
            Some(ListedCall { check: Some(_), .. }) => continue,
            Some(_) => ALLOW,
            None if nr == CLONE3 || nr > HIGHEST_KNOWN => ABSENT,
            None => REFUSE,
        };
        assert_eq!(run(&code, NATIVE_ARCH, nr, [0; 6]), want, "call {nr}");
    }
}

/// The list by name, compiled with the numbers that the kernel's tables give each name, on every architecture.
#[test]
fn every_number_of_both_architectures_is_judged_by_its_name() {
    let x86 = |nr| syscalls::x86_64::Sysno::new(nr).map(|call| call.name());
    let arm = |nr| syscalls::aarch64::Sysno::new(nr).map(|call| call.name());
    let x86_number = |name: &str| {
        syscalls::x86_64::Sysno::from_str(name)
            .ok()
            .map(|n| n as u32)
    };
    let arm_number = |name: &str| {
        syscalls::aarch64::Sysno::from_str(name)
            .ok()
            .map(|n| n as u32)
    };
    judged_by_name(ARCH_X86_64, &x86_number, &x86);
    judged_by_name(ARCH_AARCH64, &arm_number, &arm);
}

fn judged_by_name(
    arch: u32,
    number_of: &dyn Fn(&str) -> Option<u32>,
    name_of: &dyn Fn(usize) -> Option<&'static str>,
) {
    let bare = |name: &'static str| name.trim_start_matches("SYS_");
    let number = |name: &str| {
        // aarch64 knows newfstatat under the name that its 32-bit ancestor had.
        let found =
            number_of(name).or_else(|| (name == "newfstatat").then(|| number_of("fstatat"))?);
        found.unwrap_or_else(|| panic!("{arch:#x} has no {name}"))
    };
    let common: Vec<&str> = table::common().map(bare).collect();
    let allowed: Vec<u32> = common.iter().map(|name| number(name)).collect();
    let checked: Vec<(u32, Check)> = CHECKED
        .iter()
        .map(|(name, _, check)| (number(bare(name)), *check))
        .collect();
    let code = compile(arch, &checked, &allowed);
    for nr in 0..LAST {
        if checked.iter().any(|(other, _)| *other == nr) {
            continue;
        }
        let name = name_of(nr as usize);
        let want = match name {
            Some("clone3") => ABSENT,
            _ if nr > HIGHEST_KNOWN => ABSENT,
            Some("fstatat") if common.contains(&"newfstatat") => ALLOW,
            Some(name) if common.contains(&name) => ALLOW,
            _ => REFUSE,
        };
        assert_eq!(
            run(&code, arch, nr, [0; 6]),
            want,
            "{arch:#x}: {nr} {name:?}"
        );
    }
    for other in [ARCH_X86_64, ARCH_AARCH64, 0x4000_0003, 0x4000_0028] {
        let killed = run(&code, other, 1, [0; 6]) == RET_KILL_PROCESS;
        assert_eq!(killed, other != arch, "{other:#x} on {arch:#x}");
    }
}

/// What the C library calls a number is what the kernel's table calls it.
#[test]
#[cfg(target_arch = "x86_64")]
fn names_of_the_list_are_the_kernels() {
    for call in listing() {
        let found = syscalls::x86_64::Sysno::new(call.number as usize).map(|known| known.name());
        assert_eq!(found, Some(call.name), "{}", call.number);
    }
}

#[test]
fn foreign_abis_die() {
    let code = program();
    assert_eq!(run(&code, 0x4000_0003, 1, [0; 6]), RET_KILL_PROCESS);
    for nr in 0..LAST {
        let x32 = run(&code, NATIVE_ARCH, X32_BIT + nr, [0; 6]);
        assert_eq!(x32, RET_KILL_PROCESS, "{nr}");
    }
}

/// What `socket` is answered, by the rules written out.
fn socket_answer(family: u64, kind: u64, protocol: u64) -> u32 {
    match (family, kind, protocol) {
        (1, 1 | 2 | 5, 0 | 1)
        | (2, 1 | 2, 0 | 1 | 6 | 17)
        | (10, 1 | 2, 0 | 6 | 17 | 58)
        | (16, 2 | 3, 0) => ALLOW,
        (1, 1 | 2 | 5, _) | (2 | 10, 1 | 2, _) | (16, 2 | 3, _) => RET_ERRNO | EPROTONOSUPPORT,
        (1 | 2 | 10 | 16, _, _) => RET_ERRNO | ESOCKTNOSUPPORT,
        _ => RET_ERRNO | EAFNOSUPPORT,
    }
}

#[test]
fn sockets_are_checked() {
    for family in (0..64).chain([0xffff_ffff, 0x1_0000_0002]) {
        for kind in 0..16 {
            for flags in [0, 0x80000, 0x800, 0x80800] {
                for protocol in [
                    0, 1, 2, 6, 12, 15, 16, 17, 33, 58, 115, 132, 136, 255, 256, 262,
                ] {
                    let got = native(libc::SYS_socket, [family, kind | flags, protocol, 0, 0, 0]);
                    // The kernel takes the low half of the number of a family, and so does the filter.
                    let want = socket_answer(family & 0xffff_ffff, kind, protocol);
                    assert_eq!(got, want, "socket({family}, {kind}, {protocol})");
                }
            }
        }
        let pair = native(libc::SYS_socketpair, [family, 1, 0, 0, 0, 0]);
        assert_eq!(pair == ALLOW, family == 1, "socketpair({family})");
    }
}

#[test]
fn no_protocol_is_put_on_top_of_another() {
    let set = |level, option| native(libc::SYS_setsockopt, [3, level, option, 0, 0, 0]);
    let refused = RET_ERRNO | ENOPROTOOPT;
    for (level, option) in [(17, 100), (136, 100), (6, 31)] {
        assert_eq!(set(level, option), refused, "{level} {option}");
    }
    // TCP_NODELAY, UDP_SEGMENT, SO_REUSEADDR, and the same numbers elsewhere.
    for (level, option) in [
        (6, 1),
        (17, 103),
        (1, 2),
        (6, 100),
        (17, 31),
        (1, 31),
        (0, 100),
    ] {
        assert_eq!(set(level, option), ALLOW, "{level} {option}");
    }
}

#[test]
fn the_limit_of_core_dumps_stays() {
    const POINTER: u64 = 0x7fff_0000_0000;
    let any = |resource, new, old| native(libc::SYS_prlimit64, [0, resource, new, old, 0, 0]);
    let set = |resource| native(libc::SYS_setrlimit, [resource, POINTER, 0, 0, 0, 0]);
    for pointer in [POINTER, 0x1000, POINTER + 0x10] {
        assert_eq!(any(4, pointer, 0), PRETEND, "{pointer:#x}");
        assert_eq!(any(4, pointer, pointer), REFUSE);
        assert_eq!(any(4, 0, pointer), ALLOW);
        assert_eq!(any(7, pointer, 0), ALLOW);
    }
    assert_eq!((any(4, 0, 0), set(4), set(7)), (ALLOW, PRETEND, ALLOW));
    assert_eq!(
        any(0x1_0000_0004, POINTER, 0),
        PRETEND,
        "the kernel takes the low half"
    );
}

#[test]
fn arguments_are_checked() {
    assert_eq!(native(libc::SYS_socketpair, [1, 1, 0, 0, 0, 0]), ALLOW);
    assert_eq!(native(libc::SYS_clone, [0x003d_0f00, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(
        native(libc::SYS_clone, [0x1000_0011, 0, 0, 0, 0, 0]),
        REFUSE
    );
    assert_eq!(native(libc::SYS_unshare, [0x400, 0, 0, 0, 0, 0]), ALLOW);
    for bit in [
        0x80,
        0x0002_0000,
        0x0200_0000,
        0x0400_0000,
        0x0800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
    ] {
        assert_eq!(native(libc::SYS_unshare, [bit, 0, 0, 0, 0, 0]), REFUSE);
    }
    let terminal = |request| native(libc::SYS_ioctl, [0, request, 0, 0, 0, 0]);
    assert_eq!(terminal(u64::from(TIOCSTI)), REFUSE);
    assert_eq!(terminal(u64::from(TIOCLINUX)), REFUSE);
    assert_eq!(terminal(u64::from(TIOCSTI) | 1 << 32), REFUSE);
    assert_eq!(terminal(0x5401), ALLOW);
    let persona = |value| native(libc::SYS_personality, [value, 0, 0, 0, 0, 0]);
    assert_eq!((persona(0), persona(0xffff_ffff)), (ALLOW, ALLOW));
    assert_eq!(persona(0x0004_0000), REFUSE);
}

#[test]
fn dangerous_calls_are_not_listed() {
    for nr in [
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_add_key,
        libc::SYS_keyctl,
        libc::SYS_request_key,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_fsopen,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_pivot_root,
        libc::SYS_setns,
        libc::SYS_open_by_handle_at,
        libc::SYS_init_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_clock_settime,
        libc::SYS_vmsplice,
        libc::SYS_fanotify_init,
    ] {
        assert_ne!(native(nr, [0; 6]), ALLOW, "call {nr}");
    }
}

#[test]
fn asynchronous_io_is_answered_as_absent() {
    assert_eq!(native(libc::SYS_io_setup, [1, 0, 0, 0, 0, 0]), ABSENT);
    assert_eq!(native(libc::SYS_io_submit, [0; 6]), REFUSE);
}
