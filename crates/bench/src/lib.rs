//! The measurements behind `soulbox bench`.
//!
//! They are made over the wire against a running server, as a client would see it: "created" means that a command
//! has run. A failure is counted, never left out. Nothing is printed here; every measurement becomes a [`Report`].
//!
//! Reading order: [`stats`], [`ratio`], [`report`], [`plot`], then one file per measurement.

pub mod bare;
mod burst;
mod create;
mod edge;
mod exec;
mod files;
mod growth;
pub mod host;
mod idle;
mod interpreter;
mod lifecycle;
mod network;
pub mod peers;
pub mod plot;
pub mod ratio;
pub mod report;
pub mod run;
pub mod stats;
mod sustained;
mod template;
mod trace;
mod transfer;

pub use report::Report;
pub use run::{Bench, BenchError, Options, measure, sweep};
