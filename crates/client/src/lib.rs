//! Typed client of the control plane and of envd, for the command line, the bench, tests, and the parts of the server
//! that run something in a sandbox.
//!
//! Written from the wire, not from the server: it shares only the control plane's body types with it. So it is also
//! a second reading of the contract. Connections are kept and used again; nothing is retried, a caller decides. Except
//! that [`follow`] takes up the stream of a process again.
//!
//! Reading order: [`endpoint`], [`Api`], [`Envd`], [`process`], [`follow`], [`startup`], [`ClientError`].

pub mod analysis;
pub mod api;
mod branches;
mod builds;
pub mod endpoint;
pub mod envd;
mod envelope;
mod error;
mod events;
pub mod follow;
mod http;
pub mod interpreter;
pub mod lines;
pub mod network;
pub mod process;
mod secret;
mod secrets;
pub mod startup;
mod templates;
mod tls;
pub mod versions;
mod volumes;

pub use api::Api;
pub use endpoint::Endpoint;
pub use envd::Envd;
pub use error::{ClientError, Code};
pub use events::EventStream;
pub use interpreter::Interpreter;
pub use secret::Secret;
pub use tls::{Dial, TrustError, system_bundle, trust, trust_also};
