"""Settings of the kernel that a process could write. Each file is opened for writing, and nothing is written."""

import os

from attack import add, main

PROC = """
sys/kernel/core_pattern sys/kernel/core_pipe_limit sys/kernel/modprobe sys/kernel/sysrq sys/kernel/panic sys/kernel/panic_on_oops
sys/kernel/printk sys/kernel/randomize_va_space sys/kernel/kptr_restrict sys/kernel/dmesg_restrict sys/kernel/unprivileged_bpf_disabled
sys/kernel/perf_event_paranoid sys/kernel/threads-max sys/kernel/pid_max sys/kernel/ns_last_pid sys/kernel/hostname sys/kernel/domainname
sys/kernel/usermodehelper/bset sys/kernel/usermodehelper/inheritable sys/kernel/keys/maxkeys sys/kernel/shmmax sys/kernel/io_uring_disabled
sys/vm/drop_caches sys/vm/overcommit_memory sys/vm/panic_on_oom sys/vm/mmap_min_addr sys/vm/swappiness sys/vm/compact_memory
sys/vm/unprivileged_userfaultfd sys/fs/protected_symlinks sys/fs/protected_hardlinks sys/fs/protected_regular sys/fs/suid_dumpable
sys/fs/file-max sys/fs/nr_open sys/fs/aio-max-nr sys/fs/inotify/max_user_instances sys/fs/binfmt_misc/register
sys/net/ipv4/ip_forward sys/net/ipv4/conf/all/rp_filter sys/net/ipv4/ping_group_range sys/net/ipv4/ip_unprivileged_port_start
sys/net/ipv6/conf/all/disable_ipv6 sys/net/core/bpf_jit_enable sys/net/core/somaxconn sys/user/max_user_namespaces
sysrq-trigger irq/default_smp_affinity mtrr scsi/scsi acpi/wakeup timer_list kcore fs/nfsd/threads bus/pci/devices latency_stats sched_debug
""".split()
SYS = """
kernel/uevent_helper kernel/mm/ksm/run kernel/mm/transparent_hugepage/enabled kernel/vmcoreinfo kernel/profiling kernel/kexec_crash_size
kernel/debug/sched/verbose kernel/tracing/tracing_on kernel/security/lockdown power/state module/kvm/parameters/halt_poll_ns
class/net/lo/mtu block/vda/queue/scheduler fs/selinux/enforce fs/cgroup/memory/release_agent fs/cgroup/memory/cgroup.procs
fs/cgroup/cgroup.procs fs/cgroup/unified/cgroup.procs bus/cpu/drivers_autoprobe devices/system/cpu/cpu1/online
""".split()


def open_for_writing(path):
    os.close(os.open(path, os.O_WRONLY))
    return "opened for writing"


for name in PROC:
    add(f"/proc/{name}", open_for_writing, f"/proc/{name}")
for name in SYS:
    add(f"/sys/{name}", open_for_writing, f"/sys/{name}")
main()
