//! What a sandbox may use. Set by the template, enforced by the kernel, shown inside.

use serde::{Deserialize, Serialize};

/// Resource limits of one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Virtual CPUs; CPU time is capped at this many.
    pub vcpu_count: u32,
    /// Memory of all user processes, in MiB. The wire calls it `memoryMB`; it is MiB there too.
    pub memory_mib: u32,
    /// Processes and threads of the user.
    pub pids: u32,
    /// Size of the root file system in MiB, as reported.
    pub disk_mib: u32,
}

impl Limits {
    /// What a template gets when it asks for nothing: 2 vCPU, 512 MiB, 1024 pids, 10 GiB of disk.
    pub const STANDARD: Self = Self {
        vcpu_count: 2,
        memory_mib: 512,
        pids: 1024,
        disk_mib: 10_240,
    };

    /// Memory in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.memory_mib) * 1024 * 1024
    }
}
