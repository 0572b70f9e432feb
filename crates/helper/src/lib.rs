//! Separation of powers: the process that talks to the network asks, a small privileged process acts.
//!
//! `soulbox serve` is two processes. The *server* speaks HTTP, holds the database, and has no privilege at all. The
//! *helper* runs the driver as root and has one client: the server, over a socket pair that nobody else can reach.
//! What the server can ask for is [`message::Request`]: a typed list without a single path of the host. [`check`] judges every
//! request before it is acted on, as if the server had been taken over.
//!
//! - [`serve`] is the helper's side: it carries requests to a [`soulbox_driver::Driver`].
//! - [`RemoteDriver`] is the server's side: a `Driver` like any other, so nothing above the seam knows of two processes.
//! - [`channel`] carries messages and descriptors.
//!
//! When one of the two ends, so does the other; sandboxes stay, as ever.

pub mod channel;
pub mod check;
pub mod message;
mod remote;
mod serve;

pub use channel::Channel;
pub use message::{Certificate, RecordAct};
pub use remote::RemoteDriver;
pub use serve::{Ending, Operator, serve};
