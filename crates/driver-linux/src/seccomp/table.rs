//! The list itself. What is not here is refused; the reasons for notable absences stand at the end.

use libc::*;

use super::Check;

/// A system call number as the filter sees it. Numbers are small and positive, or the program does not compile.
const fn nr(number: c_long) -> u32 {
    assert!(number >= 0 && number < 4096);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked above"
    )]
    let small = number as u32;
    small
}

/// Calls up to this number are judged by the list; later ones are unknown to it and answer `ENOSYS`.
pub(super) const HIGHEST_KNOWN: u32 = 462;

/// A call: its name with `SYS_` before it, and its number on this architecture.
type Call = (&'static str, u32);

macro_rules! calls {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), nr($name))),*] };
}

/// Newer than the C library's list; the same on every architecture.
#[expect(non_upper_case_globals, reason = "named as the C library names calls")]
mod newer {
    use super::c_long;

    pub(super) const SYS_cachestat: c_long = 451;
    pub(super) const SYS_fchmodat2: c_long = 452;
    pub(super) const SYS_map_shadow_stack: c_long = 453;
    pub(super) const SYS_futex_wake: c_long = 454;
    pub(super) const SYS_futex_wait: c_long = 455;
    pub(super) const SYS_futex_requeue: c_long = 456;
    pub(super) const SYS_mseal: c_long = 462;
}

// By name: some of them are in newer versions of the C library's list, too.
use newer::{
    SYS_cachestat, SYS_fchmodat2, SYS_futex_requeue, SYS_futex_wait, SYS_futex_wake,
    SYS_map_shadow_stack, SYS_mseal,
};

/// Allowed with any arguments, on every architecture.
const COMMON: &[Call] = calls![
    SYS_read,
    SYS_write,
    SYS_close,
    SYS_fstat,
    SYS_lseek,
    SYS_mmap,
    SYS_mprotect,
    SYS_munmap,
    SYS_brk,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_pread64,
    SYS_pwrite64,
    SYS_readv,
    SYS_writev,
    SYS_sched_yield,
    SYS_mremap,
    SYS_msync,
    SYS_mincore,
    SYS_madvise,
    SYS_shmget,
    SYS_shmat,
    SYS_shmctl,
    SYS_shmdt,
    SYS_dup,
    SYS_dup3,
    SYS_nanosleep,
    SYS_getitimer,
    SYS_setitimer,
    SYS_getpid,
    SYS_sendfile,
    SYS_connect,
    SYS_accept,
    SYS_accept4,
    SYS_sendto,
    SYS_recvfrom,
    SYS_sendmsg,
    SYS_recvmsg,
    SYS_shutdown,
    SYS_bind,
    SYS_listen,
    SYS_getsockname,
    SYS_getpeername,
    SYS_getsockopt,
    SYS_execve,
    SYS_execveat,
    SYS_exit,
    SYS_exit_group,
    SYS_wait4,
    SYS_waitid,
    SYS_kill,
    SYS_tkill,
    SYS_tgkill,
    SYS_uname,
    SYS_semget,
    SYS_semop,
    SYS_semctl,
    SYS_semtimedop,
    SYS_msgget,
    SYS_msgsnd,
    SYS_msgrcv,
    SYS_msgctl,
    SYS_fcntl,
    SYS_flock,
    SYS_fsync,
    SYS_fdatasync,
    SYS_sync,
    SYS_syncfs,
    SYS_sync_file_range,
    SYS_truncate,
    SYS_ftruncate,
    SYS_getcwd,
    SYS_chdir,
    SYS_fchdir,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchown,
    SYS_fchownat,
    SYS_umask,
    SYS_gettimeofday,
    SYS_getrlimit,
    SYS_getrusage,
    SYS_sysinfo,
    SYS_times,
    SYS_ptrace,
    SYS_getuid,
    SYS_getgid,
    SYS_setuid,
    SYS_setgid,
    SYS_geteuid,
    SYS_getegid,
    SYS_setpgid,
    SYS_getppid,
    SYS_setsid,
    SYS_setreuid,
    SYS_setregid,
    SYS_getgroups,
    SYS_setgroups,
    SYS_setresuid,
    SYS_getresuid,
    SYS_setresgid,
    SYS_getresgid,
    SYS_getpgid,
    SYS_setfsuid,
    SYS_setfsgid,
    SYS_getsid,
    SYS_capget,
    SYS_capset,
    SYS_rt_sigpending,
    SYS_rt_sigtimedwait,
    SYS_rt_sigqueueinfo,
    SYS_rt_tgsigqueueinfo,
    SYS_rt_sigsuspend,
    SYS_sigaltstack,
    SYS_statfs,
    SYS_fstatfs,
    SYS_getpriority,
    SYS_setpriority,
    SYS_sched_setparam,
    SYS_sched_getparam,
    SYS_sched_setscheduler,
    SYS_sched_getscheduler,
    SYS_sched_get_priority_max,
    SYS_sched_get_priority_min,
    SYS_sched_rr_get_interval,
    SYS_sched_setaffinity,
    SYS_sched_getaffinity,
    SYS_sched_setattr,
    SYS_sched_getattr,
    SYS_mlock,
    SYS_mlock2,
    SYS_munlock,
    SYS_mlockall,
    SYS_munlockall,
    SYS_prctl,
    SYS_chroot,
    SYS_gettid,
    SYS_readahead,
    SYS_setxattr,
    SYS_lsetxattr,
    SYS_fsetxattr,
    SYS_getxattr,
    SYS_lgetxattr,
    SYS_fgetxattr,
    SYS_listxattr,
    SYS_llistxattr,
    SYS_flistxattr,
    SYS_removexattr,
    SYS_lremovexattr,
    SYS_fremovexattr,
    SYS_futex,
    SYS_set_robust_list,
    SYS_get_robust_list,
    SYS_getdents64,
    SYS_set_tid_address,
    SYS_restart_syscall,
    SYS_fadvise64,
    SYS_timer_create,
    SYS_timer_settime,
    SYS_timer_gettime,
    SYS_timer_getoverrun,
    SYS_timer_delete,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_clock_nanosleep,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_mq_open,
    SYS_mq_unlink,
    SYS_mq_timedsend,
    SYS_mq_timedreceive,
    SYS_mq_notify,
    SYS_mq_getsetattr,
    SYS_ioprio_set,
    SYS_ioprio_get,
    SYS_inotify_init1,
    SYS_inotify_add_watch,
    SYS_inotify_rm_watch,
    SYS_openat,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_newfstatat,
    SYS_unlinkat,
    SYS_renameat,
    SYS_renameat2,
    SYS_linkat,
    SYS_symlinkat,
    SYS_readlinkat,
    SYS_faccessat,
    SYS_pselect6,
    SYS_ppoll,
    SYS_splice,
    SYS_tee,
    SYS_utimensat,
    SYS_signalfd4,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_timerfd_gettime,
    SYS_eventfd2,
    SYS_fallocate,
    SYS_pipe2,
    SYS_preadv,
    SYS_pwritev,
    SYS_preadv2,
    SYS_pwritev2,
    SYS_recvmmsg,
    SYS_sendmmsg,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_getrandom,
    SYS_memfd_create,
    SYS_seccomp,
    SYS_membarrier,
    SYS_copy_file_range,
    SYS_statx,
    SYS_rseq,
    SYS_getcpu,
    SYS_get_mempolicy,
    SYS_set_mempolicy,
    SYS_mbind,
    SYS_pidfd_send_signal,
    SYS_pidfd_open,
    SYS_pidfd_getfd,
    SYS_close_range,
    SYS_openat2,
    SYS_faccessat2,
    SYS_process_madvise,
    SYS_epoll_pwait2,
    SYS_landlock_create_ruleset,
    SYS_landlock_add_rule,
    SYS_landlock_restrict_self,
    SYS_memfd_secret,
    SYS_futex_waitv,
    SYS_pkey_mprotect,
    SYS_pkey_alloc,
    SYS_pkey_free,
    SYS_cachestat,
    SYS_fchmodat2,
    SYS_map_shadow_stack,
    SYS_futex_wake,
    SYS_futex_wait,
    SYS_futex_requeue,
    SYS_mseal,
];

/// Allowed with any arguments: superseded calls that the C library and older programs of x86-64 still use.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[Call] = calls![
    SYS_open,
    SYS_stat,
    SYS_lstat,
    SYS_poll,
    SYS_access,
    SYS_pipe,
    SYS_select,
    SYS_dup2,
    SYS_pause,
    SYS_alarm,
    SYS_fork,
    SYS_vfork,
    SYS_rename,
    SYS_mkdir,
    SYS_rmdir,
    SYS_creat,
    SYS_link,
    SYS_unlink,
    SYS_symlink,
    SYS_readlink,
    SYS_chmod,
    SYS_chown,
    SYS_lchown,
    SYS_getpgrp,
    SYS_utime,
    SYS_mknod,
    SYS_getdents,
    SYS_time,
    SYS_epoll_create,
    SYS_epoll_wait,
    SYS_utimes,
    SYS_inotify_init,
    SYS_futimesat,
    SYS_signalfd,
    SYS_eventfd,
    SYS_arch_prctl,
];

/// Newer architectures never had them.
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[Call] = &[];

/// Allowed with any arguments.
pub(super) fn allowed() -> Vec<Call> {
    [COMMON, LEGACY].concat()
}

/// Those that are the same on every architecture, by name.
#[cfg(test)]
pub(super) fn common() -> impl Iterator<Item = &'static str> {
    COMMON.iter().map(|(name, _)| *name)
}

macro_rules! checked {
    ($(($name:ident, $check:expr)),* $(,)?) => { &[$((stringify!($name), nr($name), $check)),*] };
}

/// Allowed with some arguments, on every architecture.
pub(super) const CHECKED: &[(&str, u32, Check)] = checked![
    (SYS_clone, Check::NoNamespaces),
    (SYS_unshare, Check::NoNamespaces),
    (SYS_socket, Check::SocketFamilies),
    (SYS_socketpair, Check::UnixOnly),
    (SYS_ioctl, Check::NoTerminalInjection),
    (SYS_setsockopt, Check::NoUpperProtocols),
    (SYS_prlimit64, Check::KeepCoreLimitOfAny),
    (SYS_setrlimit, Check::KeepCoreLimit),
    (SYS_personality, Check::DefaultPersonality),
    (SYS_io_setup, Check::Absent),
];

/// A family of sockets that is allowed, with what may be asked for within it.
#[derive(Debug, Clone, Copy)]
pub struct SocketRule {
    /// Its name in `socket(2)`.
    pub name: &'static str,
    /// Its number.
    pub family: u32,
    /// Types, without flags.
    pub types: &'static [u32],
    /// Protocols.
    pub protocols: &'static [u32],
}

const STREAM: u32 = 1;
const DATAGRAM: u32 = 2;
const RAW: u32 = 3;
const SEQUENCED: u32 = 5;

/// Every socket that can be made. Of the internet's protocols only TCP, UDP and pings: some that the kernel loads on
/// demand (SCTP, SMC, L2TP, MPTCP, UDP-Lite) hide behind an ordinary family and type.
pub const SOCKETS: &[SocketRule] = &[
    SocketRule {
        name: "AF_UNIX",
        family: 1,
        types: &[STREAM, DATAGRAM, SEQUENCED],
        protocols: &[0, 1],
    },
    SocketRule {
        name: "AF_INET",
        family: 2,
        types: &[STREAM, DATAGRAM],
        // any, ICMP (pings), TCP, UDP
        protocols: &[0, 1, 6, 17],
    },
    SocketRule {
        name: "AF_INET6",
        family: 10,
        types: &[STREAM, DATAGRAM],
        // any, TCP, UDP, ICMPv6 (pings)
        protocols: &[0, 6, 17, 58],
    },
    SocketRule {
        name: "AF_NETLINK",
        family: 16,
        types: &[DATAGRAM, RAW],
        // NETLINK_ROUTE
        protocols: &[0],
    },
];

// Not listed, and why:
// mount, umount2, fsopen, fsmount, fsconfig, fspick, move_mount, open_tree, mount_setattr, pivot_root, statmount,
//   listmount: the tree of mounts is made by the host; path bugs in container runtimes began here.
// setns, clone3: new namespaces (clone3 hides its flags behind a pointer, so it answers ENOSYS).
// bpf, perf_event_open, userfaultfd, io_uring_*, vmsplice, kcmp, lookup_dcookie: kernel attack surface without a use here.
// io_destroy, io_submit, io_getevents, io_cancel: nothing without a context, and io_setup makes none.
// add_key, request_key, keyctl: keyrings are shared beyond namespaces.
// init_module, finit_module, delete_module, kexec_*, reboot, swapon, swapoff, acct, syslog, iopl, ioperm, modify_ldt,
//   quotactl, quotactl_fd, nfsservctl, sethostname, setdomainname, settimeofday, clock_settime, clock_adjtime, adjtimex,
//   vhangup: administration of the host.
// open_by_handle_at, name_to_handle_at, fanotify_init, fanotify_mark: reach files outside the sandbox's tree.
// migrate_pages, move_pages, set_mempolicy_home_node, process_mrelease: other processes' memory.
