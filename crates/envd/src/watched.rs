//! Descriptors that the runtime watches.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor.
///
/// # Errors
/// When the kernel refuses.
#[expect(
    deprecated,
    reason = "its successor is unsafe because a type might change its descriptor while registered; an OwnedFd cannot"
)]
pub(crate) fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}
