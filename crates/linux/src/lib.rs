//! Safe, blocking wrappers around the kernel interfaces that sandboxes are made of.
//!
//! This is the only crate that may contain `unsafe` code.
//! It knows the kernel and nothing of sandboxes, templates or policy: callers say what, this crate says how.
//! Nothing here is async; the callers are single-threaded programs or blocking threads.
#![expect(unsafe_code, reason = "the one crate that talks to the kernel")]

pub mod capability;
pub mod conntrack;
pub mod exec;
pub mod filesystem;
pub mod heap;
pub mod host;
pub mod landlock;
pub mod link;
pub mod loopdev;
pub mod mount;
pub mod namespace;
pub mod process;
pub mod ptrace;
pub mod pty;
pub mod seccomp;
pub mod socket;
pub mod spawn;
pub mod told;
