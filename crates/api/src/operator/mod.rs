//! What only the operator asks: nodes, mass actions, keys of any team.

pub(crate) mod admin;
mod host;
pub(crate) mod nodes;

pub(crate) use host::HostReader;
