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
pub use table::{SOCKETS, SocketRule};

/// A condition on the arguments of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// `clone`, `unshare`: no new namespaces. The flags are argument 0.
    NoNamespaces,
    /// `socket`: UNIX; INET and INET6 for TCP, UDP and pings; NETLINK for routes.
    SocketFamilies,
    /// `socketpair`: UNIX only.
    UnixOnly,
    /// `ioctl`: not the requests that push input into a terminal.
    NoTerminalInjection,
    /// `personality`: the default, or a question.
    DefaultPersonality,
    /// `setsockopt`: nothing that puts another protocol of the kernel's on top of UDP or TCP.
    NoUpperProtocols,
    /// `setrlimit`: the limit of core dumps stays; who asks for another is told that it is done.
    KeepCoreLimit,
    /// `prlimit64`: the same, and questions are answered.
    KeepCoreLimitOfAny,
    /// `io_setup`: answered as by a kernel without asynchronous I/O. The number of contexts is the host's, so that one
    /// sandbox could take all of them; programs that know the call know how to go on without.
    Absent,
}

impl Check {
    /// In words.
    #[must_use]
    pub fn condition(self) -> &'static str {
        match self {
            Self::NoNamespaces => "no new namespaces",
            Self::SocketFamilies => "the listed sockets",
            Self::UnixOnly => "AF_UNIX",
            Self::NoTerminalInjection => "not TIOCSTI or TIOCLINUX",
            Self::DefaultPersonality => "the default, or a question",
            Self::NoUpperProtocols => "not UDP_ENCAP or TCP_ULP",
            Self::KeepCoreLimit => "RLIMIT_CORE stays",
            Self::KeepCoreLimitOfAny => "RLIMIT_CORE stays, questions are answered",
            Self::Absent => "never: ENOSYS",
        }
    }
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

#[cfg(any(test, target_arch = "x86_64"))]
const ARCH_X86_64: u32 = 0xc000_003e;
#[cfg(any(test, target_arch = "aarch64"))]
const ARCH_AARCH64: u32 = 0xc000_00b7;
#[cfg(target_arch = "x86_64")]
const NATIVE_ARCH: u32 = ARCH_X86_64;
#[cfg(target_arch = "aarch64")]
const NATIVE_ARCH: u32 = ARCH_AARCH64;
/// Numbers from here on are the x32 ABI; no other architecture has any.
const X32_BIT: u32 = 0x4000_0000;

/// The same number on every architecture.
const CLONE3: u32 = 435;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const ENOPROTOOPT: u32 = 92;
const EPROTONOSUPPORT: u32 = 93;
const ESOCKTNOSUPPORT: u32 = 94;
const EAFNOSUPPORT: u32 = 97;
/// Not carried out, and reported as done.
const PRETEND: u32 = RET_ERRNO;

/// CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. In `clone` the first one's bit belongs to
/// the exit signal, of which it is no valid part.
const NEW_NAMESPACES: u32 = 0x80 | 0x0002_0000 | 0x7e00_0000;
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;

// linux/net.h, linux/in.h, linux/udp.h, linux/tcp.h, asm-generic/resource.h; the same on both architectures.
/// The type of a socket without SOCK_NONBLOCK and SOCK_CLOEXEC.
const SOCKET_TYPE_BITS: u32 = 0xf;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_UDPLITE: u32 = 136;
const UDP_ENCAP: u32 = 100;
const TCP_ULP: u32 = 31;
const RLIMIT_CORE: u32 = 4;

/// A call that is on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedCall {
    /// Its name.
    pub name: &'static str,
    /// Its number on this architecture.
    pub number: u32,
    /// The condition on its arguments, if there is one.
    pub check: Option<Check>,
}

/// Every call that may be made on this architecture, by number. What is not here is refused.
#[must_use]
pub fn listing() -> Vec<ListedCall> {
    let bare = |name: &'static str| name.trim_start_matches("SYS_");
    let free = allowed().into_iter().map(|(name, number)| ListedCall {
        name: bare(name),
        number,
        check: None,
    });
    let checked = CHECKED.iter().map(|(name, number, check)| ListedCall {
        name: bare(name),
        number: *number,
        check: Some(*check),
    });
    let mut calls: Vec<ListedCall> = free.chain(checked).collect();
    calls.sort_by_key(|call| call.number);
    calls
}

/// Compiles the filter for this machine's architecture.
#[must_use]
pub fn program() -> Vec<Instruction> {
    let checked: Vec<(u32, Check)> = CHECKED.iter().map(|(_, n, check)| (*n, *check)).collect();
    let allowed: Vec<u32> = allowed().iter().map(|(_, number)| *number).collect();
    compile(NATIVE_ARCH, &checked, &allowed)
}

/// Compiles a filter for an architecture (as in `struct seccomp_data`) from its numbers.
fn compile(arch: u32, checked: &[(u32, Check)], allowed: &[u32]) -> Vec<Instruction> {
    let mut code = vec![
        load(OFFSET_ARCH),
        jump(JEQ, arch, 1, 0),
        ret(RET_KILL_PROCESS),
        load(OFFSET_NR),
        jump(JGE, X32_BIT, 0, 1),
        ret(RET_KILL_PROCESS),
    ];
    for (number, check) in checked {
        let body = check_body(*check);
        let skip = u8::try_from(body.len()).unwrap_or(u8::MAX);
        code.push(jump(JEQ, *number, 0, skip));
        code.extend(body);
    }
    code.extend([jump(JEQ, CLONE3, 0, 1), ret(RET_ERRNO | ENOSYS)]);
    code.extend([jump(JGE, HIGHEST_KNOWN + 1, 0, 1), ret(RET_ERRNO | ENOSYS)]);
    bisect(&ranges(allowed), &mut code);
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
        Check::Absent => vec![ret(RET_ERRNO | ENOSYS)],
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
        Check::SocketFamilies => socket_families(),
        Check::NoUpperProtocols => vec![
            load_arg(1), // the level
            jump(JEQ, IPPROTO_UDP, 3, 0),
            jump(JEQ, IPPROTO_UDPLITE, 2, 0), // takes UDP's options, too
            jump(JEQ, IPPROTO_TCP, 3, 0),
            allow,
            load_arg(2), // the option
            jump(JEQ, UDP_ENCAP, 2, 3),
            load_arg(2),
            jump(JEQ, TCP_ULP, 0, 1),
            // As from a kernel without it: libraries that would use TLS of the kernel go on without.
            ret(RET_ERRNO | ENOPROTOOPT),
            allow,
        ],
        Check::KeepCoreLimit => {
            vec![
                load_arg(0),
                jump(JEQ, RLIMIT_CORE, 0, 1),
                ret(PRETEND),
                allow,
            ]
        }
        Check::KeepCoreLimitOfAny => vec![
            load_arg(1),
            jump(JEQ, RLIMIT_CORE, 0, 9),
            // The new limit: a pointer, both halves of which count.
            load_arg(2),
            jump(JEQ, 0, 0, 2),
            load(OFFSET_ARGS + 8 * 2 + 4),
            jump(JEQ, 0, 5, 0),
            load_arg(3),
            jump(JEQ, 0, 0, 2),
            load(OFFSET_ARGS + 8 * 3 + 4),
            jump(JEQ, 0, 2, 0),
            // Change and question in one: there is no answer to make up.
            refuse,
            allow,
            ret(PRETEND),
        ],
    }
}

/// One block for each family of [`SOCKETS`]. What is not there is answered as by a kernel without it: libaudit, and with
/// it sudo, takes that for "nothing to do".
fn socket_families() -> Vec<Instruction> {
    let mut code = vec![load_arg(0)];
    for rule in SOCKETS {
        let mut block = vec![load_arg(1), (AND, 0, 0, SOCKET_TYPE_BITS)];
        one_of(rule.types, ESOCKTNOSUPPORT, &mut block);
        block.push(load_arg(2));
        one_of(rule.protocols, EPROTONOSUPPORT, &mut block);
        block.push(ret(RET_ALLOW));
        let skip = u8::try_from(block.len()).unwrap_or(u8::MAX);
        code.push(jump(JEQ, rule.family, 0, skip));
        code.extend(block);
    }
    code.push(ret(RET_ERRNO | EAFNOSUPPORT));
    code
}

/// Code that goes on when the loaded value is one of these, and ends with an error when it is not.
fn one_of(values: &[u32], errno: u32, code: &mut Vec<Instruction>) {
    let count = u8::try_from(values.len()).unwrap_or(u8::MAX);
    for (left, value) in (0..count).rev().zip(values) {
        code.push(jump(JEQ, *value, left + 1, 0));
    }
    code.push(ret(RET_ERRNO | errno));
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
mod tests;
