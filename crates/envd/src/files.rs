//! Contents of files over HTTP: `GET /files`, `POST /files`, `POST /files/compose`.
//!
//! [`signature`] decides who may, [`encoding`] and [`range`] what is sent, [`content`] sends it; [`upload`] takes bodies
//! apart, [`target`] writes one file, [`metadata`] keeps its attributes.

mod compose;
mod content;
mod content_type;
mod download;
mod encoding;
pub(crate) mod metadata;
mod multipart;
mod query;
mod range;
mod signature;
mod source;
mod target;
mod upload;

pub(crate) use compose::compose;
pub(crate) use download::download;
pub(crate) use upload::upload;
