//! Builds templates: steps are run in sandboxes, what they write becomes layers, layers become a template.
//!
//! A build is a request against a template that the store knows. It runs in a task; its log and its end are in the
//! store, where whoever asks finds them. Steps are untrusted code and run like it: in a sandbox of the same isolation,
//! with the limits of the template.
//!
//! Reading order: [`request`], `step` (what steps mean), `key` (when two are the same), `run` (a build from beginning
//! to end), `act` and `script` (how a step is carried out), `stage` (the sandbox it runs in), `builds`.

mod act;
mod builds;
mod journal;
mod key;
pub mod request;
mod run;
mod script;
mod stage;
mod step;
pub mod uploads;

pub use builds::{Builds, OpenBuildsError, StartBuildError};
pub use request::{BuildRequest, Credentials, Runtime, Source, Step};
pub use uploads::{Upload, UploadError, Uploads};
