//! Where CRIU keeps what it has found out about the kernel, from its working directory.

/// What CRIU's variable for its runtime directory names.
pub const RUNTIME: &str = "runtime";
/// The file in it, by CRIU's name.
pub const FILE: &str = "criu.kdat";
/// Where `runtime` leads when there is no file yet: a `tmpfs` of the sandbox.
pub const WRITTEN: &str = "/dev/shm";
/// Where the hook puts the file that was written there.
pub const TAKEN: &str = "probed";
