//! Processes started for clients: the table of them, their streams, and `process.Process`.
//!
//! [`table`] owns the facts, [`start`] makes a process, [`pump`] moves its output, [`input`] its input, [`supervise`]
//! sees it to its end, [`events`] is the stream a client reads, [`rpc`] the mapping to the wire. For clients that were cut
//! off, [`ring`] keeps the last output of one process and [`archive`] that of all; [`asked`] is how they ask and
//! [`heard`] what they are given.

mod archive;
mod asked;
mod events;
mod exit_status;
mod heard;
mod input;
mod pump;
mod ring;
mod rpc;
mod start;
mod supervise;
mod table;

pub(crate) use rpc::ProcessService;
pub(crate) use table::Table;
