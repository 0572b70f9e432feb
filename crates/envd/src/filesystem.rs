//! Files for clients: metadata, directories and watches. Contents go over HTTP, in `files`.
//!
//! [`entry`] describes one file, [`list`] a directory, [`watch`] follows changes, [`rpc`] maps to the wire.

mod entry;
mod list;
mod permissions;
mod rpc;
mod watch;

pub(crate) use rpc::FilesystemService;
pub(crate) use watch::Watchers;
