//! Reading requests: path, query and body, each with the contract's own errors.
//!
//! axum's extractors answer in plain text and take `null` for "missing"; these answer in JSON and follow the schema.
//! Handlers name the caller first, so that who asks is checked before what is asked.

mod body;
mod path;
mod query;
mod strict;

pub(crate) use body::{Body, JsonBody, OptionalJsonBody};
pub(crate) use path::{PathArg, PathArgs, SandboxArg};
pub(crate) use query::{Query, violation, word};
