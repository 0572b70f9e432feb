//! Builds templates: steps are run in sandboxes, what they write becomes layers, layers become a template.
//!
//! A build is a request against a template that the store knows. It runs in a task; its log and its end are in the
//! store, where whoever asks finds them. Steps are untrusted code and run like it: in a sandbox of the same isolation,
//! with the limits of the template.
//!
//! Reading order: [`request`], `step` (what steps mean), `key` (when two are the same), `run` (a build from beginning
//! to end), `state` (what it has reached), `operation` (one thing that is done to it), `act` and `script` (how a step is
//! carried out), `dockerfile`, `stage` (the sandbox it all runs in), `builds`.
//! What is in finished builds is read by [`look`] (and [`export`]), which starts a sandbox of them as well;
//! [`difference`] compares.

mod act;
mod apply_mirrors;
mod archive;
mod builds;
mod cache;
pub mod difference;
mod dockerfile;
pub mod export;
mod failure;
mod files;
mod finalize;
mod garbage;
mod hash;
mod image;
mod journal;
mod key;
pub mod look;
pub mod mirrors;
mod oci;
mod operation;
mod place;
pub mod request;
mod run;
mod script;
mod squash;
mod stage;
mod state;
mod step;
mod template;
pub mod uploads;
mod warm;
mod work;

pub use builds::{BuildSettings, Builds, OpenBuildsError, StartBuildError};
pub use difference::{Contents, Difference};
pub use export::Archive;
pub use garbage::{Garbage, GarbageError};
pub use look::{LookError, Looks};
pub use mirrors::Mirrors;
pub use request::{BuildRequest, Credentials, Recipe, Runtime, Source, Step};
pub use stage::EnvdTokens;
pub use uploads::{Upload, UploadError, Uploads};
