//! Owns the sandboxes of this node: creates and kills them, ends them in time, measures them, and keeps what is recorded
//! and what runs the same.
//!
//! Each sandbox has one task, its actor, which alone changes it and asks
//! [`soulbox_types::lifecycle::decide`] what to do; everybody else sends it requests or reads what it has published.
//! A server that dies leaves its sandboxes running, and the next one adopts them.
//!
//! Suggested reading order: [`sandboxes`] (what callers use), `actor`, `live`, `expiry`, `reconcile`, `sampler`. What a
//! pause keeps is in `pausing`, what becomes of saved files in `saving` and `branching`.

mod actor;
mod branching;
pub mod clock;
mod end_time;
pub mod error;
mod expiry;
mod hibernation;
mod housekeeping;
mod instruments;
mod journal;
mod live;
mod network;
mod node;
mod pausing;
mod reconcile;
mod sampler;
pub mod sandboxes;
mod saving;
pub mod settings;
mod tokens;
mod transitions;
mod trust;
pub mod view;
pub mod volumes;

pub use actor::Started;
pub use clock::{Clock, SystemClock};
pub use error::SandboxError;
pub use network::NetworkChange;
pub use sandboxes::Sandboxes;
pub use settings::Settings;
pub use view::{NewSandbox, SandboxView};
pub use volumes::{VolumeUpload, Volumes, VolumesError};

pub use soulbox_driver::volumes::{EntryKind, Owned, VolumeEntry};
pub use soulbox_driver::{Moments, VolumeAnswer, VolumeError, VolumeRequest};
