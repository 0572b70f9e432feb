//! Processes started for clients: the table of them, their streams, and `process.Process`.
//!
//! [`table`] owns the facts, [`start`] makes a process, [`pump`] moves its output, [`input`] its input, [`supervise`]
//! sees it to its end, [`events`] is the stream a client reads, [`rpc`] the mapping to the wire.

mod events;
mod exit_status;
mod input;
mod pump;
mod rpc;
mod start;
mod supervise;
mod table;

pub(crate) use rpc::ProcessService;
pub(crate) use table::Table;
