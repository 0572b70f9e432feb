//! What envd speaks: its Connect services (generated) and its REST and boot documents.
//!
//! Separate from envd so that clients of it, on the host and in tests, share one definition.
//! No I/O here.

mod rest;

pub use rest::{Boot, ComposeRequest, ErrorBody, FileWritten, InitBody, Metrics, OomReport};

/// The TCP port of envd in every sandbox.
pub const PORT: u16 = 49983;

/// Where the server tells envd of a process that the kernel has killed for lack of memory. Never passes the proxy.
pub const OOM_PATH: &str = "/oom";

/// What envd answers to and the control plane advertises as `envdVersion`.
///
/// SDKs compare it numerically to switch features on; this one has all that 0.6.13 of the wire promises.
pub const ENVD_VERSION: &str = "0.6.13";

/// The generated messages, services and clients.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    let_underscore_drop,
    redundant_imports,
    unused_lifetimes,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    clippy::nursery,
    reason = "generated code"
)]
pub mod proto {
    connectrpc::include_generated!();
}

pub use proto::{filesystem, process};
