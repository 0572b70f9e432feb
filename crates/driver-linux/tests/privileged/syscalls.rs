//! The filter as the kernel applies it, compared call by call with the program that was installed.

use serde_json::Value;
use soulbox_driver_linux::seccomp;

use crate::support::on_stage;

/// Numbers beyond the newest that any kernel has.
const LAST: u32 = 600;

// linux/bpf_common.h, linux/seccomp.h
const RET: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// What the installed program answers, by the rules of classic BPF. `None` is "let it through".
fn refusal(program: &[(u16, u8, u8, u32)], number: u32, arguments: [u32; 6]) -> Option<u32> {
    let (mut at, mut value) = (0, 0_u32);
    loop {
        let (code, yes, no, operand) = program[at];
        at += 1;
        let branch = |taken: bool| usize::from(if taken { yes } else { no });
        match code {
            0x20 => {
                value = match operand {
                    0 => number,
                    4 => ARCH,
                    // The arguments here have the same bits in both halves, or nothing in the high one.
                    place if place % 8 == 0 => {
                        arguments[usize::try_from((place - 16) / 8).unwrap()]
                    }
                    _ if arguments == [u32::MAX; 6] => u32::MAX,
                    _ => 0,
                }
            }
            0x54 => value &= operand,
            0x15 => at += branch(value == operand),
            0x35 => at += branch(value >= operand),
            0x45 => at += branch(value & operand != 0),
            0x05 => at += usize::try_from(operand).unwrap(),
            RET if operand == ALLOW => return None,
            RET if operand & 0xffff_0000 == ERRNO => return Some(operand & 0xffff),
            _ => panic!("unexpected instruction {code:#x} {operand:#x}"),
        }
    }
}

/// Each number in a process of its own, all arguments -1: no descriptor, no pointer, no flag word is valid. A call
/// through the filter then fails in the kernel's own code; what does anything at all does it to that process.
const TRY_ALL: &str = r#"
import ctypes, json, os, select, sys
libc = ctypes.CDLL(None, use_errno=True)
skipped = {int(n) for n in sys.argv[1].split(",")}
answers = {}
for number in range(int(sys.argv[2])):
    if number in skipped: continue
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        libc.alarm(2)
        ctypes.set_errno(0)
        result = libc.syscall(number, -1, -1, -1, -1, -1, -1)
        os.write(into, str(ctypes.get_errno() if result == -1 else 0).encode())
        os._exit(0)
    os.close(into)
    text = os.read(out, 20)
    os.close(out)
    _, status = os.waitpid(pid, 0)
    answers[number] = int(text) if text else -status
print(json.dumps(answers))
"#;

/// Calls that do not come back, or come back twice, whatever the arguments; they are used all the time by everything
/// that the other tests run.
#[cfg(target_arch = "x86_64")]
const SKIPPED: &[(i64, &str)] = &[
    (
        libc::SYS_rt_sigreturn,
        "jumps to a stack frame that is not there",
    ),
    (libc::SYS_pause, "waits for a signal"),
    (libc::SYS_fork, "comes back twice"),
    (libc::SYS_vfork, "comes back twice, on one stack"),
    (libc::SYS_exit, "does not come back"),
    (libc::SYS_exit_group, "does not come back"),
    (
        libc::SYS_alarm,
        "takes away the time limit of the probe; cannot fail",
    ),
];
#[cfg(target_arch = "aarch64")]
const SKIPPED: &[(i64, &str)] = &[
    (
        libc::SYS_rt_sigreturn,
        "jumps to a stack frame that is not there",
    ),
    (libc::SYS_exit, "does not come back"),
    (libc::SYS_exit_group, "does not come back"),
];

/// `uretprobe` and `uprobe`, which the kernel lets past every filter since 6.14: a process that is being traced by the
/// host's root must be able to return. Called by anybody else they end the process or fail.
#[cfg(target_arch = "x86_64")]
const UNFILTERED: [u32; 2] = [335, 336];
#[cfg(target_arch = "aarch64")]
const UNFILTERED: [u32; 0] = [];

#[test]
fn every_system_call_gets_the_answer_of_the_filter() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let program = seccomp::program();
        let skipped: Vec<String> = SKIPPED
            .iter()
            .map(|(number, _)| number.to_string())
            .collect();
        let arguments = [
            "python3",
            "-c",
            TRY_ALL,
            &skipped.join(","),
            &LAST.to_string(),
        ];
        let output = sandbox.run("root", &arguments).await;
        assert_eq!(output.code, 0, "{output:?}");
        let answers: Value = serde_json::from_str(&output.stdout).unwrap();
        let (mut refused, mut wrong) = (0, Vec::new());
        for number in 0..LAST {
            let Some(answer) = answers[number.to_string()].as_i64() else {
                continue;
            };
            if UNFILTERED.contains(&number) {
                continue;
            }
            match refusal(&program, number, [u32::MAX; 6]) {
                Some(errno) => {
                    refused += 1;
                    if answer != i64::from(errno) {
                        wrong.push(format!("{number}: refused with {errno}, answered {answer}"));
                    }
                }
                // landlock_restrict_self asks for no_new_privs or CAP_SYS_ADMIN, and says so with the same word.
                None if i64::from(number) == libc::SYS_landlock_restrict_self => {}
                // The filter's word for calls that it knows and does not want.
                None if answer == i64::from(libc::EPERM) => {
                    wrong.push(format!("{number}: allowed, answered EPERM"));
                }
                None => {}
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(refused > 100, "{refused}");
    });
}

/// Every number with the bit of x32, each in a process of its own: those that were not killed by the filter.
const TRY_X32: &str = r#"
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
alive = []
for number in range(LAST):
    pid = os.fork()
    if pid == 0:
        libc.alarm(2)
        libc.syscall(0x40000000 + number, -1, -1, -1, -1, -1, -1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != 31:
        alive.append([number, status])
print(json.dumps(alive))
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn every_number_of_x32_kills_the_process() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let alive = sandbox
            .python("root", &TRY_X32.replace("LAST", &LAST.to_string()))
            .await;
        assert_eq!(alive, serde_json::json!([]));
    });
}

/// Beyond the last family of any kernel: AF_MAX is 46.
const FAMILIES: u32 = 64;
const TYPES: u32 = 11;
/// SOCK_NONBLOCK, SOCK_CLOEXEC, both, and a flag that does not exist.
const TYPE_FLAGS: [u32; 5] = [0, 0x800, 0x80000, 0x80800, 0x10];
/// Those that mean something in some family, and some that do not.
const PROTOCOLS: [u32; 17] = [
    0, 1, 2, 3, 6, 12, 15, 16, 17, 33, 58, 115, 132, 136, 255, 256, 262,
];

const TRY_SOCKETS: &str = r#"
import ctypes, itertools, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
families, types, flags, protocols = json.loads(sys.argv[1])
def errno_of(make):
    ctypes.set_errno(0)
    if make() < 0: return ctypes.get_errno()
    os.closerange(3, 8)
    return 0
two = (ctypes.c_int * 2)()
sockets, pairs = [], []
for family, kind, flag in itertools.product(range(families), range(types), flags):
    for protocol in protocols:
        sockets.append(errno_of(lambda: libc.socket(family, kind | flag, protocol)))
    pairs.append(errno_of(lambda: libc.socketpair(family, kind | flag, 0, two)))
print(json.dumps([sockets, pairs]))
"#;

#[test]
fn every_socket_gets_the_answer_of_the_filter() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let program = seccomp::program();
        let arguments = serde_json::json!([FAMILIES, TYPES, TYPE_FLAGS, PROTOCOLS]).to_string();
        let number = |call: i64| u32::try_from(call).unwrap();
        for user in ["root", "user"] {
            let output = sandbox
                .run(user, &["python3", "-c", TRY_SOCKETS, &arguments])
                .await;
            assert_eq!(output.code, 0, "{output:?}");
            let [sockets, pairs]: [Vec<u32>; 2] = serde_json::from_str(&output.stdout).unwrap();
            let (mut sockets, mut pairs) = (sockets.into_iter(), pairs.into_iter());
            let mut made = 0;
            let mut compare = |call: i64, family, kind, protocol, answer: u32| {
                let arguments = [family, kind, protocol, 0, 0, 0];
                made += u32::from(answer == 0);
                match refusal(&program, number(call), arguments) {
                    Some(errno) => assert_eq!(
                        answer, errno,
                        "{user}: {call}({family}, {kind:#x}, {protocol}) is refused"
                    ),
                    // What the filter lets through may still fail in the kernel's own code, but not for want of a right.
                    None => assert_ne!(
                        answer,
                        number(libc::EPERM.into()),
                        "{user}: {call}({family}, {kind:#x}, {protocol}) is allowed"
                    ),
                }
            };
            for family in 0..FAMILIES {
                for kind in 0..TYPES {
                    for flag in TYPE_FLAGS {
                        for protocol in PROTOCOLS {
                            let answer = sockets.next().unwrap();
                            compare(libc::SYS_socket, family, kind | flag, protocol, answer);
                        }
                        let answer = pairs.next().unwrap();
                        compare(libc::SYS_socketpair, family, kind | flag, 0, answer);
                    }
                }
            }
            assert!(made > 30, "{user}: {made}");
        }
    });
}

const SOCKETS: &str = r#"
import json, os, socket
made = []
for family in range(0, 64):
    for kind in (1, 2, 3, 4, 5, 6, 10):
        for protocol in (0, 1, 2, 6, 12, 15, 16, 17, 132, 136, 255, 256, 262):
            try:
                s = socket.socket(family, kind, protocol)
            except OSError:
                continue
            s.close()
            made.append([family, kind, protocol])
print(json.dumps(made))
"#;

/// What can be made is what the product lists, and that is what is written here.
#[test]
fn sockets_are_local_internet_or_route_only() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        for user in ["root", "user"] {
            let found = sandbox.python(user, SOCKETS).await;
            let made: Vec<(u32, u32, u32)> = serde_json::from_value(found).unwrap();
            for usual in [(2, 1, 0), (2, 2, 0), (1, 1, 0), (10, 1, 6), (16, 3, 0)] {
                assert!(made.contains(&usual), "{user}: {usual:?}");
            }
            for (family, kind, protocol) in made {
                let rule = seccomp::SOCKETS.iter().find(|rule| rule.family == family);
                let listed = rule.is_some_and(|rule| {
                    rule.types.contains(&kind) && rule.protocols.contains(&protocol)
                });
                let harmless = match family {
                    1 => kind != 3,
                    2 | 10 => [1, 2].contains(&kind) && [0, 1, 6, 17, 58].contains(&protocol),
                    16 => protocol == 0,
                    _ => false,
                };
                assert!(
                    listed && harmless,
                    "{user}: socket({family}, {kind}, {protocol})"
                );
            }
        }
    });
}

const UPPER_PROTOCOLS: &str = r#"
import json, socket
def answer(kind, level, option, value):
    with socket.socket(socket.AF_INET, kind) as one:
        try:
            one.setsockopt(level, option, value)
            return 0
        except OSError as error:
            return error.errno
print(json.dumps([
    answer(socket.SOCK_DGRAM, 17, 100, 2),       # ESP in UDP
    answer(socket.SOCK_DGRAM, 136, 100, 2),      # the same by the level of UDP-Lite
    answer(socket.SOCK_STREAM, 6, 31, b"tls"),
    answer(socket.SOCK_STREAM, 6, 31, b"espintcp"),
    answer(socket.SOCK_STREAM, 6, 1, 1),         # TCP_NODELAY
]))
"#;

#[test]
fn nothing_is_put_on_top_of_udp_or_tcp() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        for user in ["root", "user"] {
            let answers = sandbox.python(user, UPPER_PROTOCOLS).await;
            assert_eq!(answers, serde_json::json!([92, 92, 92, 92, 0]), "{user}");
        }
    });
}

/// A core dump goes to whatever the host's `core_pattern` names, a program of the host's included. That one is run
/// whatever the limit is, zero too, but for the value 1 (core(5), `coredump.c`).
const CORE_LIMIT: &str = r#"
import json, os, resource, subprocess
found = [resource.getrlimit(resource.RLIMIT_CORE)]
for wanted in ((0, 0), (0, 1), (1 << 20, 1 << 20)):
    try:
        resource.setrlimit(resource.RLIMIT_CORE, wanted)
    except (OSError, ValueError): pass
    found.append(resource.getrlimit(resource.RLIMIT_CORE))
try:
    resource.prlimit(os.getpid(), resource.RLIMIT_CORE, (0, 0))
except OSError: pass
found.append(resource.getrlimit(resource.RLIMIT_CORE))
for shell in ("ulimit -c 0; ulimit -c; ulimit -Hc", "ulimit -c unlimited; ulimit -c; ulimit -Hc"):
    subprocess.run(["sh", "-c", shell], stdout=subprocess.DEVNULL)
pid = os.fork()
if pid == 0: os.abort()
print(json.dumps([found, os.WCOREDUMP(os.waitpid(pid, 0)[1])]))
"#;

#[test]
fn no_dump_reaches_a_handler_of_the_host() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        for user in ["root", "user"] {
            let found = sandbox.python(user, CORE_LIMIT).await;
            let limit = serde_json::json!([1, 1]);
            let all = found[0].as_array().unwrap();
            assert!(
                all.len() == 5 && all.iter().all(|one| *one == limit),
                "{found}"
            );
            assert_eq!(found[1], false, "{user}");
        }
        let sudo = sandbox.run("user", &["sudo", "id", "-u"]).await;
        assert_eq!(
            (sudo.stdout.as_str(), sudo.stderr.as_str()),
            (
                "0
", ""
            )
        );
    });
}

const NEW_NAMESPACES: &str = r#"
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
FLAGS = dict(time=0x80, mnt=0x20000, cgroup=0x2000000, uts=0x4000000, ipc=0x8000000, user=0x10000000, pid=0x20000000, net=0x40000000)
answers = {}
def answer(name, number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(number, *args)
    if result == 0 and name.startswith("clone"): os._exit(0)
    answers[name] = ctypes.get_errno() if result < 0 else 0
for name, flag in FLAGS.items():
    answer("unshare " + name, 272, flag)
    answer("unshare high bits " + name, 272, flag | 1 << 40)
    answer("clone " + name, 56, flag | 17, 0, 0, 0, 0)
    answer("setns " + name, 308, os.open("/proc/self/ns/" + name, os.O_RDONLY), 0)
class Args(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in ("flags", "pidfd", "ctid", "ptid", "signal", "stack", "size", "tls")]
answer("clone3", 435, ctypes.byref(Args(flags=0x10000000, signal=17)), 64)
print(json.dumps(answers))
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn no_new_namespaces() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        for user in ["root", "user"] {
            let answers = sandbox.python(user, NEW_NAMESPACES).await;
            let answers = answers.as_object().unwrap();
            assert_eq!(answers.len(), 8 * 4 + 1);
            for (name, errno) in answers {
                let expected = if name == "clone3" {
                    libc::ENOSYS
                } else {
                    libc::EPERM
                };
                // The exit signal of clone(2) shares a bit with CLONE_NEWTIME.
                assert_eq!(errno, expected, "{user}: {name}");
            }
        }
    });
}

const FOREIGN: &str = r#"
import ctypes, json, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
def ends(action):
    pid = os.fork()
    if pid == 0:
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def machine_code(hexadecimal):
    area = mmap.mmap(-1, 4096, prot=7)
    area.write(bytes.fromhex(hexadecimal))
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(area)))()
print(json.dumps([
    ends(lambda: machine_code("b814000000cd80c3")),    # mov eax, 20; int 0x80; ret: getpid of i386
    ends(lambda: libc.syscall(0x40000000 + 39)),       # getpid of x32
    ends(lambda: libc.syscall(39)),
]))
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn foreign_abis_kill_the_process() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        let killed = -libc::SIGSYS;
        assert_eq!(
            sandbox.python("user", FOREIGN).await,
            serde_json::json!([killed, killed, 0])
        );
    });
}

const TERMINAL: &str = r#"
import fcntl, json, os, pty
found = []
pid, master = pty.fork()
if pid == 0:
    for request in (0x5412, 0x541c):
        try:
            fcntl.ioctl(0, request, b"x"); os.write(1, b"pushed ")
        except OSError as error:
            os.write(1, b"errno %d " % error.errno)
    os._exit(0)
text = b""
try:
    while True: text += os.read(master, 1000)
except OSError: pass
print(json.dumps(text.decode().split()))
"#;

#[test]
fn nothing_can_be_typed_into_a_terminal() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        for user in ["root", "user"] {
            let answers = sandbox.python(user, TERMINAL).await;
            assert_eq!(answers, serde_json::json!(["errno", "1", "errno", "1"]));
        }
    });
}

const DEBUG_CHILD: &str = r#"
import ctypes, json, os, signal
libc = ctypes.CDLL(None, use_errno=True)
pid = os.fork()
if pid == 0:
    libc.ptrace(0, 0, 0, 0); os.kill(os.getpid(), signal.SIGSTOP); os._exit(3)
stopped = os.WIFSTOPPED(os.waitpid(pid, 0)[1])
libc.ptrace(7, pid, 0, 0)
print(json.dumps([stopped, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]))
"#;

#[test]
fn debuggers_work_inside() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        assert_eq!(
            sandbox.python("user", DEBUG_CHILD).await,
            serde_json::json!([true, 3])
        );
    });
}
