//! The filter as the kernel applies it, compared call by call with the program that was installed.

use serde_json::Value;
use soulbox_driver_linux::seccomp;

use crate::support::on_stage;

/// Numbers beyond the newest that any kernel has.
const LAST: u32 = 500;

// linux/bpf_common.h, linux/seccomp.h
const RET: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// What the installed program answers, by the rules of classic BPF. `None` is "let it through".
fn refusal(program: &[(u16, u8, u8, u32)], number: u32, argument: u32) -> Option<u32> {
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
                    _ => argument,
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
            match refusal(&program, number, u32::MAX) {
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

const SOCKETS: &str = r#"
import json, os, socket
made = []
for family in range(0, 64):
    for kind in (1, 2, 3, 4, 5, 6, 10):
        for protocol in (0, 1, 2, 6, 12, 15, 16, 255):
            try:
                s = socket.socket(family, kind, protocol)
            except OSError:
                continue
            s.close()
            made.append([family, kind, protocol])
pairs = []
for family in range(0, 64):
    for kind in (1, 2, 3, 5):
        try:
            a, b = socket.socketpair(family, kind, 0)
        except OSError:
            continue
        a.close(); b.close()
        pairs.append([family, kind])
print(json.dumps([made, pairs]))
"#;

#[test]
fn sockets_are_local_internet_or_route_only() {
    on_stage(async |stage| {
        let sandbox = stage.create().await;
        for user in ["root", "user"] {
            let found = sandbox.python(user, SOCKETS).await;
            let made: Vec<(u64, u64, u64)> = serde_json::from_value(found[0].clone()).unwrap();
            assert!(
                made.contains(&(2, 1, 0)) && made.contains(&(2, 2, 0)) && made.contains(&(1, 1, 0))
            );
            for (family, kind, protocol) in made {
                let allowed = match family {
                    // SOCK_RAW for AF_UNIX is the kernel's name for datagrams; the filter has refused it anyway.
                    1 => kind != 3,
                    2 | 10 => [1, 2].contains(&kind),
                    16 => protocol == 0,
                    _ => false,
                };
                assert!(allowed, "{user}: socket({family}, {kind}, {protocol})");
            }
            let pairs: Vec<(u64, u64)> = serde_json::from_value(found[1].clone()).unwrap();
            assert!(
                pairs.iter().all(|(family, _)| *family == 1),
                "{user}: {pairs:?}"
            );
        }
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
