//! Request and response bodies of the control plane, exactly as they stand on the wire.
//!
//! Names, required keys and nullability follow the E2B contract to the letter: required keys are always written
//! (the Python client indexes them without asking), optional ones are left out when absent, and only those the
//! contract calls nullable may be `null`. Unknown request fields are ignored.
//! Nothing here knows what a value means; the `api` crate checks and converts.
//!
//! Reading order: [`error`], [`sandbox`], [`network`], [`metrics`], [`logs`], [`template`], [`catalogue`], [`difference`], [`build`], [`tag`],
//! [`team`], [`admin`], [`volume`], [`event`], [`secret`], [`url`], [`contact`].

pub mod admin;
pub mod build;
pub mod catalogue;
pub mod contact;
pub mod difference;
pub mod error;
pub mod event;
pub mod logs;
pub mod metrics;
pub mod network;
pub mod sandbox;
pub mod secret;
pub mod tag;
pub mod team;
pub mod template;
pub mod url;
pub mod volume;

mod present;

pub use error::ErrorBody;
