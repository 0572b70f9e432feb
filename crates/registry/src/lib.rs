//! Fetches images from registries: the pulling half of the OCI distribution specification.
//!
//! Who names an image is not trusted, nor is the registry: addresses of the host's own networks are not connected to
//! unless the operator lists them, every document and layer is compared with its digest, and sizes are limited.
//! Layers are not opened here; that happens inside sandboxes.
//!
//! Reading order: [`reference`], [`document`] (manifests), `network` (who may be connected to), `session` (one
//! repository, with its token), [`Registries`].

mod aws;
mod blobs;
mod challenge;
pub mod document;
mod error;
mod network;
pub mod reference;
mod registries;
mod session;

pub use blobs::{Blob, Blobs};
pub use document::{Digest, Image, ImageConfig};
pub use error::PullError;
pub use network::{Network, PrivateRegistry};
pub use reference::Reference;
pub use registries::{Credentials, Found, Registries};
pub use url::Url;
