//! Templates over HTTP.

pub(crate) mod access;
pub(crate) mod builds;
pub(crate) mod catalogue;
pub(crate) mod change;
pub(crate) mod look;
pub(crate) mod read;
pub(crate) mod request;
pub(crate) mod start;
pub(crate) mod tag_groups;
pub(crate) mod tags;
pub(crate) mod uploads;
mod user_agent;

pub(crate) use access::{own_namespace, reference};
