//! What each command does. One file per group of commands.

pub(crate) mod config;
