//! The claims of the namespace tier, one test each, on the real kernel with the real jail and the real envd.
//!
//! `docs/threat-model.md` names these tests. They need root, the guest programs
//! (`target/guest/<target>/guest/`, override with `SOULBOX_TEST_GUESTS`) and the base template (`.soulbox`, override
//! with `SOULBOX_TEST_BASE`). Where something is missing a test is skipped visibly, and fails with
//! `SOULBOX_TEST_STRICT=1`.
//!
//! Every test has a data directory and an address block of its own and ends by looking whether anything is left.

#[cfg(test)]
#[path = "privileged/support.rs"]
mod support;

#[cfg(test)]
#[path = "privileged/commands.rs"]
mod commands;

#[cfg(test)]
#[path = "privileged/internet.rs"]
mod internet;

#[cfg(test)]
#[path = "privileged/identity.rs"]
mod identity;

#[cfg(test)]
#[path = "privileged/view.rs"]
mod view;

#[cfg(test)]
#[path = "privileged/files.rs"]
mod files;

#[cfg(test)]
#[path = "privileged/syscalls.rs"]
mod syscalls;

#[cfg(test)]
#[path = "privileged/limits.rs"]
mod limits;

#[cfg(test)]
#[path = "privileged/network.rs"]
mod network;

#[cfg(test)]
#[path = "privileged/launches.rs"]
mod launches;

#[cfg(test)]
#[path = "privileged/adoption.rs"]
mod adoption;

#[cfg(test)]
#[path = "privileged/disk.rs"]
mod disk;

#[cfg(test)]
#[path = "privileged/layers.rs"]
mod layers;

#[cfg(test)]
#[path = "privileged/hibernation.rs"]
mod hibernation;
