//! What each command does. One file per group of commands.

pub(crate) mod attach;
pub(crate) mod bench;
pub(crate) mod branch;
pub(crate) mod ca;
pub(crate) mod config;
pub(crate) mod contents;
pub(crate) mod criu;
pub(crate) mod debug;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod exec;
mod file_body;
pub(crate) mod gc;
pub(crate) mod key;
pub(crate) mod pause;
pub(crate) mod purge;
pub(crate) mod sandbox;
pub(crate) mod secret;
pub(crate) mod template;
pub(crate) mod template_build;
pub(crate) mod terminal;
pub(crate) mod tree;
pub(crate) mod url;
pub(crate) mod versions;
pub(crate) mod volume;
pub(crate) mod watch;
pub(crate) mod webhook;
