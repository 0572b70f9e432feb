//! The namespace tier: sandboxes made of Linux namespaces, cgroups, an id-mapped overlay and a system call filter.
//!
//! A [`NamespaceDriver`] keeps a few *slots* half-made: a waiting jail process that already stands in its cgroups and
//! namespaces. Creating a sandbox leases one, sends it a launch plan and waits until envd listens.
//!
//! Suggested reading order: [`plan`] (every decision, pure), [`seccomp`], [`cgroup`], `slot`, `driver`, `guest`.

mod adopt;
pub mod cgroup;
mod dial;
pub mod disk;
mod driver;
mod guest;
mod host;
mod jail;
mod layers;
mod lock;
mod memory;
mod oom;
pub mod plan;
mod policies;
mod program;
mod report;
pub mod seccomp;
pub mod shadow;
mod slot;
mod state;
mod undo;
mod view;
mod volumes;

pub use disk::{Backing, BackingChoice, DiskSettings};
pub use driver::{NamespaceDriver, Settings};
pub use host::{Programs, plans_for};
pub use memory::{criu_dir, look_for_criu};

/// Records of sandboxes as bytes, for `soulbox-properties`.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::state::{open_record, seal_record};
}
