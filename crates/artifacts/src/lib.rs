//! Templates on disk: immutable layers, the manifests that name them, and the making of `base`.
//!
//! A data directory holds
//!
//! ```text
//! layers/<digest>/        a layer: a directory that the kernel's overlay takes as a lower dir
//! layers/<digest>.json    its marker: what a cheap check compares on every use
//! templates/<name>.json   a manifest: the layers of a template, checksummed
//! cache/                  downloads that make a second build quick; may be deleted at any time
//! tmp/                    unfinished work; never looked at by anything but its own next attempt, and at the next start
//! ```
//!
//! What must stay true: a manifest appears only after everything it names is complete and on stable storage,
//! and a layer is never changed once its directory has its final name.
//!
//! Suggested reading order: [`digest`], [`tree`], [`manifest`], [`artifacts`], then `recipe`, `host` and `bootstrap`;
//! `layers` and `tree::merge` are how layers are made of sandboxes.

pub mod artifacts;
mod bootstrap;
mod criu;
pub mod digest;
mod durable;
mod error;
mod finish;
mod host;
mod import;
mod layers;
pub mod manifest;
mod progress;
mod recipe;
mod tool;
pub mod tree;

pub use artifacts::{Artifacts, LayerHere};
pub use bootstrap::BootstrapOptions;
pub use digest::{LayerDigest, LayerFacts};
pub use error::ArtifactError;
pub use host::{KEYRINGS, keyring_suites};
pub use layers::RemovedLayer;
pub use manifest::TemplateManifest;
pub use progress::{Phase, Progress};
pub use recipe::Suite;
pub use tree::Written;
