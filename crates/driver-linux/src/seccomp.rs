//! The system calls that a sandbox may make: an allow-list, compiled to classic BPF.
//!
//! Three answers are given to what is not on the list:
//! calls of a foreign ABI kill the process;
//! `clone3` and numbers newer than this table answer `ENOSYS`, so that libraries fall back;
//! everything else answers `EPERM`, and socket families `EAFNOSUPPORT`.
//! Some calls are allowed only with certain arguments ([`Check`]).
//!
//! Allowed numbers are merged into ranges and searched by bisection: a filter of some hundred instructions of which
//! about ten are run, and that the kernel turns into its per-call bitmap quickly when it is installed.

use soulbox_linux::seccomp::Instruction;

mod table;

use table::{CHECKED, HIGHEST_KNOWN, allowed};

/// A condition on the arguments of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// `clone`, `unshare`: no new namespaces. The flags are argument 0.
    NoNamespaces,
    /// `socket`: UNIX, INET, INET6 without raw sockets; NETLINK for routes only.
    SocketFamilies,
    /// `socketpair`: UNIX only.
    UnixOnly,
    /// `ioctl`: not the requests that push input into a terminal.
    NoTerminalInjection,
    /// `personality`: the default, or a question.
    DefaultPersonality,
}

// linux/bpf_common.h
const LD_W_ABS: u16 = 0x20;
const JEQ: u16 = 0x15;
const JGE: u16 = 0x35;
const JSET: u16 = 0x45;
const AND: u16 = 0x54;
const RET: u16 = 0x06;

// linux/seccomp.h
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

// Offsets in struct seccomp_data.
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

#[cfg(target_arch = "x86_64")]
const NATIVE_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE_ARCH: u32 = 0xc000_00b7;
/// Numbers from here on are the x32 ABI; no other architecture has any.
const X32_BIT: u32 = 0x4000_0000;

/// The same number on every architecture.
const CLONE3: u32 = 435;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. In `clone` the first one's bit belongs to
/// the exit signal, of which it is no valid part.
const NEW_NAMESPACES: u32 = 0x80 | 0x0002_0000 | 0x7e00_0000;
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;

/// Compiles the filter for this machine's architecture.
#[must_use]
pub fn program() -> Vec<Instruction> {
    let mut code = vec![
        load(OFFSET_ARCH),
        jump(JEQ, NATIVE_ARCH, 1, 0),
        ret(RET_KILL_PROCESS),
        load(OFFSET_NR),
        jump(JGE, X32_BIT, 0, 1),
        ret(RET_KILL_PROCESS),
    ];
    for (number, check) in CHECKED {
        let body = check_body(*check);
        let skip = u8::try_from(body.len()).unwrap_or(u8::MAX);
        code.push(jump(JEQ, *number, 0, skip));
        code.extend(body);
    }
    code.extend([jump(JEQ, CLONE3, 0, 1), ret(RET_ERRNO | ENOSYS)]);
    code.extend([jump(JGE, HIGHEST_KNOWN + 1, 0, 1), ret(RET_ERRNO | ENOSYS)]);
    bisect(&ranges(&allowed()), &mut code);
    code
}

/// Merges numbers into inclusive ranges.
fn ranges(numbers: &[u32]) -> Vec<(u32, u32)> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for n in sorted {
        match merged.last_mut() {
            Some((_, end)) if *end + 1 == n => *end = n,
            _ => merged.push((n, n)),
        }
    }
    merged
}

/// Appends code that allows a number in one of the ranges and refuses every other.
fn bisect(ranges: &[(u32, u32)], code: &mut Vec<Instruction>) {
    match ranges {
        [] => code.push(ret(RET_ERRNO | EPERM)),
        [(start, end)] => code.extend([
            jump(JGE, *start, 0, 1),
            jump(JGE, *end + 1, 0, 1),
            ret(RET_ERRNO | EPERM),
            ret(RET_ALLOW),
        ]),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let mut low_code = Vec::new();
            bisect(low, &mut low_code);
            // Conditional jumps reach 255 instructions only; the plain jump behind them reaches everything.
            code.push(jump(JGE, high[0].0, 0, 1));
            code.push((
                0x05,
                0,
                0,
                u32::try_from(low_code.len()).unwrap_or(u32::MAX),
            ));
            code.extend(low_code);
            bisect(high, code);
        }
    }
}

/// Code that ends with allowing or refusing, given that the call's number has matched.
fn check_body(check: Check) -> Vec<Instruction> {
    let (refuse, allow) = (ret(RET_ERRNO | EPERM), ret(RET_ALLOW));
    match check {
        Check::NoNamespaces => vec![load_arg(0), jump(JSET, NEW_NAMESPACES, 0, 1), refuse, allow],
        Check::UnixOnly => vec![load_arg(0), jump(JEQ, 1, 1, 0), refuse, allow],
        Check::NoTerminalInjection => {
            vec![
                load_arg(1),
                jump(JEQ, TIOCSTI, 1, 0),
                jump(JEQ, TIOCLINUX, 0, 1),
                refuse,
                allow,
            ]
        }
        Check::DefaultPersonality => {
            vec![
                load_arg(0),
                jump(JEQ, 0, 2, 0),
                jump(JEQ, u32::MAX, 1, 0),
                refuse,
                allow,
            ]
        }
        Check::SocketFamilies => vec![
            load_arg(0),
            jump(JEQ, 16, 7, 0), // AF_NETLINK: look at the protocol
            jump(JEQ, 1, 2, 0),  // AF_UNIX
            jump(JEQ, 2, 1, 0),  // AF_INET
            jump(JEQ, 10, 0, 6), // AF_INET6
            load_arg(1),
            (AND, 0, 0, 0xf), // the type without SOCK_NONBLOCK and SOCK_CLOEXEC
            jump(JGE, 3, 0, 4),
            jump(JEQ, 5, 3, 2), // SOCK_SEQPACKET; not RAW, RDM, DCCP or PACKET
            load_arg(2),
            jump(JEQ, 0, 1, 0), // NETLINK_ROUTE
            // As from a kernel without the family: libaudit, and with it sudo, takes that for "nothing to do".
            ret(RET_ERRNO | EAFNOSUPPORT),
            allow,
        ],
    }
}

fn load(offset: u32) -> Instruction {
    (LD_W_ABS, 0, 0, offset)
}

/// The low half of an argument: every value that is checked fits in 32 bits, as the kernel itself uses it.
fn load_arg(index: u32) -> Instruction {
    load(OFFSET_ARGS + 8 * index)
}

fn jump(code: u16, k: u32, if_true: u8, if_false: u8) -> Instruction {
    (code, if_true, if_false, k)
}

fn ret(k: u32) -> Instruction {
    (RET, 0, 0, k)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = RET_ALLOW;
    const REFUSE: u32 = RET_ERRNO | EPERM;
    const ABSENT: u32 = RET_ERRNO | ENOSYS;

    /// Runs the filter as the kernel does.
    fn run(code: &[Instruction], arch: u32, nr: u32, args: [u32; 6]) -> u32 {
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
                        other => args[((other - OFFSET_ARGS) / 8) as usize],
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

    #[test]
    fn every_number_gets_the_listed_answer() {
        let code = program();
        assert!(code.len() < 4096);
        for nr in 0..1024 {
            if CHECKED.iter().any(|(n, _)| *n == nr) {
                continue;
            }
            let want = match nr {
                CLONE3 => ABSENT,
                n if n > HIGHEST_KNOWN => ABSENT,
                n if allowed().contains(&n) => ALLOW,
                _ => REFUSE,
            };
            assert_eq!(run(&code, NATIVE_ARCH, nr, [0; 6]), want, "call {nr}");
        }
    }

    #[test]
    fn foreign_abis_die() {
        let code = program();
        assert_eq!(run(&code, 0x4000_0003, 1, [0; 6]), RET_KILL_PROCESS);
        assert_eq!(
            run(&code, NATIVE_ARCH, X32_BIT + 1, [0; 6]),
            RET_KILL_PROCESS
        );
    }

    #[test]
    fn arguments_are_checked() {
        let code = program();
        let call =
            |nr: i64, args: [u32; 6]| run(&code, NATIVE_ARCH, u32::try_from(nr).unwrap(), args);
        for family in 0..64 {
            for kind in 0..16 {
                for protocol in [0, 1, 15] {
                    let want = match (family, kind) {
                        (16, _) => protocol == 0,
                        (1 | 2 | 10, 0..=2 | 5) => true,
                        _ => false,
                    };
                    let got = call(
                        libc::SYS_socket,
                        [family, kind | 0x80000, protocol, 0, 0, 0],
                    );
                    assert_eq!(got == ALLOW, want, "socket({family}, {kind}, {protocol})");
                }
            }
        }
        assert_eq!(call(libc::SYS_socketpair, [1, 1, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(libc::SYS_socketpair, [38, 5, 0, 0, 0, 0]), REFUSE);
        assert_eq!(call(libc::SYS_clone, [0x003d_0f00, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(libc::SYS_clone, [0x1000_0011, 0, 0, 0, 0, 0]), REFUSE);
        assert_eq!(call(libc::SYS_unshare, [0x400, 0, 0, 0, 0, 0]), ALLOW);
        for bit in [
            0x80u32,
            0x0002_0000,
            0x0200_0000,
            0x0400_0000,
            0x0800_0000,
            0x1000_0000,
            0x2000_0000,
            0x4000_0000,
        ] {
            assert_eq!(call(libc::SYS_unshare, [bit, 0, 0, 0, 0, 0]), REFUSE);
        }
        assert_eq!(call(libc::SYS_ioctl, [0, TIOCSTI, 0, 0, 0, 0]), REFUSE);
        assert_eq!(call(libc::SYS_ioctl, [0, TIOCLINUX, 0, 0, 0, 0]), REFUSE);
        assert_eq!(call(libc::SYS_ioctl, [0, 0x5401, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(libc::SYS_personality, [0; 6]), ALLOW);
        assert_eq!(
            call(libc::SYS_personality, [u32::MAX, 0, 0, 0, 0, 0]),
            ALLOW
        );
        assert_eq!(
            call(libc::SYS_personality, [0x0004_0000, 0, 0, 0, 0, 0]),
            REFUSE
        );
    }

    #[test]
    fn dangerous_calls_are_not_listed() {
        let code = program();
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
            assert_ne!(
                run(&code, NATIVE_ARCH, u32::try_from(nr).unwrap(), [0; 6]),
                ALLOW,
                "call {nr}"
            );
        }
    }
}
