//! Builds templates: steps are run in sandboxes, what they write becomes layers, layers become a template.
//!
//! A build is a request against a template that the store knows. It runs in a task; its log and its end are in the
//! store, where whoever asks finds them. Steps are untrusted code and run like it: in a sandbox of the same isolation,
//! with the limits of the template.
//!
//! Reading order: [`request`], `step` (what steps mean), `key` (when two are the same), `run` (a build from beginning
//! to end), `act` and `script` (how a step is carried out), `stage` (the sandbox it runs in), `builds`.
//! What is in finished builds is read by [`look`] (and [`export`]), which starts a sandbox of them as well;
//! [`difference`] compares.

mod act;
mod archive;
mod builds;
pub mod difference;
mod dockerfile;
pub mod export;
mod files;
mod hash;
mod image;
mod journal;
mod key;
pub mod look;
pub mod mirrors;
mod oci;
mod place;
pub mod request;
mod run;
mod script;
mod stage;
mod step;
pub mod uploads;

pub use builds::{BuildSettings, Builds, OpenBuildsError, StartBuildError};
pub use difference::{Contents, Difference};
pub use export::Archive;
pub use look::{LookError, Looks};
pub use mirrors::Mirrors;
pub use request::{BuildRequest, Credentials, Recipe, Runtime, Source, Step};
pub use uploads::{Upload, UploadError, Uploads};
